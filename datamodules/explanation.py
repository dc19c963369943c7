"""Prompt batches with explanations for fine-tuning, and without for generation."""

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.batches import BatchPlan, Draw, planned_loader
from datamodules.prompts import PromptBatch, PromptBuilder


class ExplanationData(pl.LightningDataModule):
    """Train and validation prompts with their explanations."""

    workers = 0  # processes that build batches ahead; set before the loaders are made

    def __init__(self, builder: PromptBuilder, batch_size: int, accumulate: int, seed: int) -> None:
        super().__init__()
        self.builder, self.batch_size, self.accumulate, self.seed = builder, batch_size, accumulate, seed

    def train_dataloader(self) -> DataLoader:
        """Shuffled prompts of train records with what they said."""
        return self._loader("train", self.batch_size, self.accumulate, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation prompts with what was said."""
        world = self.trainer.world_size
        return self._loader("valid", -(-self.batch_size // world) * world, 1, shuffle=False)

    def _loader(self, split: str, batch_size: int, accumulate: int, shuffle: bool) -> DataLoader:
        corpus, records = self.builder.corpus, self.builder.corpus.rows(split)
        plan = BatchPlan(
            len(records),
            batch_size,
            self.trainer.world_size,
            accumulate,
            self.seed,
            shuffle,
            "explanation.fit.batch_size",
        )

        def build(draw: Draw) -> PromptBatch:
            chosen = records[draw.rows_B].tolist()
            return self.builder.batch(chosen, [corpus.explanations[record] for record in chosen], draw)

        return planned_loader(plan, self.trainer.global_rank, build, self.workers)


class PromptData(pl.LightningDataModule):
    """Prompts of given records for generation, in order, shared out over the ranks."""

    def __init__(self, builder: PromptBuilder, records: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self.builder, self.records, self.batch_size = builder, records, batch_size

    def predict_dataloader(self) -> DataLoader:
        """Batches of at most `batch_size` prompts a rank."""
        world = self.trainer.world_size
        plan = BatchPlan(len(self.records), self.batch_size * world, world, shuffle=False)

        def build(draw: Draw) -> PromptBatch:
            return self.builder.batch(self.records[draw.rows_B].tolist(), None, draw)

        return planned_loader(plan, self.trainer.global_rank, build)
