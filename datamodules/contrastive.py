"""Pairs of an explanation and a concept list for the contrastive training of the CCR encoder (methods A.5.5).

The concept list of a record is what it mentions, filled up with its candidates to k, in random order: at reward time
the encoder reads lists of k candidates of which a good explanation names some.
"""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import BatchPlan, Draw, planned_loader
from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.quality import pad
from metrics.errors import InputError


@dataclass
class PairBatch:
    """B explanations and their concept lists as token ids."""

    text_BS: Tensor
    text_mask_BS: Tensor
    concepts_BS: Tensor
    concepts_mask_BS: Tensor
    record_B: Tensor
    weight_B: Tensor
    scale: float


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], most: int = 64) -> tuple[Tensor, Tensor]:
    """(ids [B, S], mask [B, S]), padded at the right; special tokens written in a text stay text."""
    rows = tokenizer(texts, truncation=True, max_length=most, split_special_tokens=True)["input_ids"]
    return pad(rows, tokenizer.pad_token_id)  # several times as fast as transformers' own padding


def concept_text(names: list[str]) -> str:
    """A concept list as the encoder reads it."""
    return " , ".join(names)


def paired_concepts(corpus: Corpus, evidence: Evidence, record: int) -> list[int]:
    """The mentioned concepts of a record, filled up with its candidates to as many as there are candidates."""
    mentioned = list(dict.fromkeys(mention.concept for mention in corpus.mentions[record]))
    candidates = evidence.concept_RK[record].tolist()
    return (mentioned + [c for c in candidates if c not in mentioned])[: max(len(candidates), len(mentioned))]


class ContrastiveData(pl.LightningDataModule):
    """Train and validation pairs; records that mention no concept give none."""

    workers = 0  # processes that build batches ahead; set before the loaders are made

    def __init__(
        self,
        corpus: Corpus,
        evidence: Evidence,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        accumulate: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.corpus, self.evidence, self.tokenizer = corpus, evidence, tokenizer
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed

    def train_dataloader(self) -> DataLoader:
        """Shuffled pairs of train records."""
        return self._loader("train", self.batch_size, self.accumulate, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Pairs of validation records."""
        return self._loader("valid", self.batch_size, 1, shuffle=False)

    def _loader(self, split: str, batch_size: int, accumulate: int, shuffle: bool) -> DataLoader:
        records = np.array([r for r in self.corpus.rows(split).tolist() if self.corpus.mentions[r]], dtype=np.int64)
        if len(records) == 0:
            raise InputError(
                f"{self.corpus.path}: no {split} record mentions a concept, so CCR has nothing to learn from; "
                "import the corpus with concepts"
            )
        plan = BatchPlan(
            len(records), batch_size, self.trainer.world_size, accumulate, self.seed, shuffle, "ccr.fit.batch_size"
        )
        return planned_loader(plan, self.trainer.global_rank, lambda draw: self._batch(records, draw), self.workers)

    def _batch(self, records: np.ndarray, draw: Draw) -> PairBatch:
        chosen = records[draw.rows_B].tolist()
        text_BS, text_mask_BS = encode_texts(self.tokenizer, [self.corpus.explanations[r] for r in chosen])
        concepts_BS, concepts_mask_BS = encode_texts(self.tokenizer, [self._shuffled_list(r) for r in chosen])
        return PairBatch(
            text_BS,
            text_mask_BS,
            concepts_BS,
            concepts_mask_BS,
            torch.tensor(chosen),
            torch.from_numpy(draw.weight_B),
            draw.scale,
        )

    def _shuffled_list(self, record: int) -> str:
        concepts = paired_concepts(self.corpus, self.evidence, record)
        order = np.random.Generator(np.random.Philox(key=[self.seed, record])).permutation(len(concepts))
        return concept_text([self.corpus.concepts[concepts[i]] for i in order])
