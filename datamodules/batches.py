"""How records are dealt to ranks and micro-batches, such that a loss does not depend on their number.

An optimizer step sees one global batch of records. It is cut into `accumulate` micro-batches, and each of those into
one part a rank. Every part carries `scale`, by which a *sum* over its records must be multiplied so that averaging over
ranks and micro-batches, as data parallel engines do, gives the mean over the global batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from metrics.errors import InputError


@dataclass(frozen=True)
class Draw:
    """One rank's part of one micro-batch."""

    rows_B: np.ndarray  # positions in the data set; never empty: a rank without a share repeats a row of the batch
    weight_B: np.ndarray  # float32: 1, or 0 for a repeated row
    step_rows: np.ndarray  # the whole global batch of this optimizer step, the same on every rank
    micro_rows: np.ndarray  # the whole micro-batch over all ranks, the same on every rank
    least: int  # rows of the rank that has the fewest, the same on every rank
    scale: float  # ranks * micro-batches / records in the global batch


@dataclass(frozen=True)
class BatchPlan:
    """Deals `n` rows in global batches of `batch_size`; a pure function of epoch and step, so it can start anywhere."""

    n: int
    batch_size: int
    world: int = 1
    accumulate: int = 1
    seed: int = 0
    shuffle: bool = True
    key: str = "batch_size"  # the config key behind `batch_size`, for messages

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError("there is no record to train on; check the splits of the corpus")
        parts = self.world * self.accumulate
        if self.batch_size % parts:
            fits = sorted({max(parts, self.batch_size // parts * parts), -(-self.batch_size // parts) * parts})
            raise InputError(
                f"{self.key}={self.batch_size} cannot be split evenly over {self.world} ranks and "
                f"accumulate={self.accumulate}; use {' or '.join(map(str, fits))}"
            )

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps in an epoch; the last global batch may be smaller."""
        return -(-self.n // self.batch_size)

    @property
    def micro_steps(self) -> int:
        """Micro-batches a rank sees in an epoch."""
        return self.optimizer_steps * self.accumulate

    def order(self, epoch: int) -> np.ndarray:
        """The rows in the order of an epoch, the same on every rank."""
        if not self.shuffle:
            return np.arange(self.n)
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.n)

    def draw(self, epoch: int, micro_step: int, rank: int) -> Draw:
        """The part of `rank` in micro-batch `micro_step` of `epoch`."""
        step, micro = divmod(micro_step, self.accumulate)
        step_rows = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        micro_rows = np.array_split(step_rows, self.accumulate)[micro]
        rows = np.array_split(micro_rows, self.world)[rank]
        weight = np.ones(max(len(rows), 1), dtype=np.float32)
        if len(rows) == 0:
            rows, weight = step_rows[:1], np.zeros(1, dtype=np.float32)
        least = max(len(micro_rows) // self.world, 1)
        return Draw(rows, weight, step_rows, micro_rows, least, self.world * self.accumulate / len(step_rows))


class PlanSampler(Sampler):
    """Yields (epoch, micro step) for a data set whose items are whole batches; can start within an epoch."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan, self.epoch, self._start = plan, 0, 0

    def __len__(self) -> int:
        return self.plan.micro_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Begins when the first index is asked for: with workers DataLoader makes two iterators and uses the second.
        epoch, start, self._start = self.epoch, self._start, 0
        for step in range(start, self.plan.micro_steps):
            yield epoch, step

    def seek(self, epoch: int, micro_step: int) -> None:
        """The next pass begins at this place; later ones at the beginning of their epoch."""
        self.epoch, self._start = epoch, micro_step

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch


class PlannedBatches(Dataset):
    """A data set whose items are one rank's batches: item (epoch, micro step) is `build(draw)`."""

    def __init__(self, plan: BatchPlan, rank: int, build: Callable[[Draw], Any]) -> None:
        self.plan, self.rank, self.build = plan, rank, build

    def __len__(self) -> int:
        return self.plan.micro_steps

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return self.build(self.plan.draw(*index, self.rank))


def planned_loader(plan: BatchPlan, rank: int, build: Callable[[Draw], Any], workers: int = 0) -> DataLoader:
    """A loader of one rank's batches, which `workers` processes build ahead of time.

    It has a random generator of its own: otherwise starting an epoch would draw from the global one.
    """
    return DataLoader(
        PlannedBatches(plan, rank, build),
        batch_size=None,
        sampler=PlanSampler(plan),
        generator=torch.Generator(),
        num_workers=workers,
    )
