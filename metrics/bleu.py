"""Corpus BLEU as the field's scripts compute it: one reference, whitespace words, no smoothing (PETER, NETE, PEPLER).

BLEU of a corpus is a function of sums over its records. They are kept per record, so that a bootstrap resamples these
statistics and never counts an n-gram again.
"""

# N records · S statistics: clipped matches of orders 1-4, n-grams of the hypothesis of orders 1-4, reference words

from collections.abc import Sequence

import numpy as np

from metrics.text_counts import BLEU, MAX_ORDER, text_counts

STATISTICS = 2 * MAX_ORDER + 1


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """statistics_NS, whose sum over any records is what `corpus_bleu` needs of them."""
    return text_counts(hypotheses, references)[:, BLEU].astype(np.float64)


def corpus_bleu(sums_S: np.ndarray, order: int) -> np.ndarray:
    """BLEU-`order` in percent of summed statistics; leading axes are kept.

    Equal weights on orders 1..`order`, 0 if one of them has no match, brevity penalty on corpus lengths.
    """
    matches, counts = sums_S[..., :order], sums_S[..., MAX_ORDER : MAX_ORDER + order]
    hypothesis_words, reference_words = sums_S[..., MAX_ORDER], sums_S[..., 2 * MAX_ORDER]
    with np.errstate(divide="ignore"):
        precision = np.exp(np.log(matches / np.maximum(counts, 1)).mean(axis=-1))
    brevity = np.exp(np.minimum(0.0, 1.0 - reference_words / np.maximum(hypothesis_words, 1)))
    return 100.0 * brevity * precision
