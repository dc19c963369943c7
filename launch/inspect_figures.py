"""The histograms of a corpus, as numbers: what launch/inspect_corpus.py prints and draws."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.corpus import SPLITS, Corpus


@dataclass(frozen=True)
class Figure:
    """One histogram."""

    title: str
    what: str  # what the labels are
    labels: list[str]
    values: list[int]

    def bars(self) -> Iterator[tuple[str, int]]:
        """(label, count) in order."""
        return zip(self.labels, self.values, strict=True)


def figures(corpus: Corpus) -> list[Figure]:
    """Records by split, ratings, lengths of texts, frequency of concepts, degrees of users and items in train."""
    train = corpus.rows("train")
    words_R = np.fromiter((len(text.split()) for text in corpus.explanations), dtype=np.int64)
    concepts = np.bincount(corpus.mention_columns(train)[1], minlength=len(corpus.concepts))
    ratings, counts = np.unique(corpus.rating_R, return_counts=True)
    if len(ratings) > 10:
        counts, edges = np.histogram(corpus.rating_R, bins=10)
        labels = [f"{low:.2f}-{high:.2f}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    else:
        labels = [f"{rating:g}" for rating in ratings]
    per_split = [int((corpus.split_R == index).sum()) for index in range(len(SPLITS))]
    return [
        Figure("records by split", "split", list(SPLITS), per_split),
        Figure("ratings", "rating", labels, counts.tolist()),
        _doubling("words an explanation", "words", words_R),
        _doubling("train mentions a concept", "mentions", concepts),
        _doubling("train records a user", "records", np.bincount(corpus.user_R[train], minlength=len(corpus.users))),
        _doubling("train records an item", "records", np.bincount(corpus.item_R[train], minlength=len(corpus.items))),
    ]


def _doubling(title: str, what: str, values: np.ndarray) -> Figure:
    """Bins that double in width: 0, 1, 2-3, 4-7, ...: skewed counts show over their whole range."""
    bins = np.zeros(len(values), dtype=np.int64)
    bins[values > 0] = np.floor(np.log2(values[values > 0])).astype(np.int64) + 1
    counts = np.bincount(bins, minlength=1)
    labels = ["0", "1", *(f"{2**power}-{2 ** (power + 1) - 1}" for power in range(1, len(counts)))][: len(counts)]
    first = 0 if counts[0] else 1
    return Figure(title, what, labels[first:], counts[first:].tolist())
