"""ROUGE as the field's scripts compute it (PETER, NETE, PEPLER), which is not the standard one.

ROUGE-N compares sets, not counts, of n-grams; ROUGE-L weighs precision and recall by their own ratio, so that its F
leans to the smaller of the two. Words are split at single spaces, hence an empty text is one empty word. No stemming,
no lower-casing. Means over records are the reported scores.
"""

# N records

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metrics.phrases import ngrams


class Rouge(NamedTuple):
    """F, recall and precision of each record, in percent."""

    f_N: np.ndarray
    r_N: np.ndarray
    p_N: np.ndarray


def rouge_n(hypotheses: Sequence[str], references: Sequence[str], order: int) -> Rouge:
    """ROUGE-`order` on sets of n-grams; a text without n-grams scores 0."""
    counts_N3 = np.zeros((len(hypotheses), 3))
    for row, hypothesis, reference in zip(counts_N3, hypotheses, references, strict=True):
        ours, theirs = set(ngrams(hypothesis.split(" "), order)), set(ngrams(reference.split(" "), order))
        row[:] = len(ours & theirs), len(ours), len(theirs)
    common_N, ours_N, theirs_N = counts_N3.T
    p_N, r_N = common_N / np.maximum(ours_N, 1), common_N / np.maximum(theirs_N, 1)
    return Rouge(100 * 2 * p_N * r_N / (p_N + r_N + 1e-8), 100 * r_N, 100 * p_N)


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> Rouge:
    """ROUGE-L over words with beta = P / R: F = (1 + beta^2) R P / (R + beta^2 P)."""
    counts_N3 = np.zeros((len(hypotheses), 3))
    for row, hypothesis, reference in zip(counts_N3, hypotheses, references, strict=True):
        ours, theirs = hypothesis.split(" "), reference.split(" ")
        row[:] = lcs_length(ours, theirs), len(ours), len(theirs)
    common_N, ours_N, theirs_N = counts_N3.T
    p_N, r_N = common_N / ours_N, common_N / theirs_N
    squared_beta_N = (p_N / (r_N + 1e-12)) ** 2
    f_N = (1 + squared_beta_N) * r_N * p_N / (r_N + squared_beta_N * p_N + 1e-12)
    return Rouge(100 * f_N, 100 * r_N, 100 * p_N)


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence; one row of the dynamic programme is the bits of an integer.

    Crochemore et al., "A fast and practical bit-vector algorithm for the longest common subsequence problem" (2001).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    all_bits = (1 << len(first)) - 1
    row = all_bits
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_bits
    return len(first) - row.bit_count()
