"""Keeps the product of the best validation so far."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors import SafetensorError

from callbacks.durable import swap_folder
from callbacks.requests import stop_if_taken
from lightning_modules.collectives import barrier, gather_objects, world
from metrics.errors import InputError


def export(module: pl.LightningModule, folder: Path, taken_by: Callable[[], str]) -> None:
    """Writes a module's product in the place of an older one, whole or not at all; collective.

    `taken_by`: who else owns the run folder now, or ""; raises `LockLostError` then, and touches nothing.
    """
    stop_if_taken(taken_by)
    partial = folder.with_name(f"{folder.name}.partial")
    if world()[0] == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    told = ""
    try:
        module.export(partial)  # type: ignore[operator]
        if world()[0] == 0:  # which alone writes
            swap_folder(partial, folder)
    except (OSError, SafetensorError) as error:
        told = str(error)
    if told := next((words for words in gather_objects(told) if words), ""):
        raise InputError(f"{folder} could not be written: {told}; free some space and run the same command again")


class ExportBest(pl.Callback):
    """Exports whenever the monitored value is the best so far; collective."""

    def __init__(self, monitor: str, mode: str, folder: Path, taken_by: Callable[[], str]) -> None:
        self.monitor, self.sign, self.folder = monitor, 1 if mode == "max" else -1, folder
        self.taken_by = taken_by
        self.best: float | None = None
        self.fresh = False  # the last validation was the best

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The monitored value is the same on every rank, so all ranks decide alike."""
        value = float(trainer.callback_metrics[self.monitor])
        self.fresh = self.best is None or self.sign * value > self.sign * self.best
        if self.fresh:
            self.best = value
            export(module, self.folder, self.taken_by)

    def state_dict(self) -> dict[str, Any]:
        """The best value; its product is part of the checkpoint."""
        return {"best": self.best, "fresh": self.fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.best, self.fresh = state["best"], state["fresh"]
