"""COR: how much the explanations of one item repeat each other's concepts.

LLM2ER-EQR names COR without a formula: the forms here are ours, comparable among runs of this project alone. All pairs
of an item are compared, by products of 0/1 matrices, items of like size together; texts that name the same concepts are
one row with a count.
"""

# N texts · I items · R rows: the different sets of concepts that an item's texts name · E entries: a row, a concept
# B items of a block, padded to K rows and C concepts

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from metrics.mentions import Mentions
from metrics.words import Words, kinds, ranges

CELLS = 2**22  # numbers in an array at a time


class ItemOverlap(NamedTuple):
    """Concept overlap among the explanations of each item that has two or more."""

    jaccard_I: np.ndarray
    overlap_I: np.ndarray
    count_I: np.ndarray
    empty_pairs_I: np.ndarray
    pairs_I: np.ndarray


def cor(found: Mentions, item_N: np.ndarray) -> ItemOverlap:
    """COR is the mean of `jaccard_I`: per item, mean over pairs of |a & b| / |a | b|; lower is better.

    `overlap_I` divides by the smaller set instead, `count_I` by nothing. Pairs that divide by nothing count 0; those
    without any concept are `empty_pairs_I`, to be read beside COR, which texts without concepts win. `item_N` numbers
    the items from 0 on.
    """
    texts_I = np.bincount(item_N)
    several = np.flatnonzero(texts_I > 1)
    pairs_I = texts_I[several] * (texts_I[several] - 1) / 2
    empty_I = np.bincount(item_N[found.sizes_T == 0], minlength=len(texts_I))[several]
    sums_I3 = np.zeros((len(texts_I), 3))
    for items, count_BK, named_BKC in _blocks(found, item_N, several):
        sums_I3[items] = _pair_sums(count_BK, named_BKC)
    jaccard_I, overlap_I, count_I = (sums_I3[several] / pairs_I[:, None]).T
    return ItemOverlap(jaccard_I, overlap_I, count_I, empty_I * (empty_I - 1) / 2, pairs_I)


def _blocks(
    found: Mentions, item_N: np.ndarray, several: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(items_B, how many texts say a row count_BK, its concepts named_BKC) of the items that name any."""
    sizes_N, n_items = found.sizes_T, int(item_N.max(initial=-1)) + 1
    bounds = np.concatenate([[0], np.cumsum(sizes_N)])
    said = np.flatnonzero(sizes_N)
    kind_N = kinds(Words(found.concepts_M, bounds, []))
    _, first_R, count_R = np.unique(
        item_N[said] * np.int64(found.n + 1) + kind_N[said], return_index=True, return_counts=True
    )
    record_R = said[first_R]
    item_R = item_N[record_R]
    rows_I, row_E = np.bincount(item_R, minlength=n_items), np.repeat(np.arange(len(record_R)), sizes_N[record_R])
    # the concepts of an item are numbered from 0 on
    base = int(found.concepts_M.max(initial=0)) + 1
    concept_E = found.concepts_M[ranges(bounds[record_R], sizes_N[record_R])]
    known, place_E = np.unique(item_R[row_E] * np.int64(base) + concept_E, return_inverse=True)
    width_I = np.bincount(known // base, minlength=n_items)
    place_E -= (np.cumsum(width_I) - width_I)[item_R[row_E]]
    start_I, entries_I = np.cumsum(rows_I) - rows_I, np.bincount(item_R[row_E], minlength=n_items)
    items = several[rows_I[several] > 0]
    height_I = np.frexp(rows_I[items])[1]  # rows between two powers of 2 share a block
    for height in np.unique(height_I):
        alike = items[height_I == height]
        n_rows, width = int(rows_I[alike].max()), int(width_I[alike].max())
        step = max(CELLS // (n_rows * max(n_rows, width)), 1)
        for block in (alike[start : start + step] for start in range(0, len(alike), step)):
            entry = ranges((np.cumsum(entries_I) - entries_I)[block], entries_I[block])
            row = ranges(start_I[block], rows_I[block])
            place_I = np.zeros(n_items, dtype=np.int64)
            place_I[block] = np.arange(len(block))
            count_BK = np.zeros((len(block), n_rows))
            count_BK[place_I[item_R[row]], row - start_I[item_R[row]]] = count_R[row]
            named_BKC = np.zeros((len(block), n_rows, width))
            own = row_E[entry]
            named_BKC[place_I[item_R[own]], own - start_I[item_R[own]], place_E[entry]] = 1
            yield block, count_BK, named_BKC


def _pair_sums(count_BK: np.ndarray, named_BKC: np.ndarray) -> np.ndarray:
    """sums_B3 over all pairs of texts: Jaccard, overlap coefficient, concepts shared."""
    size_BK = named_BKC.sum(axis=2)
    # a text is no pair with itself; it would share all it names
    selves = [count_BK.sum(axis=1), count_BK.sum(axis=1), (count_BK * size_BK).sum(axis=1)]
    sums_B3 = -np.stack(selves, axis=1)
    step = max(CELLS // count_BK.size, 1)
    for start in range(0, count_BK.shape[1], step):
        rows = slice(start, start + step)
        common = named_BKC[:, rows] @ named_BKC.transpose(0, 2, 1)
        sizes, others = size_BK[:, rows, None], size_BK[:, None]
        weighted = common * count_BK[:, rows, None] * count_BK[:, None]
        parts = weighted / np.maximum(sizes + others - common, 1), weighted / np.maximum(np.minimum(sizes, others), 1)
        sums_B3 += np.stack([part.sum(axis=(1, 2)) for part in (*parts, weighted)], axis=1)
    return sums_B3 / 2
