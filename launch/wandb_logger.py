"""W&B as a guest of a run: what goes wrong with it is told once, and ends nothing."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning_fabric.loggers.logger import _DummyExperiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger("llm2er")


class GuestWandbLogger(WandbLogger):
    """A W&B run; after its first error nothing more is sent, and `metrics.csv` alone has the curves."""

    _given_up = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, begun on first use; something that takes everything and does nothing once W&B has failed."""
        self._attempt(lambda: super(GuestWandbLogger, self).experiment)
        return _DummyExperiment() if self._given_up else self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends a row of curves."""
        self._attempt(lambda: super(GuestWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Sends settings."""
        self._attempt(lambda: super(GuestWandbLogger, self).log_hyperparams(params))

    @rank_zero_only
    def close(self) -> None:
        """Sends what has not been sent, and ends the run."""
        self._attempt(lambda: self.experiment.finish())

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._given_up:
            return
        try:
            action()
        except Exception as error:  # of whatever kind: training is worth more than its picture
            self._given_up = True
            told = " ".join(str(error).split())
            log.warning("W&B failed (%s: %s); the run goes on without it, see metrics.csv", type(error).__name__, told)
