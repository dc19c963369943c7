"""What a rollout holds and how it becomes mini-batches.

B samples over *all* ranks, M samples of one rank's micro-batch, T response tokens. A rollout is gathered, so that
statistics, whitening and mini-batches are computed from the same whole on every rank and do not depend on their number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.batches import BatchPlan
from datamodules.prompts import ROWS_A_PART, PromptBatch


@dataclass
class Rollout:
    """Sampled responses and what was measured of them when they were sampled."""

    record_B: Tensor
    response_BT: Tensor
    mask_BT: Tensor
    log_prob_BT: Tensor
    ref_log_prob_BT: Tensor
    value_BT: Tensor  # zeros where there is no value head
    ended_B: Tensor  # 1 where the end token was reached
    kl_coef: float = 0.0  # weight of the KL to the reference in this iteration
    rewards: dict[str, Tensor] = field(default_factory=dict)  # raw, by name: ccr [B], hqar [B], hqar_token [B, T]

    def __len__(self) -> int:
        return len(self.record_B)


@dataclass
class MiniBatch:
    """One rank's part of one PPO update."""

    prompts: PromptBatch  # with the sampled responses
    old_log_prob_MT: Tensor
    ref_log_prob_MT: Tensor
    old_value_MT: Tensor
    advantage_MT: Tensor
    return_MT: Tensor
    tokens: Tensor  # response tokens in the whole optimizer step
    kl_coef: float
    first: bool  # the first update after a rollout, where the policy is still the one that sampled

    @property
    def record_B(self) -> Tensor:
        """Record ids, for messages."""
        return self.prompts.record_B


def mini_batches(
    rollout: Rollout,
    advantage_BT: Tensor,
    return_BT: Tensor,
    plan: BatchPlan,
    epochs: int,
    rank: int,
    prompts: Callable[[Tensor, Tensor, Tensor], PromptBatch],
) -> Iterator[MiniBatch]:
    """Yields this rank's parts of `epochs` shuffled passes over a rollout.

    `prompts` rebuilds the prompts of records [M] with their responses [M, T] and masks.
    """
    for epoch in range(epochs):
        for step in range(plan.micro_steps):
            draw = plan.draw(epoch, step, rank)
            rows_M = torch.from_numpy(draw.rows_B)
            weight_M1 = torch.from_numpy(draw.weight_B)[:, None].long()
            batch = prompts(rollout.record_B[rows_M], rollout.response_BT[rows_M], rollout.mask_BT[rows_M] * weight_M1)
            batch.scale = float(plan.world * plan.accumulate)
            batch.parts = max(1, draw.least // ROWS_A_PART)
            yield MiniBatch(
                batch,
                rollout.log_prob_BT[rows_M],
                rollout.ref_log_prob_BT[rows_M],
                rollout.value_BT[rows_M],
                advantage_BT[rows_M],
                return_BT[rows_M],
                rollout.mask_BT[torch.from_numpy(draw.step_rows)].sum(),
                rollout.kl_coef,
                first=epoch == 0 and step < plan.accumulate,
            )


class RolloutStream(IterableDataset):
    """Each pass samples one rollout from the current policy and yields its mini-batches.

    It has a length, from which Lightning knows the steps of a pass: without one the schedule of the learning rate would
    span none.
    """

    def __init__(self, length: int, sample: Callable[[], Iterator[MiniBatch]]) -> None:
        self.length, self.sample = length, sample

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[MiniBatch]:
        return self.sample()
