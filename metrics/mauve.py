"""MAUVE of two histograms (Pillutla et al. 2021), and how far chance may move it.

The package mauve-text clusters the vectors of all texts and counts each side's in the clusters. With the clusters as
they are, MAUVE is a function of these counts, and leaving out a text lowers one of them by one: the jackknife needs as
many values as there are clusters.
"""

# B pairs of histograms · K clusters · L points of the divergence curve

from collections.abc import Callable

import numpy as np

from metrics.families import normal_interval

MIXTURES = np.linspace(1e-6, 1 - 1e-6, 25)  # these two are the package's
SCALE = 5.0
ROWS = 256  # pairs of histograms at a time


def mauve_of(references_BK: np.ndarray, texts_BK: np.ndarray) -> np.ndarray:
    """values_B of pairs of histograms that each sum to 1: the mean area under the divergence curve, seen both ways."""
    parts = []
    for start in range(0, len(references_BK), ROWS):
        p_BK, q_BK = references_BK[start : start + ROWS], texts_BK[start : start + ROWS]
        mixed = [(weight * p_BK + (1 - weight) * q_BK) for weight in MIXTURES]
        curve = [np.exp(-SCALE * np.stack([_divergence(q_BK, r_BK), _divergence(p_BK, r_BK)])) for r_BK in mixed]
        corner = np.ones(len(p_BK))
        curve_2LB = np.stack([np.stack([corner, 0 * corner]), *curve, np.stack([0 * corner, corner])], axis=1)
        parts.append((_area(*curve_2LB) + _area(*curve_2LB[::-1])) / 2)
    return np.concatenate(parts)


def mauve_interval(references_K: np.ndarray, texts_K: np.ndarray) -> list[float] | None:
    """[low, high] of 95 %, from the counts of each side in the clusters; None without variance.

    The variances of the two sides, each by the jackknife, are added.
    """
    p_K, q_K = references_K / references_K.sum(), texts_K / texts_K.sum()
    value = float(mauve_of(p_K[None], q_K[None])[0])
    variance = _variance(references_K, lambda less_BK: mauve_of(less_BK, np.broadcast_to(q_K, less_BK.shape)))
    variance += _variance(texts_K, lambda less_BK: mauve_of(np.broadcast_to(p_K, less_BK.shape), less_BK))
    bounds = normal_interval(value, variance)
    return bounds and [max(bounds[0], 0.0), min(bounds[1], 1.0)]


def _variance(counts_K: np.ndarray, values_of: Callable[[np.ndarray], np.ndarray]) -> float:
    n, filled = counts_K.sum(), np.flatnonzero(counts_K)
    values, weights = values_of((counts_K - np.eye(len(counts_K))[filled]) / (n - 1)), counts_K[filled]
    return float((n - 1) / n * (weights * np.square(values - np.average(values, weights=weights))).sum())


def _divergence(p_BK: np.ndarray, r_BK: np.ndarray) -> np.ndarray:
    """Kullback-Leibler, in nats; r is a mixture that holds p."""
    return (p_BK * np.log(np.where(p_BK > 0, p_BK, 1) / np.where(p_BK > 0, r_BK, 1))).sum(axis=1)


def _area(x_LB: np.ndarray, y_LB: np.ndarray) -> np.ndarray:
    order = np.lexsort((-y_LB, x_LB), axis=0)  # equal histograms: all points but the corners are (1, 1)
    return np.trapezoid(np.take_along_axis(y_LB, order, 0), np.take_along_axis(x_LB, order, 0), axis=0)
