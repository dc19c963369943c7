"""Stops a run that is going wrong, with a sentence that says why."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.collectives import gather_objects
from lightning_modules.ppo.config import GuardConfig

log = logging.getLogger("llm2er")


class NonFiniteError(RuntimeError):
    """A loss was not finite; the weights are those before the update."""


class StopOnNonFinite(pl.Callback):
    """Raises on every rank, before the backward pass, when the loss of any rank is not finite."""

    def __init__(self) -> None:
        self._records: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Remembers whose loss comes next."""
        self._records = batch.record_B.tolist()  # type: ignore[attr-defined]

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """One small exchange a step, so that no rank waits in a collective for one that stopped."""
        bad = [] if bool(torch.isfinite(loss)) else self._records
        everywhere = sorted(record for records in gather_objects(bad) for record in records)
        if everywhere:
            shown = ", ".join(map(str, everywhere[:20])) + (" ..." if len(everywhere) > 20 else "")
            raise NonFiniteError(
                f"the loss is not finite at step {trainer.global_step} (records {shown}); nothing was updated. "
                "Lower the learning rate, or use hardware.precision=fp32"
            )


class PPOGuards(pl.Callback):
    """Ends PPO when KL, diversity or ending of the rollouts leave their bounds; the best policy so far is kept."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._first_distinct: float | None = None
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """What later rollouts are compared with."""
        return {"first_distinct": self._first_distinct}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._first_distinct = state["first_distinct"]

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Looks at the figures of the last rollout, which are the same on every rank."""
        kl, distinct, ended = (float(trainer.callback_metrics[f"ppo/{n}"]) for n in ("kl", "distinct_1", "end_rate"))
        if self._first_distinct is None:
            self._first_distinct = distinct
        floor = self._first_distinct * (1 - self.config.max_distinct_1_drop)
        if not kl <= self.config.max_kl:  # not a number is no KL to go on with either
            self.reason = f"KL to the reference is {kl:.2f}, above ppo.guards.max_kl={self.config.max_kl}"
        elif distinct < floor:
            self.reason = (
                f"Distinct-1 of the rollouts fell from {self._first_distinct:.2f} to {distinct:.2f}, more than "
                f"ppo.guards.max_distinct_1_drop={self.config.max_distinct_1_drop}: the policy is collapsing"
            )
        elif ended < self.config.min_end_rate:
            self.reason = (
                f"only {ended:.0%} of the rollouts end, below ppo.guards.min_end_rate={self.config.min_end_rate}"
            )
        if self.reason:
            log.warning(
                "PPO stops at iteration %d: %s. The best policy so far is kept.", trainer.current_epoch, self.reason
            )
            trainer.should_stop = True
