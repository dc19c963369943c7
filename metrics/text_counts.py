"""Whole-number counts of many text pairs at once: all that BLEU, ROUGE and Distinct need of a record.

Scores of any set of records follow from sums and means over these rows, so a bootstrap, a paired test and a run on many
ranks never look at a text again. Counting is array work: words are numbers (`metrics.words`), an n-gram of a record
becomes the number of (its first n - 1 words, its last word) of that record, and each order costs one sort.
"""

# N records · W words of all of them · T texts: the hypothesis of each record, then the reference of each · C columns
# G n-grams of all texts · K types: the different n-grams of each record · L words of the longest text

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metrics.texts import CHUNK, Texts, texts_of
from metrics.words import Words, at_whitespace, encode, longer, single

MAX_ORDER = 4
LCS_BLOCK = 512  # records padded to one length
LCS_BITS = 64

COLUMNS = (
    *(f"match_{order}" for order in range(1, MAX_ORDER + 1)),  # clipped, as BLEU counts them
    *(f"ours_{order}" for order in range(1, MAX_ORDER + 1)),  # n-grams of the hypothesis
    "theirs_1",  # words of the reference
    "types_1",  # different words and word pairs of the hypothesis
    "types_2",
    *(f"rouge_{order}_{part}" for order in (1, 2) for part in ("common", "ours", "theirs")),  # sets of n-grams
    *(f"rouge_l_{part}" for part in ("common", "ours", "theirs")),
)
BLEU = slice(0, 2 * MAX_ORDER + 1)
TYPES = slice(2 * MAX_ORDER + 1, 2 * MAX_ORDER + 3)
ROUGE = {"1": slice(11, 14), "2": slice(14, 17), "l": slice(17, 20)}
_FIELD_ROUGE = slice(11, 20)


class Pairs(NamedTuple):
    """Hypotheses and references as numbers, split at any whitespace, and at single blanks as the field's ROUGE does."""

    ours: Words
    theirs: Words
    ours_at_blanks: Words
    theirs_at_blanks: Words

    def counts(self, start: int, stop: int) -> np.ndarray:
        """counts_NC, int32, with the columns `COLUMNS`, of the records from `start` to `stop`."""
        words, at_blanks = ([side.part(start, stop) for side in sides] for sides in (self[:2], self[2:]))
        counts_NC = _counts(*words)
        if any(not np.array_equal(a.ids_W, b.ids_W) for a, b in zip(words, at_blanks, strict=True)):
            counts_NC[:, _FIELD_ROUGE] = _counts(*at_blanks)[:, _FIELD_ROUGE]
        return counts_NC


def pairs_of(hypotheses: Texts, references: Texts) -> Pairs:
    """The words of both sides. Raises ValueError where one list is shorter."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: one list is shorter")
    at_blanks = encode(hypotheses, references)
    return Pairs(*at_whitespace(at_blanks), *at_blanks)


def chunks(n: int) -> list[range]:
    """The places of `n` records, some at a time."""
    return [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def text_counts(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """counts_NC, int32, with the columns `COLUMNS`.

    BLEU and Distinct split at any whitespace, the field's ROUGE at single spaces (an empty text is one empty word).
    """
    return all_counts(pairs_of(texts_of(hypotheses), texts_of(references)), len(hypotheses))


def all_counts(pairs: Pairs, n: int) -> np.ndarray:
    """counts_NC of all `n` records, counted some at a time."""
    parts = [pairs.counts(part.start, part.stop) for part in chunks(n)]
    return np.concatenate([np.zeros((0, len(COLUMNS)), dtype=np.int32), *parts])


def _counts(ours: Words, theirs: Words) -> np.ndarray:
    """counts_NC of texts as numbers."""
    n = len(ours.lengths_T)
    columns: dict[str, np.ndarray] = {"theirs_1": theirs.lengths_T}
    both = Words(
        np.concatenate([ours.ids_W, theirs.ids_W]),
        np.concatenate([ours.bounds_T1, ours.bounds_T1[-1] + theirs.bounds_T1[1:]]),
        ours.vocabulary,
    )
    grams = single(both, np.arange(2 * n) % max(n, 1))
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            grams = longer(both, grams, order)
        columns[f"ours_{order}"] = np.maximum(ours.lengths_T - order + 1, 0)
        n_types, own = int(grams.types_G.max(initial=-1)) + 1, int(np.searchsorted(grams.texts_G, n))
        record_K = np.zeros(n_types, dtype=np.int64)
        record_K[grams.types_G] = grams.texts_G % n
        ours_K, theirs_K = (np.bincount(part, minlength=n_types) for part in np.split(grams.types_G, [own]))
        common_K = (ours_K > 0) & (theirs_K > 0)
        columns[f"match_{order}"] = np.bincount(record_K, np.minimum(ours_K, theirs_K), n)
        if order <= 2:
            for part, which_K in (("common", common_K), ("ours", ours_K > 0), ("theirs", theirs_K > 0)):
                columns[f"rouge_{order}_{part}"] = np.bincount(record_K[which_K], minlength=n)
            columns[f"types_{order}"] = columns[f"rouge_{order}_ours"]
        if order >= 2:  # an n-gram of both texts begins with one of both texts; the others are counted above
            grams = grams.only(common_K[grams.types_G])
    columns["rouge_l_common"] = lcs_lengths(ours, theirs)
    columns["rouge_l_ours"], columns["rouge_l_theirs"] = ours.lengths_T, theirs.lengths_T
    return np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.int32)


def lcs_lengths(ours: Words, theirs: Words) -> np.ndarray:
    """Lengths of the longest common subsequence of each hypothesis and its reference: lcs_N.

    Crochemore et al., "A fast and practical bit-vector algorithm for the longest common subsequence problem" (2001),
    over many records at a time; a row of the dynamic programme is the bits of one integer. Pairs whose shorter text
    has more than LCS_BITS words are done one by one with Python's integers, which have as many bits as needed.
    """
    lengths_2N = np.stack([ours.lengths_T, theirs.lengths_T])
    # the length is symmetric: the shorter text lies in the bits
    swap_N = lengths_2N[0] > lengths_2N[1]
    shorter_N, longer_N = lengths_2N.min(axis=0), lengths_2N.max(axis=0)
    lcs_N = np.zeros(len(swap_N), dtype=np.int64)
    fits_N = shorter_N <= LCS_BITS
    order = np.lexsort((longer_N, shorter_N))
    order = order[fits_N[order]]
    for start in range(0, len(order), LCS_BLOCK):
        rows = order[start : start + LCS_BLOCK]
        a_NL, b_NL = (_padded(side, rows, pad, longer_N[rows]) for side, pad in ((ours, -1), (theirs, -2)))
        swap_N1 = swap_N[rows][:, None]
        short_NL, long_NL = np.where(swap_N1, b_NL, a_NL), np.where(swap_N1, a_NL, b_NL)
        lcs_N[rows] = _lcs_block(short_NL[:, : shorter_N[rows].max()], long_NL)
    for row in np.flatnonzero(~fits_N):
        a, b = (side.ids_W[side.bounds_T1[row] : side.bounds_T1[row + 1]].tolist() for side in (ours, theirs))
        lcs_N[row] = lcs_length(a, b)
    return lcs_N


def _padded(words: Words, texts: np.ndarray, pad: int, longest: np.ndarray) -> np.ndarray:
    places = np.arange(longest.max(initial=0))
    within = places < words.lengths_T[texts][:, None]
    ids = np.full(within.shape, pad, dtype=np.int32)
    ids[within] = words.ids_W[(words.bounds_T1[texts][:, None] + places)[within]]
    return ids


def _lcs_block(short_NL: np.ndarray, long_NL: np.ndarray) -> np.ndarray:
    matches_NL = np.zeros(long_NL.shape, dtype=np.uint64)
    for place in range(short_NL.shape[1]):
        matches_NL |= (short_NL[:, place, None] == long_NL).astype(np.uint64) << np.uint64(place)
    row_N = np.full(len(short_NL), ~np.uint64(0))
    for matches_N in matches_NL.T:
        matched_N = row_N & matches_N
        row_N = (row_N + matched_N) | (row_N - matched_N)
    return np.bitwise_count(~row_N)  # bits beyond the text never match and stay set


def lcs_length(first: Sequence, second: Sequence) -> int:
    """Length of the longest common subsequence of one pair, of any lengths."""
    places: dict = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    all_bits = (1 << len(first)) - 1
    row = all_bits
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_bits
    return len(first) - row.bit_count()
