"""Where the systems are good and where not: cold to warm users and items, as tables with bars."""

from collections.abc import Mapping
from typing import Any

from launch.report_html import Html, join, table, tag
from launch.report_results import heading
from metrics.catalog import ALL

KEYS = ("bleu_4", "rouge_l_f", "fmr", "cmr", "usr", "rmse")


def breakdown(groups: Mapping[str, list[Mapping[str, Any]]]) -> Html:
    """A table a side ("user", "item"): a row for each group and system; empty without groups."""
    parts = [_side(side, rows) for side, rows in groups.items() if rows]
    if not parts:
        return Html()
    told = (
        "Test records by how many train records their user or item has, from cold to warm. A bar's length is the value "
        "by the largest of its column; small: 95 % interval over the records of the group."
    )
    return join([tag("p", told, class_="note"), *parts])


def _side(side: str, groups: list[Mapping[str, Any]]) -> Html:
    shown = [ALL[key] for key in KEYS if any(key in s for group in groups for s in group["systems"].values())]
    most = {m.key: max(s.get(m.key, 0) for group in groups for s in group["systems"].values()) or 1 for m in shown}
    rows = []
    for group in groups:
        for place, (system, scores) in enumerate(group["systems"].items()):
            label = f"{group['label']} (n = {group['n']:,})" if place == 0 else ""
            cells = [_cell(scores, metric.key, metric.digits, most[metric.key]) for metric in shown]
            rows.append([label, system, *cells])
    return table(f"By {side}", [side.capitalize() + "s", "System", *map(heading, shown)], rows, "results groups")


def _cell(scores: Mapping[str, Any], key: str, digits: int, most: float) -> Html:
    if key not in scores:
        return tag("span", "\N{EN DASH}")
    bounds = scores.get(f"{key}_ci")
    small = [tag("small", "\N{EN DASH}".join(f"{bound:.{digits}f}" for bound in bounds))] if bounds else []
    width = f"width:{100 * scores[key] / most:.0f}%"
    return join([tag("span", f"{scores[key]:.{digits}f}"), *small, tag("span", style=width, class_="bar")])
