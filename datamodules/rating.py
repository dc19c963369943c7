"""Batches of (user, item, rating) for the rating stage."""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import BatchPlan, Draw, planned_loader
from datamodules.corpus import Corpus
from datamodules.sampling import NeighborSampler, Subgraph
from metrics.errors import InputError


@dataclass
class RatingBatch:
    """B pairs with their ratings, and the records whose edges this optimizer step may not see."""

    user_B: Tensor
    item_B: Tensor
    rating_B: Tensor
    record_B: Tensor
    weight_B: Tensor  # 1, or 0 for a row that only keeps the ranks in step
    hidden_records: Tensor  # the whole global batch, so that losses do not depend on the number of ranks
    scale: float  # see datamodules.batches
    subgraph: Subgraph | None = None  # what the batch reads of the graph, where it is sampled


def batch_that_fits(batch_size: int, train: int, parts: int) -> int:
    """`batch_size`, or what four batches an epoch take where it would take all `train` records at once.

    With leave-one-out the edges of a batch are hidden from it: a batch of all records would be fitted on a graph
    without edges. `parts`: ranks times micro-batches, by which a batch must divide. Raises InputError where there are
    too few records for any batch.
    """
    if train > batch_size:
        return batch_size
    fits = max(train // 4 // parts, 1) * parts
    if fits >= train:
        raise InputError(
            f"the corpus has {train} train records, which one batch of {parts} parts (ranks x rating.fit.accumulate) "
            "takes at once: none would be left to learn from; give more records or start fewer ranks"
        )
    return fits


class RatingData(pl.LightningDataModule):
    """Train and validation batches of a corpus."""

    workers = 0  # processes that build batches ahead; set before the loaders are made

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        accumulate: int,
        seed: int,
        sampler: NeighborSampler | None = None,
        leave_one_out: bool = True,
    ) -> None:
        super().__init__()
        self.corpus, self.batch_size, self.accumulate, self.seed = corpus, batch_size, accumulate, seed
        self.sampler, self.leave_one_out = sampler, leave_one_out

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of train records."""
        return self._loader("train", self.batch_size, self.accumulate, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation records in order."""
        return self._loader("valid", 1024 * self.trainer.world_size, 1, shuffle=False)

    def _loader(self, split: str, batch_size: int, accumulate: int, shuffle: bool) -> DataLoader:
        records = self.corpus.rows(split)
        plan = BatchPlan(
            len(records), batch_size, self.trainer.world_size, accumulate, self.seed, shuffle, "rating.fit.batch_size"
        )

        def build(draw: Draw) -> RatingBatch:
            batch = rating_batch(self.corpus, records[draw.rows_B], draw, records[draw.step_rows])
            if self.sampler is not None and split == "train":
                pairs = batch.user_B.numpy(), batch.item_B.numpy()
                hidden = batch.hidden_records.numpy() if self.leave_one_out else np.empty(0, dtype=np.int64)
                batch.subgraph = self.sampler.sample(*pairs, hidden)
            return batch

        return planned_loader(plan, self.trainer.global_rank, build, self.workers)


def rating_batch(corpus: Corpus, record_B: np.ndarray, draw: Draw, hidden: np.ndarray) -> RatingBatch:
    """The batch of `record_B`."""
    return RatingBatch(
        user_B=torch.from_numpy(corpus.user_R[record_B].astype(np.int64)),
        item_B=torch.from_numpy(corpus.item_R[record_B].astype(np.int64)),
        rating_B=torch.from_numpy(corpus.rating_R[record_B].astype(np.float32)),
        record_B=torch.from_numpy(record_B),
        weight_B=torch.from_numpy(draw.weight_B),
        hidden_records=torch.from_numpy(hidden),
        scale=draw.scale,
    )
