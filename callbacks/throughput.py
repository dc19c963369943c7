"""Records a second over all ranks, how far a stage is, and the time that is left."""

import logging
import sys
import time

import pytorch_lightning as pl

from lightning_modules.progress import Progress, count_of, duration

log = logging.getLogger("llm2er")


class Throughput(pl.Callback):
    """Logs `<stage>/records_per_second` an epoch.

    Where there is no terminal for a bar, prints a line an epoch, and one every half minute within a long epoch.
    """

    def __init__(self, stage: str, records_a_batch: float) -> None:
        self.stage, self.records = stage, records_a_batch  # of a micro-batch, over all ranks
        self._begin = self._epoch_begin = self._said = 0.0
        self._first_epoch = self._batches = 0
        self._progress = Progress(stage, 0)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Starts the clocks; a run that goes on may be within an epoch."""
        self._begin = self._epoch_begin = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Starts the epoch's clock."""
        self._epoch_begin = time.monotonic()
        epoch = f"{self.stage}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        self._progress = Progress(epoch, self.records * trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        """Counts."""
        self._batches += 1
        if not sys.stderr.isatty():
            self._progress.advance(self.records)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Logs the rate and, at most every five seconds, says how far it is."""
        now = time.monotonic()
        rate = self.records * self._batches / max(now - self._epoch_begin, 1e-9)
        self._batches = 0
        module.log(f"{self.stage}/records_per_second", rate, rank_zero_only=True)
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 1
        if not sys.stderr.isatty() and (now - self._said > 5 or done == total):
            self._said = now
            left = (now - self._begin) / (done - self._first_epoch) * (total - done)
            log.info(
                "%s: epoch %d of %d, %s records a second, at most %s left",
                *(self.stage, done, total, count_of(rate), duration(left)),
            )


class Explained(pl.Callback):
    """Says every half minute how many records are explained."""

    def __init__(self, stage: str, records: int, records_a_batch: int) -> None:
        self._progress, self.records = Progress(f"{stage}: explaining", records), records_a_batch  # over all ranks

    def on_predict_batch_end(self, *args: object, **kwargs: object) -> None:
        """Counts."""
        self._progress.advance(self.records)
