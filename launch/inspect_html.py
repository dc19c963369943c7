"""The page of launch/inspect_corpus.py: one file, no script, nothing fetched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.corpus import Corpus
from datamodules.leakage import Finding
from launch.inspect_figures import Figure
from launch.inspect_prompts import KINDS, PromptRow
from launch.report_html import Html, join, pairs, table, tag
from metrics.errors import InputError

STYLE = Path(__file__).with_name("report.css")
# Nothing may be fetched or run, whatever the texts hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
OWN_STYLE = Html("""
.bars rect { fill: var(--accent); } .bars text { fill: var(--quiet); font-size: 12px; }
.grid-of-figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.5rem; }
.prompt { font-family: ui-monospace, monospace; font-size: 0.8125rem; line-height: 1.9; overflow-wrap: anywhere; }
.prompt span { border-radius: 3px; padding: 1px 2px; margin-right: 1px; white-space: pre-wrap; }
.prompt .padding { color: var(--rule); } .prompt .prompt-text { background: var(--neutral-soft); }
.prompt .soft-vector { background: var(--accent); color: var(--page); }
.prompt .learned { background: var(--liked-soft); }
.prompt .end { background: var(--disliked-soft); }
.leak { color: var(--disliked); font-weight: 700; }
""")
WIDTH, HEIGHT, LABEL = 360, 18, 84  # of a bar's room


def write_page(
    path: Path,
    corpus: Corpus,
    edges: Mapping[str, int],
    drawn: Sequence[Figure],
    findings: Sequence[Finding],
    batches: Sequence[Sequence[PromptRow]],
) -> None:
    """Writes the page; raises InputError where it cannot be written."""
    counts = {"users": len(corpus.users), "items": len(corpus.items), "concepts": len(corpus.concepts)}
    head = ("does training read ...", "found", "what was seen")
    leaks = [
        (f.check, tag("span", "repeated" if f.is_remark else "leak", class_="leak") if f.leak else Html("none"), f.seen)
        for f in findings
    ]
    body = join(
        [
            tag("h1", f"Corpus {corpus.path.name}"),
            pairs("Contents", ("what", "how many"), counts | dict(edges)),
            tag("section", tag("h2", "Leaks"), table("Held-out records in training", head, leaks, "pairs")),
            tag("section", tag("h2", "Histograms"), tag("div", *map(_bars, drawn), class_="grid-of-figures")),
            tag("section", tag("h2", "Prompt batches"), _legend(), *map(_batch, batches)),
        ]
    )
    page = join(
        [
            Html("<!doctype html>"),
            tag(
                "html",
                tag(
                    "head",
                    tag("meta", charset="utf-8"),
                    tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
                    tag("title", f"Corpus {corpus.path.name}"),
                    tag("style", Html(STYLE.read_text(encoding="utf-8")), OWN_STYLE),
                ),
                tag("body", body),
                lang="en",
            ),
        ]
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"html={path} cannot be written ({error.strerror}): name another file.") from None


def _bars(figure: Figure) -> Html:
    widest = max(figure.values, default=0) or 1
    parts = []
    for place, (label, value) in enumerate(figure.bars()):
        y, long = place * HEIGHT, round((WIDTH - LABEL - 70) * value / widest, 1)
        parts.append(tag("text", label, x=LABEL - 8, y=y + 13, text_anchor="end"))
        parts.append(tag("rect", tag("title", f"{label}: {value:,}"), x=LABEL, y=y + 2, width=long, height=HEIGHT - 4))
        parts.append(tag("text", f"{value:,}", x=LABEL + long + 6, y=y + 13))
    box = f"0 0 {WIDTH} {HEIGHT * max(len(figure.values), 1)}"
    told = ", ".join(f"{label}: {value}" for label, value in figure.bars())
    drawing = tag("svg", *parts, viewBox=box, class_="bars", role="img", aria_label=f"{figure.title}: {told}")
    return tag("figure", tag("figcaption", f"{figure.title} (by {figure.what})"), drawing)


def _class(kind: str) -> str:
    return "prompt-text" if kind == "prompt" else kind.replace(" ", "-")


def _legend() -> Html:
    return tag("p", *(tag("span", f" {kind} ", class_=_class(kind)) for kind in KINDS), class_="prompt")


def _batch(rows: Sequence[PromptRow]) -> Html:
    lines = [
        tag("p", f"record {row.record} ", *(tag("span", text, class_=_class(kind)) for text, kind in row.slots),
            class_="prompt")
        for row in rows
    ]  # fmt: skip
    return tag("div", *lines)
