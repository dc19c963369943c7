"""Is one system better than another on the same records? Paired tests that never look at a text again.

Intervals of a difference come from the paired bootstrap (Koehn 2004: both systems on the same drawn records), p values
from approximate randomisation (Noreen 1989; Riezler & Maxwell 2005: under the null hypothesis the two systems' outputs
for a record could change places). Metrics that count what is different among records have the jackknife of the
difference. Holm's correction (1979) bounds the chance of any false finding among the metrics compared.
"""

# R resamples or trials · U units · K metrics

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metrics.bootstrap import CHUNK_WEIGHTS, interval
from metrics.errors import InputError
from metrics.families import Jackknife, normal_interval
from metrics.measures import Measures
from metrics.suite import by_units, resampled

SIGNIFICANT = 0.05
UNDEFINED = "a resample leaves it undefined"
UNMOVED = "no single record changes it"
NO_TEST = {
    "mauve": "each system's texts were clustered with the references on their own, and records that change places "
    "between two systems have no cluster in the other"
}


class Difference(NamedTuple):
    """One metric of two systems: ours minus theirs."""

    ours: float
    theirs: float
    difference: float
    ci: list[float] | None  # 95 %, of the difference
    p: float | None  # two-sided; None where no test is defined
    p_holm: float | None  # corrected for the metrics compared
    no_ci: str | None  # why there is no interval
    no_p: str | None  # why there is no test


class _Test(NamedTuple):
    ci: list[float] | None
    p: float | None
    no_ci: str | None = None
    no_p: str | None = None


def compare(
    ours: Measures, theirs: Measures, metrics: Sequence[str], resamples: int = 1000, trials: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """The `metrics` that both systems have, of the same records in the same order."""
    return compare_groups([ours], [theirs], metrics, resamples, trials, seed)


def compare_groups(
    ours: Sequence[Measures],
    theirs: Sequence[Measures],
    metrics: Sequence[str],
    resamples: int = 1000,
    trials: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """The same between systems of several seeds each: their means over seeds are compared on the same records.

    With one seed each, p comes from approximate randomisation; with more, whose outputs cannot change places one by
    one, from the paired bootstrap. Neither says anything about seeds that were not run.
    """
    values = [_mean([measures.values() for measures in side]) for side in (ours, theirs)]
    names = [name for name in metrics if name in values[0] and name in values[1]]
    draws = [_mean([resampled(measures, resamples, seed) for measures in side]) for side in (ours, theirs)]
    jackknives = [_jackknives(side) for side in (ours, theirs)]
    exchange = randomisation(ours[0], theirs[0], trials, seed) if len(ours) == len(theirs) == 1 else {}
    found: dict[str, _Test] = {}
    for name in names:
        if name in jackknives[0] and name in jackknives[1]:
            found[name] = _jackknife_test(jackknives[0][name], jackknives[1][name])
        elif name in draws[0] and name in draws[1]:
            found[name] = _drawn_test(draws[0][name] - draws[1][name], exchange.get(name))
        else:
            reason = NO_TEST.get(name, "one of the two has too few units to draw from")
            found[name] = _Test(None, None, reason, reason)
    corrected = holm({name: test.p for name, test in found.items() if test.p is not None})
    differences = {}
    for name, test in found.items():
        one, two = (side[name] for side in values)
        differences[name] = Difference(one, two, one - two, test.ci, test.p, corrected.get(name), test.no_ci, test.no_p)
    return differences


def _drawn_test(differences_R: np.ndarray, exchanged_p: float | None) -> _Test:
    ci, p = interval(differences_R), bootstrap_p(differences_R) if exchanged_p is None else exchanged_p
    return _Test(ci, p, None if ci else UNDEFINED, UNDEFINED if p is None else None)


def randomisation(ours: Measures, theirs: Measures, trials: int, seed: int) -> dict[str, float]:
    """Metric -> two-sided p of approximate randomisation: (1 + trials at least as extreme) / (1 + trials).

    Units (records, or items and users where the metric is a mean over these) change sides together.
    """
    p: dict[str, float] = {}
    pairs = zip(by_units(ours.families).items(), by_units(theirs.families).items(), strict=False)
    for (key, our_families), (their_key, their_families) in pairs:
        if key != their_key:
            raise InputError(f"The two files have not the same {key[0]}s ({key[1]} and {their_key[1]}).")
        rng, n = np.random.default_rng(seed), key[1]
        shared: list[tuple[Any, Any]] = [
            (a, b) for a in our_families for b in their_families if a.names == b.names and isinstance(a, type(b))
        ]
        extreme = {name: 0 for a, _ in shared for name in a.names}
        observed = [a.weighted(np.ones((1, n))) - b.weighted(np.ones((1, n))) for a, b in shared]
        chunk = max(CHUNK_WEIGHTS // max(n, 1), 1)
        for start in range(0, trials, chunk):
            swaps_RU = rng.integers(0, 2, size=(min(chunk, trials - start), n), dtype=np.int8).astype(np.float64)
            for (a, b), difference_1K in zip(shared, observed, strict=True):
                first_RK, second_RK = a.exchanged(b, swaps_RU)
                # exchanging nothing must count as no less extreme than what was observed, whatever the rounding
                at_least = np.abs(first_RK - second_RK) >= np.abs(difference_1K) * (1 - 1e-9) - 1e-12
                for name, count in zip(a.names, at_least.sum(axis=0), strict=True):
                    extreme[name] += int(count)
        p |= {name: (1 + count) / (1 + trials) for name, count in extreme.items()}
    return p


def bootstrap_p(differences_R: np.ndarray) -> float | None:
    """Two-sided p of the paired bootstrap, its differences shifted to mean 0; None where one is undefined."""
    if not np.isfinite(differences_R).all():
        return None
    mean = differences_R.mean()
    return float((1 + (np.abs(differences_R - mean) >= abs(mean)).sum()) / (1 + len(differences_R)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the smallest p times the number of tests, the next times one less, and so on."""
    corrected, least = {}, 0.0
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda entry: entry[1])):
        least = max(least, min(1.0, value * (len(p) - place)))
        corrected[name] = least
    return corrected


def _jackknife_test(ours: Jackknife, theirs: Jackknife) -> _Test:
    difference = Jackknife(ours.name, ours.value - theirs.value, ours.without_N - theirs.without_N)
    variance = difference.variance()
    if variance > 0:
        p = math.erfc(abs(difference.value) / math.sqrt(2 * variance))
        return _Test(normal_interval(difference.value, variance), p)
    if difference.value == 0:
        return _Test(None, 1.0, UNMOVED)
    # No record changes either figure (all texts equal, or all different): taken as if one record did.
    one_record = ours.most / len(ours.without_N)
    if not math.isfinite(one_record):
        return _Test(None, None, UNMOVED, UNMOVED)
    return _Test(None, math.erfc(abs(difference.value) / (math.sqrt(2) * one_record)), UNMOVED)


def _jackknives(side: Sequence[Measures]) -> dict[str, Jackknife]:
    """The mean over seeds of each jackknifed metric that all seeds have."""
    found = [{jackknife.name: jackknife for jackknife in measures.jackknives} for measures in side]
    return {
        name: Jackknife(
            name,
            float(np.mean([seeds[name].value for seeds in found])),
            np.mean([seeds[name].without_N for seeds in found], axis=0),
            found[0][name].most,
        )
        for name in found[0]
        if all(name in seeds for seeds in found)
    }


def _mean(seeds: Sequence[Mapping]) -> dict:
    """The mean over seeds of what all of them have."""
    return {
        name: sum(values[name] for values in seeds) / len(seeds)
        for name in seeds[0]
        if all(name in values for values in seeds)
    }
