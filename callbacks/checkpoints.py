"""Saves the whole state of a stage so that a run killed at any instant goes on with the same losses.

A save writes to `step-N.COPY.partial`, waits for all ranks, writes sizes and checksums to a manifest, and renames: a
folder named `step-N` is whole, or the disk is lying. Older ones are removed after the rename. COPY tells apart two
copies of a job: one that a network cut had stopped never writes among the other's files when it wakes up.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from callbacks.checkpoint_folder import (
    PARTIAL,
    Manifest,
    damaged,
    digest,
    files_of,
    final_name,
    prune,
    publish,
    read_manifest,
    step_name,
)
from callbacks.durable import link_tree, sync, sync_tree
from callbacks.export_best import ExportBest
from callbacks.random_state import read_random_state, write_random_state
from callbacks.requests import Interrupted, LockLostError, Requests, Wish, stop_if_taken
from datamodules.batches import PlanSampler
from lightning_modules.collectives import barrier, gather_objects, world
from lightning_modules.saved_state import lacking
from metrics.errors import InputError

log = logging.getLogger("llm2er")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state of a stage is saved."""

    every_minutes: float = field(default=10.0, metadata={"help": "minutes between checkpoints; 0: by steps alone"})
    every_n_steps: int = field(
        default=0, metadata={"help": "optimizer steps between checkpoints (PPO: at the next rollout); 0: by time alone"}
    )
    keep: int = field(default=2, metadata={"help": "newest checkpoints that are kept"})
    keep_best: bool = field(default=False, metadata={"help": "also save and keep the state of the best validation"})
    on_failure: str = field(default="stop", metadata={"help": "stop or go_on when a checkpoint cannot be written"})
    first: bool = field(default=True, metadata={"help": "save and read back once before the first step"})

    def __post_init__(self) -> None:
        if self.every_minutes < 0 or self.every_n_steps < 0:
            raise InputError("checkpoint.every_minutes and checkpoint.every_n_steps must not be negative")
        if self.keep < 1:
            raise InputError(f"checkpoint.keep={self.keep}: must be at least 1")
        if self.on_failure not in ("stop", "go_on"):
            raise InputError(f"checkpoint.on_failure={self.on_failure}: use stop or go_on")


@dataclass(frozen=True)
class Place:
    """Where a stage's state and product are, and what its manifests say of it."""

    stage: str
    folder: Path  # .../checkpoints
    export: Path  # the best product so far: part of the state
    log_file: Path  # metrics.csv
    config: dict[str, Any]
    versions: dict[str, str]
    wandb_id: str
    copy: str  # a word that tells this start of the run from all others, the same on every rank
    taken_by: Callable[[], str]  # on rank 0: who has taken the run folder over, or ""


class Checkpoints(Checkpoint):
    """Saves at step boundaries; restores random states and the place in the epoch; ends the run when asked to.

    With `whole_epochs` (PPO) it saves between epochs alone. Lightning runs it after all other callbacks.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        place: Place,
        requests: Requests,
        resumed: tuple[Path, Manifest] | None,
        whole_epochs: bool = False,
    ) -> None:
        self.config, self.place, self.requests, self.resumed = config, place, requests, resumed
        self.whole_epochs = whole_epochs
        self._saved_step = resumed[1].step if resumed else -1
        self._tried_step = max(self._saved_step, 0)
        self._saved_at = time.monotonic()
        self._seen_step = self._saved_step
        self._pending = Wish()
        self._best_saved: float | None = None
        self.stall, self.count = 0.0, 0  # seconds spent in saves, and how many there were

    # ---- when

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restores what only this callback knows; or, at the very start, tries the disk."""
        if self.resumed:
            path, manifest = self.resumed
            _seek(trainer, manifest.epoch, manifest.micro_step)
            if manifest.universal:
                torch.manual_seed(torch.initial_seed() + manifest.step)  # other ranks than those that saved
            else:
                read_random_state(path, world()[0])
            return
        if self.config.first:
            path = self.save(trainer)
            if path is not None:
                _read_back(trainer, path)
                self._warn_of_space(path)

    def _warn_of_space(self, path: Path) -> None:
        size = sum(digested for digested, _ in read_manifest(path).files.values())
        free, count = shutil.disk_usage(path).free, self.config.keep + self.config.keep_best
        # One more than are kept is there for a moment, and the first one is there now.
        if world()[0] == 0 and free < size * count:
            log.warning(
                "%s: %s are free, and checkpoints of %s need up to %s more; lower checkpoint.keep",
                *(path.parent, _bytes(free), _bytes(size), _bytes(size * count)),
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        """After each optimizer step: what do all ranks want?"""
        if trainer.global_step == self._seen_step:
            return  # within an accumulation
        self._seen_step = trainer.global_step
        wish = self.requests.agree(self._due(trainer), module.device)
        if self.whole_epochs or trainer.is_last_batch:
            # What belongs to the end of an epoch (validation, logs) comes first; then the state is saved.
            self._pending = wish if wish.save else self._pending
            return
        self._fulfil(trainer, wish)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Between two epochs, where a wish of the last one is fulfilled."""
        self._fulfil(trainer, self._pending)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A run that is to end now must not lose the last epoch, nor one that keeps the best if it was the best."""
        if self._pending.stop or self.config.keep_best:
            self._fulfil(trainer, self._pending)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Notes where it happened."""
        self.requests.place = f"{self.place.stage} step {trainer.global_step}"

    def _due(self, trainer: pl.Trainer) -> bool:
        minutes, steps = self.config.every_minutes, self.config.every_n_steps
        by_time = minutes > 0 and world()[0] == 0 and time.monotonic() - self._saved_at >= 60 * minutes
        return by_time or (steps > 0 and trainer.global_step - self._tried_step >= steps)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """With `keep_best` a new best product is saved with its state."""
        best = next((callback.best for callback in trainer.callbacks if isinstance(callback, ExportBest)), None)
        if self.config.keep_best and best is not None and best != self._best_saved:
            self._best_saved = best
            self._pending = Wish(True, self._pending.stop, self._pending.requeue, self._pending.reason)

    def _fulfil(self, trainer: pl.Trainer, wish: Wish) -> None:
        self._pending = Wish()
        path = self.save(trainer) if wish.save else None
        if path and wish.reason and not wish.stop:
            log.info("%s: saved as %s asks, in %s", self.place.stage, wish.reason, path)
        if wish.stop:
            step = f"{self.place.stage} step {trainer.global_step}"
            raise Interrupted(f"{step}: stopped by {wish.reason}; the same command goes on from here", wish.requeue)

    # ---- what

    def save(self, trainer: pl.Trainer) -> Path | None:
        """Saves everything; collective. Returns the checkpoint, or None if the disk refused it."""
        step = trainer.global_step
        if step == self._saved_step:
            return self.place.folder / step_name(step)
        began, self._tried_step = time.monotonic(), step
        partial = self.place.folder / f"{step_name(step)}.{self.place.copy}{PARTIAL}"
        self._stop_if_taken(partial)
        for logger in trainer.loggers:
            logger.save()
        told = self._write(trainer, partial)
        self._stop_if_taken(partial)
        if told:
            self._refused(told, partial)
            return None
        path = None
        if world()[0] == 0:
            path = publish(partial)
            prune(self.place.folder, self.config.keep, self.config.keep_best)
        barrier()
        self._saved_step, self._saved_at = step, time.monotonic()
        self.stall, self.count = self.stall + self._saved_at - began, self.count + 1
        return path or self.place.folder / step_name(step)

    def _stop_if_taken(self, partial: Path) -> None:
        """Nothing but our own staging folder may be touched when another copy owns the run folder."""
        try:
            stop_if_taken(self.place.taken_by)
        except LockLostError:
            if world()[0] == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write(self, trainer: pl.Trainer, partial: Path) -> str:
        """Fills the staging folder on all ranks; returns what went wrong on any of them."""
        rank = world()[0]
        told = _told(lambda: self._prepare(partial)) if rank == 0 else ""
        if told := _first(told):
            return told
        trainer.save_checkpoint(partial)
        failure = trainer.strategy.write_failure  # type: ignore[attr-defined]
        told = failure or _told(lambda: write_random_state(partial, rank))
        if told := _first(told):
            return told
        records: dict[str, tuple[int, str]] = {}

        def hash_share() -> None:
            for name in files_of(partial)[rank :: world()[1]]:
                records[name] = digest(partial / name)

        if told := _first(_told(hash_share)):
            return told
        files = {name: record for part in gather_objects(records) for name, record in part.items()}
        return _first(_told(lambda: self._seal(trainer, partial, files)) if rank == 0 else "")

    def _prepare(self, partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if self.place.export.is_dir():
            link_tree(self.place.export, partial / "export")
            sync_tree(partial / "export")

    def _seal(self, trainer: pl.Trainer, partial: Path, files: dict[str, tuple[int, str]]) -> None:
        for folder in {(partial / name).parent for name in files}:
            sync(folder)
        epoch, micro_step = _position(trainer)
        best = next((callback for callback in trainer.callbacks if isinstance(callback, ExportBest)), None)
        Manifest(
            stage=self.place.stage,
            step=trainer.global_step,
            epoch=epoch,
            micro_step=micro_step,
            ranks=world()[1],
            config=self.place.config,
            versions=self.place.versions,
            files=files,
            best=best is not None and best.fresh,
            log_rows=_rows(self.place.log_file),
            wandb_id=self.place.wandb_id,
        ).write(partial)

    def _refused(self, told: str, partial: Path) -> None:
        if world()[0] == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self._saved_at = time.monotonic()
        message = f"{final_name(partial)} could not be saved in {partial.parent}: {told}"
        if self.config.on_failure == "stop":
            raise InputError(f"{message}; free some space and run the same command again, which goes on")
        log.warning("%s; the run goes on, older checkpoints stand, the next is tried when it is due", message)

    # ---- what Lightning forgets

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds whether training was over: without it a run that had stopped early would train one more epoch.

        And the figures of the step that is being saved: Lightning logs them after it, in this start alone.
        """
        checkpoint["over"] = bool(trainer.should_stop)
        checkpoint["unlogged"] = _unlogged(trainer)
        # Between two epochs Lightning has counted the next one as begun, and would skip its batches at a restart.
        for part in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            if part["started"] == part["processed"]:
                part["ready"] = part["started"]

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that lacks the state of any part; Lightning would go on with that part's defaults."""
        with_state = {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())}
        absent = sorted({"over", "unlogged", "loops", "lr_schedulers"} - checkpoint.keys())
        absent += lacking(with_state, checkpoint.get("callbacks"), "callbacks")
        if absent:
            where = self.resumed[0] if self.resumed else self.place.folder
            raise InputError(f"{where}: lacks the state of {', '.join(absent)}; resume from another checkpoint")
        trainer.should_stop = checkpoint["over"]
        if figures := checkpoint["unlogged"]:
            for logger in trainer.loggers:
                logger.log_metrics(figures["metrics"], figures["step"])


def _position(trainer: pl.Trainer) -> tuple[int, int]:
    """(epoch, micro-batches of it that are done)."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if trainer.fit_loop.epoch_progress.current.started == trainer.fit_loop.epoch_progress.current.processed:
        return trainer.current_epoch, 0
    return trainer.current_epoch, progress.current.processed


def _unlogged(trainer: pl.Trainer) -> dict[str, Any]:
    """The row of curves of a step whose last micro-batch has just ended; {} between epochs, where all are written."""
    loop = trainer.fit_loop.epoch_loop
    if _position(trainer)[1] == 0 or loop.batch_progress.current.completed == loop.batch_progress.current.processed:
        return {}
    metrics = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
    return {"step": loop._batches_that_stepped, "metrics": metrics | {"epoch": trainer.current_epoch}}


def _seek(trainer: pl.Trainer, epoch: int, micro_step: int) -> None:
    """Makes the training loader go on at a batch.

    Lightning made its iterator before the checkpoint was read (Lightning#21938): with workers it would prefetch the
    beginning of epoch 0.
    """
    loop = trainer.fit_loop
    for loader in loop._combined_loader.flattened:
        if isinstance(loader.sampler, PlanSampler):
            loader.sampler.seek(epoch, micro_step)
    iter(loop._data_fetcher)


def _read_back(trainer: pl.Trainer, path: Path) -> None:
    """Reads the first checkpoint as a resume would, so that a broken disk is known before the first step."""
    rank, ranks = world()
    files = {name: digest(path / name) for name in files_of(path)[rank::ranks]}
    manifest = read_manifest(path)
    bad = [name for part in gather_objects(damaged(path, manifest, files)) for name in part]
    if bad:
        raise InputError(f"{path / bad[0]}: does not read back as it was written; check the disk")
    trainer.strategy.read_shards(path)  # type: ignore[attr-defined]


def _rows(path: Path) -> int:
    """Rows of a CSV file below its header."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return max(sum(1 for _ in file) - 1, 0)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _told(action: Callable[[], None]) -> str:
    """What an action on the disk complains of, or ""."""
    try:
        action()
    except OSError as error:
        return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
    return ""


def _first(told: str) -> str:
    """The first complaint of any rank; collective."""
    return next((words for words in gather_objects(told) if words), "")
