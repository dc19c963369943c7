"""What the metrics say: one sentence that does not say more than they do, the tables, and what each metric is."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from launch.leaderboard_text import mark, untested
from launch.report_folder import BACKBONE, FULL
from launch.report_html import Html, join, table, tag, unseen
from metrics.catalog import ALL, DRIVERS, REWARDS, Metric
from metrics.significance import SIGNIFICANT

Scores = Mapping[str, Any]

TABLES = {
    "Text": ("bleu_1", "bleu_3", "bleu_4", "rouge_1_f", "rouge_2_f", "rouge_l_f", "distinct_1", "distinct_2", "usr"),
    "Concepts": ("cmr", "cor", "concept_rate", "list_rate", "fmr", "fcr", "div"),
    "Ratings": ("rmse", "mae", "rmse_bias", "sentiment_match", "sentiment_match_balanced"),
    "Text by standard libraries": ("sacrebleu", "chrf", *(f"rouge_score_{k}_f" for k in "12l"), "self_bleu"),
    "Text by models": ("bert_score_f", "sentence_cosine", "perplexity", "bart_score", "mauve"),
}
JUDGED = ("bleu_4", "rouge_1_f", "rouge_l_f", "cmr", "cor")


def verdict(metrics: Mapping[str, Any]) -> str:
    """Whether EQR beats its backbone, by the paired test, or where there is none by whether intervals are apart."""
    systems = metrics["systems"]
    if absent := [name for name in (BACKBONE, FULL) if name not in systems]:
        return f"No verdict on {FULL} yet: there are no metrics of {_listed(absent)}."
    full, backbone = systems[FULL], systems[BACKBONE]
    tested = metrics.get("comparisons", {}).get(FULL) and metrics.get("baseline") == BACKBONE
    judged = [ALL[key] for key in JUDGED]
    signs: dict[str, int | None]
    if tested:
        signs = {m.name: mark(metrics, FULL, m) for m in judged if m.key in metrics["comparisons"][FULL]}
    else:
        signs = {metric.name: _apart(metric, full, backbone) for metric in judged}
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
    if signs.get("COR") == 1 and None not in rates and rates[0] < rates[1]:
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
    parts = [_table(caption, keys, systems, metrics) for caption, keys in TABLES.items()]
    own_tables = {
        "What drove the ratings (planted in this corpus)": (DRIVERS, metrics.get("drivers") or systems),
        "Rewards on test, by the reward models before PPO": (REWARDS, metrics.get("rewards") or {}),
    }
    for caption, (columns, rows) in own_tables.items():
        parts.append(_table(caption, tuple(metric.key for metric in columns), rows, metrics))
    compared = metrics.get("comparisons")
    marks = (
        f"Triangle: better (\N{BLACK UP-POINTING TRIANGLE}) or worse (\N{BLACK DOWN-POINTING TRIANGLE}) than "
        f"{metrics['baseline']} in a paired test on the same records, p < {SIGNIFICANT} after Holm's correction. "
        if compared
        else ""
    )
    seeds = {scores.get("seeds", 1) for scores in systems.values()}
    spread = "\N{PLUS-MINUS SIGN}: standard deviation over seeds. " if max(seeds, default=1) > 1 else ""
    parts.append(
        tag(
            "p",
            f"Bold: best of its column. {marks}{spread}Small: 95 % interval over the test records (COR: over items). ",
            tag("a", "What each metric is", href="#definitions"),
            class_="note",
        )
    )
    parts += _not_computed(systems)
    return join(parts)


def _not_computed(systems: Mapping[str, Scores]) -> list[Html]:
    reasons: dict[str, list[str]] = {}
    for name, scores in systems.items():
        for reason in scores.get("skipped") or []:
            reasons.setdefault(str(reason), []).append(name)
    lines = [tag("li", f"for {_listed(names)}: {reason}.") for reason, names in reasons.items()]
    if not lines:
        return []
    return [tag("details", tag("summary", "Not computed"), tag("ul", *lines, class_="note"), class_="more")]


def _table(caption: str, keys: tuple[str, ...], systems: Mapping[str, Scores], tree: Mapping[str, Any]) -> Html:
    columns = [ALL[key] for key in keys]
    shown = [metric for metric in columns if any(_is_number(scores.get(metric.key)) for scores in systems.values())]
    if not shown:
        return Html()
    best = {metric.key: _best(metric, systems) for metric in shown}
    rows = [
        [_system(name, scores), *(_cell(metric, name, scores, best[metric.key], tree) for metric in shown)]
        for name, scores in systems.items()
        if any(_is_number(scores.get(metric.key)) for metric in shown)
    ]
    return table(caption, ["System", *map(heading, shown)], rows, "results")


def _system(name: str, scores: Scores) -> Html:
    seeds = [tag("small", f"{scores['seeds']} seeds")] if scores.get("seeds", 1) > 1 else []
    return join([name, *seeds])


def heading(metric: Metric) -> Html:
    """A column's name with an arrow that tells which way is better."""
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


def _cell(metric: Metric, name: str, scores: Scores, best: float | None, tree: Mapping[str, Any]) -> Html:
    value, bounds = scores.get(metric.key), scores.get(f"{metric.key}_ci")
    if not _is_number(value):
        return join([tag("span", "\N{EN DASH}", aria_hidden="true"), unseen("no value")])
    text = f"{value:.{metric.digits}f}"
    is_best = best is not None and round(value, metric.digits) == best
    parts = [tag("strong", text, unseen(" best")) if is_best else tag("span", text)]
    if sign := mark(tree, name, metric) if tree.get("comparisons") else 0:
        triangle = "\N{BLACK UP-POINTING TRIANGLE}" if sign > 0 else "\N{BLACK DOWN-POINTING TRIANGLE}"
        p = tree["comparisons"][name][metric.key]["p_holm"]
        told = f"{'better' if sign > 0 else 'worse'} than {tree['baseline']}, p {p:.2g}"
        class_ = "better" if sign > 0 else "worse"
        parts.append(tag("span", " ", tag("i", triangle, aria_hidden="true"), unseen(told), class_=class_, title=told))
    if _is_number(spread := scores.get(f"{metric.key}_sd")):
        parts.append(tag("small", f"\N{PLUS-MINUS SIGN} {spread:.{metric.digits}f}"))
    if bounds:
        parts.append(tag("small", "\N{EN DASH}".join(f"{bound:.{metric.digits}f}" for bound in bounds)))
    return join(parts)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def definitions(metrics: Mapping[str, Any]) -> Html:
    """What the suite is, what each metric shown is, and how systems were compared."""
    systems = metrics["systems"].values()
    rows = [*systems, *(scores for part in ("drivers", "rewards") for scores in (metrics.get(part) or {}).values())]
    keys = [key for own in TABLES.values() for key in own] + [metric.key for metric in (*DRIVERS, *REWARDS)]
    shown = [ALL[key] for key in keys if any(key in scores for scores in rows)]
    signatures = {f"{key}: {text}" for scores in systems for key, text in scores.items() if key.endswith("_signature")}
    return join(
        [
            tag(
                "p",
                f"Metric suite: {metrics.get('suite', 'not named')}, on {metrics.get('n', 'an unknown number of')} "
                "test records. COR and CMR have no published formula; the variants named here are comparable among "
                "runs of this project alone.",
            ),
            tag("p", _method(metrics)),
            *(tag("p", tag("code", text), class_="note") for text in sorted(signatures)),
            tag("dl", *(tag("div", tag("dt", metric.name), tag("dd", metric.definition)) for metric in shown)),
        ]
    )


def _method(metrics: Mapping[str, Any]) -> str:
    ending = " Intervals and tests tell the chance of the test records, not that of training again with another seed."
    if metrics.get("comparisons"):
        return (
            f"Systems are compared with {metrics['baseline']} on the same records: approximate randomisation (for "
            "several seeds the paired bootstrap, for metrics that count differences the jackknife), p corrected by "
            "Holm over the metrics compared." + "".join(f" {line}." for line in untested(metrics)) + ending
        )
    return (
        f"Verdict: {_listed([ALL[key].name for key in JUDGED])} are judged; clear means that the two 95 % intervals do "
        "not overlap. That is cautious: intervals that overlap do not show that two systems are equal." + ending
    )
