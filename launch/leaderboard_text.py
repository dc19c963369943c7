"""A leaderboard as Markdown, LaTeX and aligned text."""

from collections.abc import Callable, Mapping
from typing import Any

from metrics.catalog import ALL, MAIN, Metric
from metrics.significance import SIGNIFICANT

Tree = Mapping[str, Any]
COLUMNS = 8  # metrics a table; more would not fit a page


def note(tree: Tree) -> str:
    """What the numbers are: suite, records, seeds, intervals, marks."""
    seeds = {scores.get("seeds", 1) for scores in tree["systems"].values()}
    parts = [f"Suite {tree['suite']}, {tree['n']} test records", "[low, high]: 95 % interval over records"]
    if max(seeds) > 1:
        parts.append("mean of the seeds given, \N{PLUS-MINUS SIGN} standard deviation over seeds")
    if tree["comparisons"]:
        tests = max(sum(test["p"] is not None for test in found.values()) for found in tree["comparisons"].values())
        parts.append(
            f"^ better and v worse than {tree['baseline']} with p < {SIGNIFICANT} in a paired test, corrected (Holm) "
            f"for {tests} metrics"
        )
        least = 1 / (1 + min(tree["resamples"], tree["trials"]))
        if tests * least >= SIGNIFICANT:
            parts.append(f"with so few resamples or trials no p is below {least:.2g}, too high for {tests} metrics")
        parts += untested(tree)
    return "; ".join(parts) + "."


def untested(tree: Tree) -> list[str]:
    """What has no test and why, a sentence a metric."""
    tests = {key: test.get("no_p") for found in tree["comparisons"].values() for key, test in found.items()}
    return [f"{key} has no test: {reason}" for key, reason in tests.items() if reason]


def mark(tree: Tree, system: str, metric: Metric) -> int:
    """1 where the system is better than the baseline after correction, -1 where worse, else 0."""
    found = tree["comparisons"].get(system, {}).get(metric.key)
    if not found or not metric.better or found["p_holm"] is None or found["p_holm"] >= SIGNIFICANT:
        return 0
    sign = 1 if found["difference"] > 0 else -1
    return sign if metric.better == "higher" else -sign


def shown(tree: Tree) -> list[Metric]:
    """The main metrics that any system has."""
    return [ALL[key] for key in MAIN if any(key in scores for scores in tree["systems"].values())]


def best(tree: Tree, metric: Metric) -> float | None:
    """The best printed value of a column; None where there is nothing to choose between."""
    values = {round(s[metric.key], metric.digits) for s in tree["systems"].values() if metric.key in s}
    if not metric.better or len(values) < 2:
        return None
    return max(values) if metric.better == "higher" else min(values)


def markdown(tree: Tree) -> str:
    """Tables of at most COLUMNS metrics, the best of each column bold."""
    blocks = []
    for metrics in _chunks(shown(tree)):
        lines = [
            "| system | " + " | ".join(metric.name for metric in metrics) + " |",
            "| --- |" + " ---: |" * len(metrics),
        ]
        for system in tree["systems"]:
            cells = [_cell(tree, system, metric, "**{}**", "<br>", {1: " ^", -1: " v", 0: ""}) for metric in metrics]
            lines.append(f"| {system.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    signatures = [f"`{text}`" for text in _signatures(tree)]
    return "\n\n".join([*blocks, note(tree), *signatures]) + "\n"


def latex(tree: Tree) -> str:
    """A table environment a block, for booktabs."""
    blocks = []
    for metrics in _chunks(shown(tree)):
        head = " & ".join(["System", *(_tex(metric.name) for metric in metrics)])
        lines = [rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule", head + r" \\", r"\midrule"]
        for system in tree["systems"]:
            marks = {1: r"$^{\uparrow}$", -1: r"$^{\downarrow}$", 0: ""}
            cells = [_cell(tree, system, metric, r"\textbf{{{}}}", "", marks) for metric in metrics]
            bounds = [_tex(_bounds(tree["systems"][system], metric)) for metric in metrics]
            lines += [" & ".join([_tex(system), *cells]) + r" \\"]
            if any(bounds):
                lines.append(" & ".join(["", *(rf"\scriptsize {text}" if text else "" for text in bounds)]) + r" \\")
        blocks.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    told = note(tree).replace("^ better", r"$\uparrow$ better").replace("v worse", r"$\downarrow$ worse")
    comment = "\n".join(f"% {line}" for line in _signatures(tree))
    page = f"% needs \\usepackage{{booktabs}}\n{comment}\n" + "\n\n".join(blocks) + f"\n\n% caption: {told}\n"
    return page.replace("\N{PLUS-MINUS SIGN}", r"$\pm$")


def comparison_lines(tree: Tree) -> list[str]:
    """The paired test of each system against the baseline as aligned text."""
    lines = []
    for system, found in tree["comparisons"].items():
        rows = [["metric", system, tree["baseline"], "difference", "95 % interval", "p", "p (Holm)", ""]]
        for key, test in found.items():
            metric = ALL[key]
            ci = f"[{_signed(test['ci'][0], metric)}, {_signed(test['ci'][1], metric)}]" if test["ci"] else "-"
            verdict = {1: f"{system} better", -1: f"{tree['baseline']} better", 0: ""}[mark(tree, system, metric)]
            p = [_p(value) for value in (test["p"], test["p_holm"])]
            values = [f"{test[side]:.{metric.digits}f}" for side in ("ours", "theirs")]
            rows.append([key, *values, _signed(test["difference"], metric), ci, *p, verdict])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for first, *numbers, verdict in rows:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells, verdict]).rstrip())
        lines.append("")
    return lines


def _cell(tree: Tree, system: str, metric: Metric, bold: str, new_line: str, marks: Mapping[int, str]) -> str:
    scores = tree["systems"][system]
    if metric.key not in scores:
        return "-"
    text = f"{scores[metric.key]:.{metric.digits}f}"
    if best(tree, metric) == round(scores[metric.key], metric.digits):
        text = bold.format(text)
    if f"{metric.key}_sd" in scores:
        text += f" \N{PLUS-MINUS SIGN} {scores[metric.key + '_sd']:.{metric.digits}f}"
    bounds = _bounds(scores, metric)
    return text + marks[mark(tree, system, metric)] + (new_line + bounds if new_line and bounds else "")


def _bounds(scores: Mapping[str, Any], metric: Metric) -> str:
    ci = scores.get(f"{metric.key}_ci")
    return f"[{ci[0]:.{metric.digits}f}, {ci[1]:.{metric.digits}f}]" if ci else ""


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _signed(value: float, metric: Metric) -> str:
    return f"{value:+.{metric.digits}f}"


def _signatures(tree: Tree) -> list[str]:
    found: dict[str, None] = {}
    for scores in tree["systems"].values():
        found |= {f"{key}: {value}": None for key, value in scores.items() if key.endswith("_signature")}
    return list(found)


def _chunks(metrics: list[Metric]) -> list[list[Metric]]:
    return [metrics[start : start + COLUMNS] for start in range(0, len(metrics), COLUMNS)]


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {character: "\\" + character for character in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


WRITERS: dict[str, Callable[[Tree], str]] = {".md": markdown, ".tex": latex}
