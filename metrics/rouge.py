"""ROUGE as the field's scripts compute it (PETER, NETE, PEPLER), which is not the standard one.

ROUGE-N compares sets, not counts, of n-grams; ROUGE-L weighs precision and recall by their own ratio, so that its F
leans to the smaller of the two. Words are split at single spaces, hence an empty text is one empty word. No stemming,
no lower-casing. Means over records are the reported scores.
"""

# N records

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metrics.text_counts import ROUGE, text_counts


class Rouge(NamedTuple):
    """F, recall and precision of each record, in percent."""

    f_N: np.ndarray
    r_N: np.ndarray
    p_N: np.ndarray


def rouge_n(hypotheses: Sequence[str], references: Sequence[str], order: int) -> Rouge:
    """ROUGE-1 or ROUGE-2 on sets of n-grams; a text without n-grams scores 0."""
    return rouge_n_of(text_counts(hypotheses, references)[:, ROUGE[str(order)]])


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> Rouge:
    """ROUGE-L over words with beta = P / R."""
    return rouge_l_of(text_counts(hypotheses, references)[:, ROUGE["l"]])


def rouge_n_of(counts_N3: np.ndarray) -> Rouge:
    """ROUGE-N of the numbers of common n-grams, of the hypothesis' and of the reference's."""
    common_N, ours_N, theirs_N = counts_N3.T
    p_N, r_N = common_N / np.maximum(ours_N, 1), common_N / np.maximum(theirs_N, 1)
    return Rouge(100 * 2 * p_N * r_N / (p_N + r_N + 1e-8), 100 * r_N, 100 * p_N)


def rouge_l_of(counts_N3: np.ndarray) -> Rouge:
    """F = (1 + beta^2) R P / (R + beta^2 P) of the LCS and the numbers of words (each at least 1)."""
    common_N, ours_N, theirs_N = counts_N3.T
    p_N, r_N = common_N / ours_N, common_N / theirs_N
    squared_beta_N = (p_N / (r_N + 1e-12)) ** 2
    f_N = (1 + squared_beta_N) * r_N * p_N / (r_N + squared_beta_N * p_N + 1e-12)
    return Rouge(100 * f_N, 100 * r_N, 100 * p_N)
