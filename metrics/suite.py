"""Figures of a set of predictions with their intervals, flat: what evaluate.py prints and metrics.json holds.

Results do not depend on the order of the predictions, to the last digit: they are sorted first, so a run on many ranks
reports what a run on one does.
"""

# R resamples · U units · K metrics

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metrics.bootstrap import bootstrap, interval
from metrics.columns import Predictions
from metrics.errors import InputError
from metrics.families import Family
from metrics.measures import ConceptKnowledge, Counts, Measures
from metrics.paper import measure
from metrics.predictions import read_predictions
from metrics.table import format_table
from metrics.text_counts import all_counts, pairs_of
from metrics.texts import encoded

__all__ = [
    "ConceptKnowledge",
    "canonical",
    "canonical_places",
    "evaluate",
    "figures",
    "format_table",
    "read_predictions",
    "resampled",
    "scores_of",
]

Scores = dict[str, Any]


def evaluate(
    predictions: Iterable[Mapping[str, Any]],
    knowledge: ConceptKnowledge | None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """All metrics of the paper suite on one set of predictions, one dict a record: see `figures`.

    Raises InputError for no predictions.
    """
    return scores_of(canonical(Predictions.of(predictions)), knowledge, resamples, seed)


def scores_of(records: Predictions, knowledge: ConceptKnowledge | None, resamples: int, seed: int) -> Scores:
    """The same of records in their canonical order."""
    return figures(measure(records, knowledge, counts_of(records)), resamples, seed)


def counts_of(records: Predictions) -> Counts:
    """What is counted in the texts of records."""
    pairs = pairs_of(records.explanations, records.references)
    return Counts(pairs, all_counts(pairs, len(records)))


def canonical(predictions: Predictions) -> Predictions:
    """The predictions in an order that is a function of what they hold. Raises InputError where there are none."""
    return predictions.take(canonical_places(predictions))


def canonical_places(predictions: Predictions) -> np.ndarray:
    """Where in `predictions` the first, second, ... of the canonical order stand."""
    n = len(predictions)
    if n == 0:
        raise InputError("There are no predictions to evaluate; generate them first.")
    ids = predictions.ids["record"]
    named = not ids.absent and len(np.unique(ids.place_N)) == n
    keys = [_order(ids.values[place]) for place in ids.place_N.tolist()] if named else _contents(predictions)
    return np.array(sorted(range(n), key=keys.__getitem__))


def _contents(predictions: Predictions) -> list[Any]:
    """All that a record holds as one text, which no other record has; most files of other programs have two texts."""
    texts = zip(encoded(predictions.explanations), encoded(predictions.references), strict=True)
    return [
        b"\0".join([ours, theirs, rest, b"%d" % len(ours)])  # its length: texts may hold \0, too
        for (ours, theirs), rest in zip(texts, predictions.rest(), strict=True)
    ]


def _order(name: str | int) -> tuple[bool, int, str]:
    return (True, 0, name) if isinstance(name, str) else (False, name, "")


def figures(measures: Measures, resamples: int = 1000, seed: int = 0) -> Scores:
    """Metric -> value, and `metric_ci` -> [low, high] where there is a valid one; flat.

    Intervals are of 95 %: percentile bootstrap over records, over items or users where the metric is a mean over
    these; the jackknife's for metrics that count what is different. There is none for a single record, for
    `resamples=0`, or where a resample leaves the metric undefined. `skipped` lists what could not be computed and why,
    intervals among it.
    """
    scores: Scores = {"n": measures.n} | measures.signatures
    bounds, missing = intervals(measures, resamples, seed)
    undefined = []
    for name, value in measures.values().items():
        if not math.isfinite(value):
            undefined.append(name)
            continue
        scores[name] = int(value) if name == "usn" else value
        if name in bounds:
            scores[f"{name}_ci"] = bounds[name]
    reasons = [f"{', '.join(undefined)}: defined on no prediction"] if undefined else []
    lacking: dict[str, list[str]] = {}
    for name in (name for name in scores if name in missing):
        lacking.setdefault(missing[name], []).append(name)
    reasons += [f"interval of {', '.join(names)}: {reason}" for reason, names in lacking.items()]
    return scores | {"skipped": [*measures.skipped, *reasons]}


def intervals(measures: Measures, resamples: int, seed: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Metric -> [low, high], and metric -> why there is none; nothing of either where none was asked for."""
    if resamples == 0:
        return {}, {}
    if measures.n < 2:
        return {}, dict.fromkeys(measures.values(), "there is one prediction")
    found = {name: interval(values_R) for name, values_R in resampled(measures, resamples, seed).items()}
    missing = dict.fromkeys(found, "a resample leaves it undefined")
    for family in measures.families:
        if family.units < 2:
            missing |= dict.fromkeys(family.names, f"there is one {family.unit}")
    missing |= dict.fromkeys((jackknife.name for jackknife in measures.jackknives), "no single record changes it")
    missing |= dict.fromkeys(measures.plain, "no single record changes it")
    found |= {jackknife.name: jackknife.interval() for jackknife in measures.jackknives} | measures.bounds
    bounds = {name: own for name, own in found.items() if own is not None}
    return bounds, {name: reason for name, reason in missing.items() if name not in bounds}


def resampled(measures: Measures, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Metric -> values_R under bootstrap weights. The same seed gives two systems the same draws: they are paired."""
    if (resamples, seed) not in measures.draws:
        measures.draws[resamples, seed] = _drawn(measures, resamples, seed)
    return measures.draws[resamples, seed]


def _drawn(measures: Measures, resamples: int, seed: int) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for families in by_units(measures.families).values():
        n = families[0].units
        if n < 2:
            continue

        def statistic(weights_RU: np.ndarray, families: list[Family] = families) -> np.ndarray:
            return np.concatenate([family.weighted(weights_RU) for family in families], axis=1)

        values_RK = bootstrap(statistic, n, resamples, seed)
        values |= zip([name for family in families for name in family.names], values_RK.T, strict=True)
    return values


def by_units(families: Sequence[Family]) -> dict[tuple[str, int], list[Family]]:
    """The families that are drawn together, since they count the same units."""
    found: dict[tuple[str, int], list[Family]] = {}
    for family in families:
        found.setdefault((family.unit, family.units), []).append(family)
    return found
