"""Ends a job in which a rank hangs, and says where every rank was."""

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytorch_lightning as pl

from lightning_modules.collectives import world

log = logging.getLogger("llm2er")

GRACE = 5.0  # seconds between the first rank's report and its end, in which the others report too


class Watchdog(pl.Callback):
    """Watches one rank while it trains or explains: no batch for `limit` seconds and the process ends with its stacks.

    When one rank hangs the others wait for it in a collective, so all of them report within a step's time. The report
    goes to stderr and to `hang-rank-00000.txt` in the stage's folder. A rank that hangs holding Python's global lock
    cannot report; `faulthandler`, which needs no lock, then prints its stack.
    """

    def __init__(self, stage: str, limit: float, folder: Path) -> None:
        self.stage, self.limit, self.folder = stage, limit, folder
        self._phase, self._step, self._last = "start", 0, time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _mark(self, trainer: pl.Trainer, phase: str) -> None:
        self._phase, self._step, self._last = phase, trainer.global_step, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begins to watch."""
        self._begin(trainer, "start of training")

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begins to watch."""
        self._begin(trainer, "start of generation")

    def _begin(self, trainer: pl.Trainer, phase: str) -> None:
        self._mark(trainer, phase)
        if self.limit > 0:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The next batch is fetched; in PPO that is a rollout."""
        self._mark(trainer, "the first batch of an epoch, or the checkpoint before it")

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """A training step."""
        self._mark(trainer, "training step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        """What comes between two training steps."""
        self._mark(trainer, "after a training step: the next batch, or a checkpoint")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int, loader: int = 0
    ) -> None:
        """A validation step."""
        self._mark(trainer, "validation step")

    def on_predict_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int, loader: int = 0
    ) -> None:
        """Explanations of a batch of records."""
        self._mark(trainer, "generation")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Exports and samples."""
        self._mark(trainer, "after validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Held-out evaluation and checkpoints."""
        self._mark(trainer, "end of an epoch")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Ends the watch. After an exception Lightning does not come here: what cleans up is watched, too."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        tick = min(1.0, self.limit / 10)
        while not self._stop.wait(tick):
            faulthandler.dump_traceback_later(self.limit + 2 * GRACE, exit=True)  # if this thread cannot run any more
            if time.monotonic() - self._last > self.limit:
                self._report()
                time.sleep(GRACE)
                os._exit(1)

    def _report(self) -> None:
        rank, ranks = world()
        told = (
            f"rank {rank} of {ranks} on {socket.gethostname()} has made no progress for {self.limit:g} s "
            f"(hardware.hang_timeout) in {self.stage}, step {self._step}: {self._phase}\n"
        )
        sys.stderr.write(told)
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)
        try:
            with (self.folder / f"hang-rank-{rank:05d}.txt").open("w", encoding="utf-8") as file:
                file.write(told)
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            sys.stderr.write(f"{error}\n")
