"""Several systems on the same test records: figures over seeds, paired tests against the first, cold and warm groups.

The result is a plain tree that metrics.json holds and every table and report is made from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from launch.scoring import StandardConfig
from metrics.bootstrap import interval
from metrics.breakdown import Group, by_train_records
from metrics.catalog import MAIN
from metrics.columns import ABSENT_INDEX, Predictions
from metrics.families import Jackknife
from metrics.measures import ConceptKnowledge, Measures
from metrics.significance import compare_groups
from metrics.suite import figures, resampled, scores_of

GROUP_METRICS = ("bleu_4", "rouge_l_f", "fmr", "cmr", "usr", "rmse")
GROUP_RESAMPLES = 200


@dataclass(frozen=True)
class Judging:
    """How systems are measured and compared."""

    suite: str = "paper"
    standard: StandardConfig = field(default_factory=StandardConfig)
    metrics: tuple[str, ...] = MAIN  # those compared, over which Holm's correction goes
    resamples: int = 1000
    trials: int = 1000
    seed: int = 0
    groups: bool = False  # cold and warm users and items, too


def leaderboard(
    systems: Mapping[str, Predictions],
    measured: Mapping[str, Sequence[Measures]],
    knowledge: ConceptKnowledge | None,
    judging: Judging,
) -> dict[str, Any]:
    """The tree of systems (name -> the aligned predictions of its first seed) and the measures of their seeds.

    `systems`: name -> flat figures, over several seeds their means, with `<key>_sd` the standard deviation over seeds;
    `comparisons`: name -> metric -> difference from the first system, interval, p, p after Holm's correction;
    `groups`: cold to warm, by user and item, the main figures of each system.
    """
    names = list(measured)
    counted = (judging.resamples, judging.seed)
    tree: dict[str, Any] = {
        "n": measured[names[0]][0].n,
        "suite": judging.suite,
        "seed": judging.seed,
        "resamples": judging.resamples,
        "trials": judging.trials,
        "systems": {name: over_seeds(seeds, *counted) for name, seeds in measured.items()},
        "baseline": names[0],
        "comparisons": {},
    }
    if judging.resamples and tree["n"] > 1:
        test = partial(compare_groups, resamples=judging.resamples, trials=judging.trials, seed=judging.seed)
        tree["comparisons"] = {
            name: {
                key: found._asdict() for key, found in test(measured[name], measured[names[0]], judging.metrics).items()
            }
            for name in names[1:]
        }
    if judging.groups:
        tree["groups"] = groups(systems, knowledge, judging.seed)
    return tree


def over_seeds(seeds: Sequence[Measures], resamples: int, seed: int) -> dict[str, Any]:
    """Flat figures of one system; of several seeds the means, whose intervals are over records, not over seeds."""
    if len(seeds) == 1:
        return figures(seeds[0], resamples, seed)
    each = [figures(measures, 0, seed) for measures in seeds]
    keys = [key for key, value in each[0].items() if isinstance(value, int | float) and all(key in one for one in each)]
    scores: dict[str, Any] = {**each[0], "seeds": len(seeds)}
    draws = [resampled(measures, resamples, seed) for measures in seeds] if resamples and seeds[0].n > 1 else []
    for key in keys:
        if key == "n":
            continue
        values = np.array([one[key] for one in each], dtype=np.float64)
        scores[key], scores[f"{key}_sd"] = float(values.mean()), float(values.std(ddof=1))
        bounds = None
        if draws and all(key in one for one in draws):
            bounds = interval(np.mean([one[key] for one in draws], axis=0))
        elif draws:
            bounds = _jackknife_interval(key, seeds)
        if bounds:
            scores[f"{key}_ci"] = bounds
    if draws and (missing := [key for key in keys if key != "n" and f"{key}_ci" not in scores]):
        scores["skipped"] = [*scores["skipped"], f"interval of {', '.join(missing)}: not defined over these seeds"]
    return scores


def _jackknife_interval(key: str, seeds: Sequence[Measures]) -> list[float] | None:
    found = [jackknife for measures in seeds for jackknife in measures.jackknives if jackknife.name == key]
    if len(found) < len(seeds):
        return None
    value, without_N = (np.mean([getattr(one, part) for one in found], axis=0) for part in ("value", "without_N"))
    return Jackknife(key, float(value), without_N, found[0].most).interval()


def groups(systems: Mapping[str, Predictions], knowledge: ConceptKnowledge | None, seed: int) -> dict[str, Any]:
    """ "user" and "item" -> a list from cold to warm: label, records, system -> main figures. Of the first seed."""
    found: dict[str, Any] = {}
    if knowledge is None:
        return found
    first = next(iter(systems.values()))
    for side, counts in (("user", knowledge.user_records), ("item", knowledge.item_records)):
        index_N = first.numbers[f"{side}_index"]
        if counts is not None and (index_N != ABSENT_INDEX).all():
            parts = by_train_records(counts[index_N])
            found[side] = [_group(part, systems, knowledge, seed) for part in parts]
    return found


def _group(group: Group, systems: Mapping[str, Predictions], knowledge: ConceptKnowledge, seed: int) -> dict[str, Any]:
    scores = {}
    for name, predictions in systems.items():
        found = scores_of(predictions.take(group.rows), knowledge, GROUP_RESAMPLES, seed)
        scores[name] = {key: value for key, value in found.items() if key.removesuffix("_ci") in GROUP_METRICS}
    return {"label": group.label, "n": len(group.rows), "systems": scores}
