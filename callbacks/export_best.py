"""Keeps the product of the best validation so far."""

from pathlib import Path

import pytorch_lightning as pl


class ExportBest(pl.Callback):
    """Calls `module.export(folder)` whenever the monitored value is the best so far; collective."""

    def __init__(self, monitor: str, mode: str, folder: Path) -> None:
        self.monitor, self.sign, self.folder = monitor, 1 if mode == "max" else -1, folder
        self.best: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The monitored value is the same on every rank, so all ranks decide alike."""
        value = float(trainer.callback_metrics[self.monitor])
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = value
            self.folder.mkdir(parents=True, exist_ok=True)
            module.export(self.folder)
