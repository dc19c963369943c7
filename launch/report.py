"""Write the report of a run: one HTML file to read, send or keep.

    python launch/report.py run=runs/mine

Training writes it at its end; this command writes it anew, also of a run that is not finished. `leaderboard_page` is
the like for several runs (launch/evaluate.py runs=[...] out=table.html).
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from launch.config import command
from launch.report_charts import charts
from launch.report_folder import BACKBONE, FULL, PREDICTIONS, STAGES, Run, read_run
from launch.report_groups import breakdown
from launch.report_html import Html, join, pairs, tag
from launch.report_plots import plots
from launch.report_results import definitions, results, verdict
from launch.report_samples import COUNT, samples

STYLE = Path(__file__).with_name("report.css")
SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
# Nothing may be fetched and nothing but the search box's script run, whatever the texts hold.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
TITLES = {
    "rating": "Rating",
    "explanation": "Explanation",
    "ccr": "CCR reward model",
    "hqar": "HQAR reward model",
    "ppo": "PPO",
}

Section = tuple[str, str, Html]  # id, title, content


@dataclass(frozen=True)
class ReportConfig:
    """Keys of launch/report.py."""

    run: str = field(default=MISSING, metadata={"help": "folder of the run; report.html is written into it"})


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` and returns its path.

    One file without network or script. Parts that the run has not written yet are left out and named. Raises InputError
    for a folder that holds no part of a run, or for a part that cannot be read.
    """
    run = read_run(Path(run_dir))
    path = run.path / "report.html"
    path.write_text(page(run), encoding="utf-8", errors="backslashreplace")
    return path


def page(run: Run) -> str:
    """The report as HTML."""
    name = run.path.resolve().name
    parts = (*_results(run), *_curves(run), *_samples(run), *_setting(run))
    return _page(f"{name}: LLM2ER-EQR run", _headline(run, name), [section for section in parts if section[2]])


def leaderboard_page(tree: Mapping[str, Any], predictions: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """The page of several systems: the tree of launch/leaderboard.py and what each system wrote."""
    names = list(tree["systems"])
    headline = join(
        [
            tag("p", "Explained recommendations", class_="kicker"),
            tag("h1", f"{len(names)} systems on {tree['n']:,} records"),
            tag("p", ", ".join(names), class_="facts"),
        ]
    )
    sections = [
        ("results", "Leaderboard", results(tree)),
        ("groups", "Cold to warm", breakdown(tree.get("groups", {}))),
        ("plots", "Lengths and ratings", plots(predictions)),
        ("samples", "Explanations", samples(predictions, names[-1])),
        ("definitions", "What the numbers mean", definitions(tree)),
    ]
    return _page(f"{len(names)} systems", headline, [section for section in sections if section[2]])


def _page(title: str, headline: Html, sections: Sequence[Section]) -> str:
    links = (tag("a", name, href=f"#{key}") for key, name, _ in sections)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("header", headline, tag("nav", *links, aria_label="Sections"), class_="top"),
        tag("main", *(_section(*section) for section in sections)),
        tag("script", Html(SCRIPT)),
    )
    return "<!doctype html>\n" + tag("html", head, "\n", body, lang="en") + "\n"


def _section(key: str, title: str, content: Html) -> Html:
    return join(["\n", tag("section", tag("h2", title), content, id=key)])


def _headline(run: Run, name: str) -> Html:
    judged = verdict(run.metrics) if run.metrics.get("systems") else "No verdict yet: the result stage has not run."
    facts = [f"Corpus: {run.config.get('data.path') or 'the embedded synthetic one'}"] if run.config else []
    facts += [f"{run.metrics['n']:,} test records"] if "n" in run.metrics else []
    if run.metrics.get("systems"):
        facts.append(tag("a", "How this is judged", href="#definitions"))
    missing, warnings = _missing(run), [f"Warning: {line}" for line in run.warnings]
    return join(
        [
            tag("p", "LLM2ER-EQR run", class_="kicker"),
            tag("h1", name),
            tag("p", judged, class_="verdict"),
            tag("p", *(tag("span", fact) for fact in facts), class_="facts"),
            tag("ul", *(tag("li", line) for line in warnings), id="warnings") if warnings else Html(),
            tag("ol", *(_stage(run, stage) for stage in STAGES), class_="stages", aria_label="Stages of the run"),
            tag("ul", *(tag("li", line) for line in missing), id="missing", class_="note") if missing else Html(),
        ]
    )


def _stage(run: Run, stage: str) -> Html:
    last = max((curve.points[-1][0] for curve in run.curves.get(stage, {}).values() if curve.points), default=None)
    if source := run.config.get(f"{stage}.init_from"):
        state, class_ = f"from {source}", "done"
    elif stage in run.finished:
        state, class_ = "finished", "done"
    elif last is not None:
        state, class_ = "not finished", "begun"
    else:
        state, class_ = "not run", "absent"
    steps = f"{state}, step {last:,}" if last is not None else state
    return tag("li", tag("b", TITLES[stage]), tag("span", steps), class_=class_)


def _missing(run: Run) -> list[str]:
    """A sentence for each part that the report lacks, with the stage that writes it."""
    lines = [
        f"No curves of {TITLES[stage]}: the {stage} stage "
        f"{'kept no log' if stage in run.finished else 'has not run here'} ({stage}/metrics.csv)."
        for stage in STAGES
        if stage not in run.curves and not run.config.get(f"{stage}.init_from")
    ]
    if not run.metrics.get("systems"):
        lines.append("No results: the result stage has not run (metrics.json).")
    lines += [
        f"No explanations of {system}: the result stage has not run ({file})."
        for system, file in PREDICTIONS.items()
        if system not in run.predictions
    ]
    given = {"config.yaml": run.config, "versions.json": run.versions, "command.txt": run.command}
    return lines + [
        f"No {name}: launch/train.py writes it when a run starts." for name, part in given.items() if not part
    ]


def _results(run: Run) -> list[Section]:
    return [
        ("results", "Results", results(run.metrics) if run.metrics.get("systems") else Html()),
        ("groups", "Cold to warm", breakdown(run.metrics.get("groups", {}))),
        ("plots", "Lengths and ratings", plots(run.predictions)),
    ]


def _curves(run: Run) -> list[Section]:
    parts = []
    for stage in STAGES:
        if stage not in run.curves:
            continue
        parts += [tag("h3", TITLES[stage]), charts(stage, run.curves[stage])]
        if stage == "ppo":
            updates = charts("ppo updates", run.curves[stage])
            parts.append(tag("details", tag("summary", "Health of the PPO updates"), updates, class_="more"))
    legend = "Thin: train (of PPO: sampled texts). Thick: validation (of PPO: greedy texts of held-out prompts)."
    return [("curves", "Curves", join([tag("p", legend, class_="note"), *parts]))] if parts else []


def _samples(run: Run) -> list[Section]:
    if not run.predictions:
        return []
    note = (
        f"At most {COUNT} test records, drawn by a fixed seed, spread evenly over the predicted ratings from low to "
        "high. Open a concept for the path that led to it. Marked in the texts: candidate concepts, as the "
        "metrics find them."
    )
    leading = FULL if FULL in run.predictions else BACKBONE
    return [("samples", "Explanations", join([tag("p", note, class_="note"), samples(run.predictions, leading)]))]


def _setting(run: Run) -> list[Section]:
    command_line = [tag("h3", "Command"), tag("pre", run.command, tabindex="0")] if run.command else []
    versions = [pairs("Versions", ("Package", "Version"), run.versions)] if run.versions else []
    config = [
        tag(
            "details",
            tag("summary", f"Config, {len(run.config)} keys"),
            pairs("Config", ("Key", "Value"), run.config),
            class_="more",
        )
    ]
    return [
        ("definitions", "What the numbers mean", definitions(run.metrics) if run.metrics.get("systems") else Html()),
        ("setting", "How it was run", join([*command_line, *versions, *(config if run.config else [])])),
    ]


def main(cfg: ReportConfig) -> None:
    """Writes the report and prints where it is."""
    print(f"wrote {write_report(Path(cfg.run))}")


if __name__ == "__main__":
    command(main, ReportConfig, __doc__)
