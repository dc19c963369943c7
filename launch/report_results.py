"""What the metrics say: one sentence that does not say more than they do, the tables, and what each metric is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from launch.report_folder import BACKBONE, FULL
from launch.report_html import Html, join, table, tag, unseen

Scores = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A column of the results."""

    key: str
    name: str
    better: str  # higher, lower, or empty where neither is
    digits: int
    definition: str


TEXT = (
    Metric("bleu_1", "BLEU-1", "higher", 2, "Corpus BLEU of word order 1 against the one reference, unsmoothed, x100."),
    Metric("bleu_3", "BLEU-3", "higher", 2, "The same with orders 1 to 3."),
    Metric("bleu_4", "BLEU-4", "higher", 2, "The same with orders 1 to 4."),
    Metric("rouge_1_f", "ROUGE-1", "higher", 2, "F of shared words, counted as sets (the field's script), x100."),
    Metric(
        "rouge_l_f",
        "ROUGE-L",
        "higher",
        2,
        "F of the longest common subsequence with beta = P/R (the field's script: below the usual F1), x100.",
    ),
    Metric("distinct_1", "Distinct-1", "higher", 2, "Different words by all words, over all explanations, x100."),
    Metric("distinct_2", "Distinct-2", "higher", 2, "Different word pairs by all word pairs, x100."),
    Metric("usr", "USR", "higher", 4, "Number of different explanations by the number of explanations."),
)
CONCEPTS = (
    Metric(
        "cmr",
        "CMR",
        "higher",
        4,
        "Share of an explanation's concepts that the user or the item has in train (variant: union of the two), mean "
        "over explanations that name a concept.",
    ),
    Metric(
        "cor",
        "COR",
        "lower",
        4,
        "Overlap of the concepts of two explanations of one item (variant: Jaccard), mean over pairs, then items. "
        "Texts without concepts win it, hence the concept rate beside it.",
    ),
    Metric("concept_rate", "Concept rate", "", 4, "Share of explanations that name any concept."),
    Metric("fmr", "FMR", "higher", 4, "Share of explanations that name a concept of their record."),
    Metric("fcr", "FCR", "higher", 4, "Share of all train concepts that are named at least once."),
    Metric("div", "DIV", "lower", 4, "Mean number of concepts that two explanations share."),
    Metric("rmse", "RMSE", "lower", 4, "Root mean squared error of the predicted rating, clipped to the scale."),
    Metric("mae", "MAE", "lower", 4, "Mean absolute error of the predicted rating, clipped to the scale."),
)
DRIVERS = (
    Metric(
        "driver_precision", "Precision", "higher", 4, "Of the concepts that are named, the share that drove the rating."
    ),
    Metric("driver_recall", "Recall", "higher", 4, "Of the concepts that drove the ratings, the share that is named."),
    Metric(
        "names_a_driver",
        "Names a driver",
        "higher",
        4,
        "Share of explanations that name a concept that drove the rating.",
    ),
    Metric(
        "polarity_agreement",
        "Polarity agreement",
        "higher",
        4,
        "Of the drivers that are named, the share with their polarity.",
    ),
)
JUDGED = ("bleu_4", "rouge_1_f", "rouge_l_f", "cmr", "cor")


def verdict(metrics: Mapping[str, Any]) -> str:
    """Whether EQR beats its backbone, judged by whether their intervals are apart; never more than that."""
    systems = metrics["systems"]
    if absent := [name for name in (BACKBONE, FULL) if name not in systems]:
        return f"No verdict on {FULL} yet: there are no metrics of {_listed(absent)}."
    full, backbone = systems[FULL], systems[BACKBONE]
    signs = {metric.name: _apart(metric, full, backbone) for metric in (*TEXT, *CONCEPTS) if metric.key in JUDGED}
    names = {sign: [name for name, sign_of in signs.items() if sign_of == sign] for sign in (1, -1, 0)}
    kinds = [sign for sign, found in names.items() if found]
    if not kinds:
        return f"No verdict on {FULL}: its metrics have no intervals to compare with those of {BACKBONE}."
    if len(kinds) == 1:
        all_alike = {1: "is clearly better than", -1: "is clearly worse than", 0: "does not differ clearly from"}
        sentence = (
            f"{FULL} {all_alike[kinds[0]]} its backbone {BACKBONE} on each metric judged: {_listed(names[kinds[0]])}."
        )
    else:
        told = {1: "clearly better on", -1: "clearly worse on", 0: "not clearly different on"}
        parts = [f"{told[sign]} {_listed(names[sign])}" for sign in kinds]
        sentence = f"Against its backbone {BACKBONE}, {FULL} is {'; '.join(parts)}."
    rates = [scores.get("concept_rate") for scores in (full, backbone)]
    if signs["COR"] == 1 and None not in rates and rates[0] < rates[1]:
        sentence += " Its explanations name concepts less often, which alone lowers COR."
    return sentence


def _apart(metric: Metric, full: Scores, backbone: Scores) -> int | None:
    """1: better, -1: worse, 0: the intervals overlap, None: one lacks an interval."""
    ours, theirs = full.get(f"{metric.key}_ci"), backbone.get(f"{metric.key}_ci")
    if not ours or not theirs:
        return None
    higher = (ours[0] > theirs[1]) - (ours[1] < theirs[0])
    return higher if metric.better == "higher" else -higher


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def results(metrics: Mapping[str, Any]) -> Html:
    """The tables of all systems, and what could not be computed."""
    systems: Mapping[str, Scores] = metrics["systems"]
    parts = [
        _table("Text", TEXT, systems),
        _table("Concepts and ratings", CONCEPTS, systems),
        _table("What drove the ratings (planted in this corpus)", DRIVERS, metrics.get("drivers") or {}),
        tag(
            "p",
            "Bold: best of its column. Small: 95 % bootstrap interval over the test records (COR: over items); "
            "none where no valid one exists. ",
            tag("a", "What each metric is", href="#definitions"),
            class_="note",
        ),
    ]
    for name, scores in systems.items():
        if skipped := scores.get("skipped"):
            parts.append(tag("p", f"Not computed for {name}: {'; '.join(map(str, skipped))}.", class_="note"))
    return join(parts)


def _table(caption: str, columns: tuple[Metric, ...], systems: Mapping[str, Scores]) -> Html:
    shown = [metric for metric in columns if any(_is_number(scores.get(metric.key)) for scores in systems.values())]
    if not shown:
        return Html()
    best = {metric.key: _best(metric, systems) for metric in shown}
    rows = [
        [name, *(_cell(metric, scores, best[metric.key]) for metric in shown)]
        for name, scores in systems.items()
        if any(_is_number(scores.get(metric.key)) for metric in shown)
    ]
    return table(caption, ["System", *map(_heading, shown)], rows, "results")


def _heading(metric: Metric) -> Html:
    arrow = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}.get(metric.better)
    sign = [tag("span", arrow, aria_hidden="true"), unseen(f"{metric.better} is better")] if arrow else []
    return tag("span", join([metric.name, " ", *sign]), title=metric.definition)


def _best(metric: Metric, systems: Mapping[str, Scores]) -> float | None:
    """The best printed value; None where there is nothing to choose between."""
    values = [
        round(scores[metric.key], metric.digits) for scores in systems.values() if _is_number(scores.get(metric.key))
    ]
    if not metric.better or len(set(values)) < 2:
        return None
    return max(values) if metric.better == "higher" else min(values)


def _cell(metric: Metric, scores: Scores, best: float | None) -> Html:
    value, bounds = scores.get(metric.key), scores.get(f"{metric.key}_ci")
    if not _is_number(value):
        return join([tag("span", "\N{EN DASH}", aria_hidden="true"), unseen("no value")])
    text = f"{value:.{metric.digits}f}"
    is_best = best is not None and round(value, metric.digits) == best
    parts = [tag("strong", text, unseen(" best")) if is_best else tag("span", text)]
    if bounds:
        parts.append(tag("small", "\N{EN DASH}".join(f"{bound:.{metric.digits}f}" for bound in bounds)))
    return join(parts)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def definitions(metrics: Mapping[str, Any]) -> Html:
    """What the suite is, what each metric shown is, and how the verdict was reached."""
    entries = [(metric.name, metric.definition) for metric in (*TEXT, *CONCEPTS)]
    if metrics.get("drivers"):
        entries += [(metric.name, metric.definition) for metric in DRIVERS]
    return join(
        [
            tag(
                "p",
                f"Metric suite: {metrics.get('suite', 'not named')}, on {metrics.get('n', 'an unknown number of')} "
                "test records. COR and CMR have no published formula; the variants named here are comparable among "
                "runs of this project alone.",
            ),
            tag(
                "p",
                f"Verdict: {_listed([m.name for m in (*TEXT, *CONCEPTS) if m.key in JUDGED])} are judged; clear means "
                "that the two 95 % intervals do not overlap. That is cautious: intervals that overlap do not show that "
                "two systems are equal. The intervals tell the chance of the test records, not that of training again "
                "with another seed.",
            ),
            tag("dl", *(tag("div", tag("dt", name), tag("dd", definition)) for name, definition in entries)),
        ]
    )
