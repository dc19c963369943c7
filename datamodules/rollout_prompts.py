"""The prompts of PPO: which records are sampled at an iteration, and which held-out ones are watched."""

import numpy as np
from torch import Tensor

from datamodules.batches import BatchPlan
from datamodules.prompts import PromptBatch, PromptBuilder


class RolloutPrompts:
    """Deals train prompts to rollouts and rebuilds the prompts of sampled responses."""

    def __init__(self, builder: PromptBuilder, batch_size: int, seed: int, samples: int = 1) -> None:
        self.builder, self.batch_size, self.seed, self.samples = builder, batch_size, seed, samples
        self._train = builder.corpus.rows("train")

    def records(self, iteration: int, rank: int, world: int) -> tuple[list[int], list[int], np.ndarray]:
        """(this rank's records, which sample of each, its weights) of an iteration.

        Over all ranks the samples of a record stand together; every record comes once a pass over train.
        """
        # Rollouts are full: the end of one pass is filled up with the beginning of the next.
        prompts = self.batch_size // self.samples
        first = iteration * prompts
        plan = BatchPlan(len(self._train), len(self._train), seed=self.seed)
        wanted = np.arange(first, first + prompts).repeat(self.samples)
        orders = {epoch: plan.order(epoch) for epoch in set((wanted // len(self._train)).tolist())}
        rows = np.array([orders[i // len(self._train)][i % len(self._train)] for i in wanted.tolist()])
        plan = BatchPlan(self.batch_size, self.batch_size, world, shuffle=False, key="ppo.rollout_batch_size")
        draw = plan.draw(0, 0, rank)
        return self._train[rows[draw.rows_B]].tolist(), (draw.rows_B % self.samples).tolist(), draw.weight_B

    def held_out(self, count: int) -> np.ndarray:
        """At most `count` validation records, always the same."""
        records = self.builder.corpus.rows("valid")
        order = np.random.Generator(np.random.Philox(key=[self.seed, 3])).permutation(len(records))
        return records[np.sort(order[:count])]

    def batch(self, records: list[int]) -> PromptBatch:
        """Prompts for generation."""
        return self.builder.batch(records, None)

    def with_responses(self, record_M: Tensor, response_MT: Tensor, mask_MT: Tensor) -> PromptBatch:
        """Prompts together with responses that were sampled for them."""
        batch = self.builder.batch(record_M.tolist(), None)
        batch.response_BT, batch.response_mask_BT = response_MT, mask_MT
        return batch

    def with_explanations(self, record_M: Tensor) -> PromptBatch:
        """Prompts together with what was really written."""
        explanations = self.builder.corpus.explanations
        return self.builder.batch(record_M.tolist(), [explanations[record] for record in record_M.tolist()])

    def candidate_names(self, records: list[int]) -> list[list[str]]:
        """C_uv of records, as names."""
        names = self.builder.corpus.concepts
        return [[names[c] for c in self.builder.evidence.concept_RK[record].tolist()] for record in records]
