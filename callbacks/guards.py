"""Stops a run that is going wrong, with a sentence that says why."""

import logging
import math
import statistics
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.collectives import gather_objects, gradients, sum_over_ranks
from lightning_modules.ppo.config import GuardConfig

log = logging.getLogger("llm2er")


MEMORY = 50  # steps that a spike is measured against


class HarmfulUpdateError(RuntimeError):
    """An update was about to do harm; the weights are those before it."""


class StopOnNonFinite(pl.Callback):
    """Raises on every rank, before the update, when a loss or a gradient of any rank is not finite.

    With `spike` above 0 also when the loss over all ranks is more than that many times the median of the last steps'.
    A loss without a scale, such as PPO's, which passes zero, gives no such measure: `of_gradient` takes the gradient's
    norm, before clipping, in its place.
    """

    def __init__(self, spike: float = 0.0, of_gradient: bool = False) -> None:
        self.spike, self.of_gradient = spike, of_gradient
        self._records: list[int] = []
        self._recent: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Remembers whose loss comes next."""
        self._records = batch.record_B.tolist()  # type: ignore[attr-defined]

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """One small exchange a step, so that no rank waits in a collective for one that stopped."""
        parts = gather_objects((float(loss.detach()), self._records))
        bad = [records for value, records in parts if not math.isfinite(value)]
        if bad:
            self._stop(trainer, "the loss is not finite", bad)
        mean = sum(value for value, _ in parts) / len(parts)
        if not self.of_gradient and (told := self._spike("the loss", mean)):
            self._stop(trainer, told, [records for _, records in parts])

    def _spike(self, name: str, value: float) -> str:
        """What there is to say of a value that is the same on every rank, or ""; remembers it."""
        if self.spike == 0:
            return ""
        usual = statistics.median(self._recent) if len(self._recent) >= MEMORY // 5 else 0.0
        if usual > 0 and value > self.spike * usual:
            return f"{name} is {value:.4g}, more than loss_spike={self.spike:g} times the usual {usual:.4g}"
        self._recent = [*self._recent, value][-MEMORY:]
        return ""

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: object) -> None:
        """A finite loss may have gradients that are not: of a root at 0, or of a sum over ranks that overflows."""
        parts = list(gradients(trainer.strategy.model.optimizer))
        # The largest of all: to ask for each one would wait for the GPU hundreds of times a step.
        bad = ~torch.isfinite(torch.nn.utils.get_total_norm(parts, math.inf))
        if float(sum_over_ranks(bad.float().to(module.device))) > 0:
            self._stop(trainer, "a gradient is not finite", gather_objects(self._records))
        whole_step = self.of_gradient and trainer.strategy.model.is_gradient_accumulation_boundary()
        if self.spike > 0 and whole_step and (told := self._spike("the gradient's norm", _norm(parts, module.device))):
            self._stop(trainer, told, gather_objects(self._records))

    def _stop(self, trainer: pl.Trainer, what: str, records_by_rank: list[list[int]]) -> None:
        everywhere = sorted(record for records in records_by_rank for record in records)
        shown = ", ".join(map(str, everywhere[:20])) + (" ..." if len(everywhere) > 20 else "")
        raise HarmfulUpdateError(
            f"{what} at step {trainer.global_step} (records {shown}); nothing was updated. "
            "Lower the learning rate, or use hardware.precision=fp32"
        )

    def state_dict(self) -> dict[str, Any]:
        """What later steps are compared with."""
        return {"recent": self._recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._recent = state["recent"]


def _norm(parts: list[Tensor], device: torch.device) -> float:
    """The norm over all ranks of what each holds a part of. Where each holds the whole it is larger by one factor."""
    norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
    squares = sum((norm.square() for norm in norms), torch.zeros((), dtype=torch.float64, device=device))
    return float(sum_over_ranks(squares).sqrt())


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
