"""Percentile bootstrap of metrics, from what is kept of each record (Efron & Tibshirani 1993, chapter 13).

A resample is a row of weights: how often each record was drawn. A mean, a ratio of sums and corpus BLEU are
functions of weighted sums of per-record statistics, so `weights @ statistics` is all the work; DIV takes the weights
themselves. Metrics that count what is *different* among the records (USR, USN, corpus Distinct, ENTR, FCR) have no
valid interval of this kind: a resample misses a third of the records, which alone pushes them below their true value.
They have the jackknife's (metrics/families.py).
"""

# R resamples · N units that are drawn (records; items for COR)

from collections.abc import Callable

import numpy as np

CHUNK_WEIGHTS = 2**23  # at a time: 64 MiB of weights


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """`statistic(weights_RN)` of `resamples` draws of n from n, its results joined along their first axis.

    Weights come a few resamples at a time, so memory does not grow with their number.
    """
    rng = np.random.default_rng(seed)
    chunk = max(CHUNK_WEIGHTS // n, 1)
    values = []
    for start in range(0, resamples, chunk):
        weights_RN = np.empty((min(chunk, resamples - start), n))
        for weights_N in weights_RN:
            weights_N[:] = np.bincount(rng.integers(0, n, size=n), minlength=n)
        values.append(statistic(weights_RN))
    return np.concatenate(values)


def interval(values_R: np.ndarray, level: float = 0.95) -> list[float] | None:
    """[low, high]: the central `level` of the resampled values; None if a resample left the metric undefined."""
    if not np.isfinite(values_R).all():
        return None
    tail = 50 * (1 - level)
    low, high = np.percentile(values_R, [tail, 100 - tail])
    return [float(low), float(high)]
