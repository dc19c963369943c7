"""The set H of high-quality explanations (methods A.5.6) and the batches that teach the discriminator to know it.

H is a chain of filters over train explanations, each counted and printed, or a user's own file of good texts. H is
unpaired: nothing ties its texts to the user and item they were written for.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import BatchPlan, Draw, planned_loader
from datamodules.corpus import Corpus
from datamodules.edges import rating_is_high
from metrics.errors import InputError
from metrics.phrases import tokenize


@dataclass(frozen=True)
class HighQualityConfig:
    """The chain of filters that selects H."""

    file: str = field(
        default="",
        metadata={
            "help": "JSONL of good explanations (key explanation) to use instead; they are tokenised as the corpus's "
            "texts are, except with nlg4rs, where they must be already"
        },
    )
    min_words: int = field(default=8, metadata={"help": "shortest text"})
    max_words: int = field(default=40, metadata={"help": "longest text"})
    min_concepts: int = field(default=1, metadata={"help": "fewest concepts a text mentions"})
    polarity_agrees: bool = field(default=True, metadata={"help": "keep texts whose polarity fits their rating"})
    perplexity_share: float = field(default=0.6, metadata={"help": "keep this share with the lowest perplexity"})
    top_share: float = field(default=0.5, metadata={"help": "of what is left, keep this share with the best score"})

    def __post_init__(self) -> None:
        for name in ("perplexity_share", "top_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"hqar.high_quality.{name}={getattr(self, name)}: must be in (0, 1]")
        if self.min_words > self.max_words:
            raise InputError(
                f"hqar.high_quality.min_words={self.min_words} is above hqar.high_quality.max_words={self.max_words}"
            )


def bigram_perplexities(texts: list[str]) -> np.ndarray:
    """Perplexity of each text under an interpolated bigram model of the *other* texts.

    P(w | v) = 0.6 bigram + 0.3 unigram + 0.1 uniform, with a text's own counts taken out: a text that occurs once
    would otherwise look likely because it is in the counts.
    """
    sentences = [["<s>", *tokenize(text.lower()), "</s>"] for text in texts]
    unigrams = Counter(word for words in sentences for word in words[1:])
    pairs = Counter(pair for words in sentences for pair in zip(words, words[1:], strict=False))
    befores = Counter(word for words in sentences for word in words[:-1])
    total, vocabulary = sum(unigrams.values()), len(unigrams)
    result = []
    for words in sentences:
        own, own_pairs = Counter(words[1:]), Counter(zip(words, words[1:], strict=False))
        own_befores, length = Counter(words[:-1]), len(words) - 1
        nll = 0.0
        for before, word in zip(words, words[1:], strict=False):
            context = befores[before] - own_befores[before]
            bigram = (pairs[before, word] - own_pairs[before, word]) / context if context else 0.0
            unigram = (unigrams[word] - own[word]) / max(1, total - length)
            nll -= math.log(0.6 * bigram + 0.3 * unigram + 0.1 / vocabulary)
        result.append(math.exp(nll / length))
    return np.array(result)


def select_high_quality(corpus: Corpus, config: HighQualityConfig) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Train records of H, and what each filter left: [(filter, texts left), ...].

    Score of the last step: z(concepts per word) + z(share of distinct words) - z(perplexity).
    """
    left = corpus.rows("train").tolist()
    texts = corpus.explanations
    perplexity = dict(zip(left, bigram_perplexities([texts[r] for r in left]), strict=True))
    steps: list[tuple[str, int]] = [("train explanations", len(left))]

    def keep(name: str, good: Callable[[int], bool]) -> None:
        left[:] = [record for record in left if good(record)]
        steps.append((name, len(left)))

    words = {record: tokenize(texts[record].lower()) for record in left}
    keep("words", lambda r: config.min_words <= len(words[r]) <= config.max_words)
    keep("concepts", lambda r: len({m.concept for m in corpus.mentions[r]}) >= config.min_concepts)
    if config.polarity_agrees:
        keep("polarity", lambda r: _polarity_agrees(corpus, r))
    seen: Counter = Counter(texts[r].lower() for r in left)
    keep("not repeated", lambda r: seen[texts[r].lower()] == 1)
    if left:
        limit = float(np.quantile([perplexity[r] for r in left], config.perplexity_share))
        keep("perplexity", lambda r: perplexity[r] <= limit)
    if not left:
        chain = ", ".join(f"{name}: {count}" for name, count in steps)
        raise InputError(
            f"no train explanation passes hqar.high_quality ({chain}); loosen the filter that left none, or give your "
            "own texts by hqar.high_quality.file"
        )
    concepts = _z([len({m.concept for m in corpus.mentions[r]}) / len(words[r]) for r in left])
    distinct = _z([len(set(words[r])) / len(words[r]) for r in left])
    score = concepts + distinct - _z([perplexity[r] for r in left])
    best = np.argsort(-score, kind="stable")[: max(1, round(len(left) * config.top_share))]
    steps.append(("best score", len(best)))
    return np.sort(np.array(left)[best]), steps


def _polarity_agrees(corpus: Corpus, record: int) -> bool:
    total = sum(mention.polarity for mention in corpus.mentions[record])
    return total == 0 or (total > 0) == bool(rating_is_high(corpus.rating_R[record], corpus))


def _z(values: list[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return (array - array.mean()) / (array.std() or 1.0)


def read_high_quality(path: str) -> list[str]:
    """The texts of a user's file: JSONL with the key `explanation`."""
    if not Path(path).is_file():
        raise InputError(f"hqar.high_quality.file={path}: no such file")
    texts: list[str] = []
    if not Path(path).read_bytes().strip():
        raise InputError(f"hqar.high_quality.file={path}: the file is empty")
    # Only a newline ends a line: text may hold other separators that str.splitlines would cut at.
    for number, line in enumerate(Path(path).read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            text = json.loads(line)["explanation"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f'{path}:{number}: expected {{"explanation": "..."}} with a text, in UTF-8; mend or remove the line'
            )
        texts.append(text.strip())
    return texts


@dataclass
class QualityBatch:
    """B texts as the policy's token ids, real (of H) or sampled from the policy."""

    text_BT: Tensor
    mask_BT: Tensor
    real_B: Tensor
    record_B: Tensor  # row of the data set: real texts first
    weight_B: Tensor
    scale: float


class QualityData(pl.LightningDataModule):
    """Real and sampled texts, shuffled together; every tenth of each is kept for validation."""

    workers = 0  # processes that build batches ahead; set before the loaders are made

    def __init__(
        self, real: list[list[int]], sampled: list[list[int]], fill: int, batch_size: int, accumulate: int, seed: int
    ) -> None:
        super().__init__()
        if min(len(real), len(sampled)) < 10:
            raise InputError(
                f"hqar: {len(real)} high-quality and {len(sampled)} sampled texts; at least 10 of each are needed: "
                "loosen hqar.high_quality, or give texts by hqar.high_quality.file"
            )
        self.texts = real + sampled
        self._place_R = [*range(len(real)), *range(len(sampled))]
        self.real_R = np.array([1.0] * len(real) + [0.0] * len(sampled), dtype=np.float32)
        self.fill, self.batch_size, self.accumulate, self.seed = fill, batch_size, accumulate, seed

    def train_dataloader(self) -> DataLoader:
        """Nine tenths, shuffled."""
        return self._loader(valid=False, batch_size=self.batch_size, accumulate=self.accumulate)

    def val_dataloader(self) -> DataLoader:
        """The other tenth."""
        return self._loader(valid=True, batch_size=self.batch_size, accumulate=1)

    def _loader(self, valid: bool, batch_size: int, accumulate: int) -> DataLoader:
        rows = np.array([row for row, place in enumerate(self._place_R) if (place % 10 == 9) == valid])
        world = self.trainer.world_size
        plan = BatchPlan(len(rows), batch_size, world, accumulate, self.seed, not valid, "hqar.fit.batch_size")

        def build(draw: Draw) -> QualityBatch:
            chosen = rows[draw.rows_B]
            text_BT, mask_BT = pad([self.texts[row] for row in chosen], self.fill)
            weight_B, scale = torch.from_numpy(draw.weight_B), draw.scale
            real_B, record_B = torch.from_numpy(self.real_R[chosen]), torch.from_numpy(chosen)
            return QualityBatch(text_BT, mask_BT, real_B, record_B, weight_B, scale)

        return planned_loader(plan, self.trainer.global_rank, build, self.workers)


def pad(texts: list[list[int]], fill: int) -> tuple[Tensor, Tensor]:
    """(ids [B, T], mask [B, T]), padded at the right."""
    length_B = np.array([len(text) for text in texts])
    mask_BT = np.arange(length_B.max()) < length_B[:, None]
    ids_BT = np.full(mask_BT.shape, fill)
    ids_BT[mask_BT] = np.fromiter(itertools.chain.from_iterable(texts), dtype=np.int64)
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT.astype(np.int64))
