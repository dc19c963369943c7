"""How metrics respond when records are drawn with other weights, or exchanged between two systems.

A family is a group of metrics that follow from the same statistics of the same units (records, items or users). It
answers three questions without a look at the texts: its values under weights (bootstrap), its values when some units
are exchanged with another system's (approximate randomisation), and, for metrics that count what is different, its
values without one record (jackknife).
"""

# R resamples · U units · S statistics of a unit · K metrics of a family · C concepts · N records · G n-grams

import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from metrics.mentions import Mentions
from metrics.words import CHUNK, numbered


@dataclass(frozen=True)
class Sums:
    """Metrics that are functions of sums over units: means, ratios of sums, corpus BLEU."""

    names: list[str]
    unit: str
    summands_US: np.ndarray
    finish: Callable[[np.ndarray], np.ndarray]  # sums_RS -> values_RK

    @property
    def units(self) -> int:
        """Number of units that are drawn or exchanged."""
        return len(self.summands_US)

    def weighted(self, weights_RU: np.ndarray) -> np.ndarray:
        """values_RK when unit u is counted weights[u] times."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.finish(weights_RU @ self.summands_US)

    def exchanged(self, other: "Sums", swaps_RU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values_RK of both systems after the units marked 1 have changed sides."""
        moved_RS = swaps_RU @ other.summands_US - swaps_RU @ self.summands_US
        with np.errstate(divide="ignore", invalid="ignore"):
            ours_RK = self.finish(self.summands_US.sum(axis=0) + moved_RS)
            return ours_RK, other.finish(other.summands_US.sum(axis=0) - moved_RS)


def means(columns: dict[str, np.ndarray], unit: str, sometimes: AbstractSet[str] | None = None) -> Sums:
    """The family of the means of columns_U, each over the units that define it (are not NaN).

    `sometimes` names those that some units may not define, here or in a system that units change places with: each has
    a count of its own, the others share one. None: all of them.
    """
    counted = [name for name in columns if sometimes is None or name in sometimes]
    if undefined := [name for name in columns if name not in counted and np.isnan(columns[name]).any()]:
        raise ValueError(f"{undefined[0]} is not defined by every {unit}")
    k, n = len(columns), len(next(iter(columns.values())))
    # the shared count first; written in place, since columns of millions of records are the most memory there is
    summands_US = np.ones((n, k + 1 + len(counted)))
    for place, values_U in enumerate(columns.values()):
        summands_US[:, place] = np.nan_to_num(values_U)
    for place, name in enumerate(counted, start=k + 1):
        summands_US[:, place] = ~np.isnan(columns[name])
    places = {name: k + 1 + number for number, name in enumerate(counted)}
    of_mean = [places.get(name, k) for name in columns]
    return Sums(list(columns), unit, summands_US, lambda sums_RS: sums_RS[..., :k] / sums_RS[..., of_mean])


@dataclass(frozen=True)
class SharedPairs:
    """DIV: the mean number of concepts that two explanations share.

    The sum over pairs needs only how often each concept is named, so time is linear in the explanations. Pairs of an
    explanation with its own copy are left out: they would raise every resampled value above the true one.
    """

    names: list[str]
    named_UC: csr_array  # 1 where explanation u names concept c
    unit: str = "record"

    @classmethod
    def of(cls, names: list[str], found: Mentions, n_concepts: int) -> "SharedPairs":
        """From the concepts K(e) of each explanation, of which there are `n_concepts`."""
        entries = np.ones(len(found.texts_M)), (found.texts_M, found.concepts_M)
        return cls(names, csr_array(entries, shape=(found.n, n_concepts)))

    @property
    def units(self) -> int:
        """Number of records."""
        return self.named_UC.shape[0]

    @property
    def sizes_U(self) -> np.ndarray:
        """Number of concepts of each explanation."""
        return np.diff(self.named_UC.indptr).astype(np.float64)

    def weighted(self, weights_RU: np.ndarray) -> np.ndarray:
        """values_R1 when explanation u was drawn weights[u] times."""
        shared_R = np.square(weights_RU @ self.named_UC).sum(axis=1)
        squares_RU = np.square(weights_RU)
        pairs_R = weights_RU.sum(axis=1) ** 2 - squares_RU.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return ((shared_R - squares_RU @ self.sizes_U) / pairs_R)[:, None]

    def exchanged(self, other: "SharedPairs", swaps_RU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values_R1 of both systems after the explanations marked 1 have changed sides."""
        kept_RU = 1 - swaps_RU
        return self._mixed(other, kept_RU, swaps_RU), self._mixed(other, swaps_RU, kept_RU)

    def _mixed(self, other: "SharedPairs", ours_RU: np.ndarray, theirs_RU: np.ndarray) -> np.ndarray:
        shared_R = np.square(ours_RU @ self.named_UC + theirs_RU @ other.named_UC).sum(axis=1)
        own_R = ours_RU @ self.sizes_U + theirs_RU @ other.sizes_U
        return (shared_R - own_R)[:, None] / (self.units * (self.units - 1))


Family = Sums | SharedPairs


@dataclass(frozen=True)
class Jackknife:
    """A metric that counts what is different among the records, with its value without each of them.

    A sample of records with repetitions always holds fewer different things, so the bootstrap is no use. The
    jackknife's variance is not below the true one on average (Efron & Stein 1981), so its intervals are cautious.
    """

    name: str
    value: float
    without_N: np.ndarray
    most: float = math.inf  # the highest value it can take

    def variance(self) -> float:
        """The jackknife estimate of the variance of the metric over samples of N records."""
        n = len(self.without_N)
        if np.ptp(self.without_N) <= 1e-12 * max(np.abs(self.without_N).max(), 1):
            return 0.0  # equal but for rounding
        return float((n - 1) / n * np.square(self.without_N - self.without_N.mean()).sum())

    def interval(self) -> list[float] | None:
        """[low, high] of 95 %; None where every record could be left out without a change."""
        bounds = normal_interval(self.value, self.variance())
        return bounds and [max(bounds[0], 0.0), min(bounds[1], self.most)]


def normal_interval(value: float, variance: float) -> list[float] | None:
    """value -+ 1.96 standard errors; None without variance."""
    if not variance > 0:
        return None
    return [value - 1.959964 * math.sqrt(variance), value + 1.959964 * math.sqrt(variance)]


def different(
    name: str, type_G: np.ndarray, record_G: np.ndarray, n: int, total_N: np.ndarray | float, scale: float = 1.0
) -> Jackknife:
    """`scale` * number of different types / total; the total is a sum over records (total_N) or fixed (a number).

    `type_G` and `record_G` are what occurs and in which of the `n` records, in the order of the records. Without
    anything the value is 0.
    """
    n_types = int(type_G.max(initial=-1)) + 1
    first_T, last_T = np.full(n_types, n), np.full(n_types, -1)
    first_T[type_G[::-1]], last_T[type_G] = record_G[::-1], record_G  # the last assigned stays
    seen_T = last_T >= 0
    own_N = np.bincount(first_T[seen_T & (first_T == last_T)], minlength=n)  # types that no other record has
    kinds = int(seen_T.sum())
    if isinstance(total_N, np.ndarray):
        total, rest_N = float(total_N.sum()), total_N.sum() - total_N
    else:
        total, rest_N = float(total_N), np.full(n, float(total_N))
    most = scale * n / total if total == 1 and not isinstance(total_N, np.ndarray) else scale
    return Jackknife(name, scale * kinds / max(total, 1), scale * (kinds - own_N) / np.maximum(rest_N, 1), most)


def entropy(type_G: np.ndarray, record_G: np.ndarray, n: int) -> tuple[float, np.ndarray]:
    """(entropy, entropy without each record), in bits, of the corpus' n-grams; 0 without any.

    `type_G` and `record_G` are what occurs and in which of the `n` records, in the order of the records.
    """
    counts_T = np.bincount(type_G)
    total, sum_log, less_N = len(type_G), _log_sum(counts_T).sum(), np.zeros(n)
    edges = np.append(np.arange(0, n, CHUNK), n)  # records at a time: how often one has a type needs no other's
    bounds = np.searchsorted(record_G, edges).tolist()
    for first, start, end in zip(edges.tolist(), bounds, bounds[1:], strict=False):
        types, records = type_G[start:end], record_G[start:end] - first
        pair = numbered(records * np.int64(len(counts_T)) + types)
        own = np.bincount(pair)
        record_of, whole = np.empty_like(own), np.empty_like(own)
        record_of[pair], whole[pair] = records, counts_T[types]
        lost = np.bincount(record_of, _log_sum(whole) - _log_sum(whole - own))
        less_N[first : first + len(lost)] = lost
    rest_N = total - np.bincount(record_G, minlength=n)
    return float(_entropy(np.array([total]), np.array([sum_log]))[0]), _entropy(rest_N, sum_log - less_N)


def _log_sum(counts: np.ndarray) -> np.ndarray:
    return counts * np.log2(np.maximum(counts, 1))


def _entropy(total: np.ndarray, sum_log: np.ndarray) -> np.ndarray:
    return np.maximum(np.log2(np.maximum(total, 1)) - sum_log / np.maximum(total, 1), 0.0)
