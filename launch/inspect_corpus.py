"""Shows what a corpus holds: counts, histograms, a check for leaks between splits, prompt batches with their masks.

    python launch/inspect_corpus.py data.path=data/mine
    python launch/inspect_corpus.py data.path=data/mine run=runs/mine html=mine.html

Prints tables and writes a page with pictures. With `run` the prompts are those of that run; without, candidate concepts
come from an untrained graph (all attention equal) and the tokenizer is trained on the spot. Exits with status 1 if a
leak is found; texts that are repeated between splits are a remark.

Not `inspect.py`: `python launch/inspect.py` puts launch/ first on sys.path, where that name would shadow the standard
library's `inspect`, which torch imports.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.corpus import SPLITS, Corpus
from datamodules.graph import GraphConfig, build_graph
from datamodules.leakage import Finding, check_leakage
from launch.config import command
from launch.inspect_figures import Figure, figures
from launch.inspect_html import write_page
from launch.inspect_prompts import LEGEND, coloured, prompt_batches
from metrics.errors import InputError

SHOWN = 12  # frequent concepts printed
REPEATED_REMEDY = (
    "metrics of overlap are higher for it: take repeated texts out of the raw file, or put all records of one text in "
    "the same split, then run launch/prepare.py again"
)
LEAK_REMEDY = (
    "mend the splits of the raw file (each user and item once, in one split), or give none, and make the folder again "
    "with launch/prepare.py"
)


@dataclass(frozen=True)
class CorpusPath:
    """The corpus to look at."""

    path: str = field(default="???", metadata={"help": "corpus folder made by launch/prepare.py"})


@dataclass(frozen=True)
class InspectConfig:
    """Keys of launch/inspect_corpus.py."""

    data: CorpusPath = field(default_factory=CorpusPath)
    run: str = field(default="", metadata={"help": "a run on this corpus whose prompts to show; empty: untrained ones"})
    html: str = field(default="inspect.html", metadata={"help": "page to write; empty: none"})
    batches: int = field(default=5, metadata={"help": "prompt batches to show"})
    rows: int = field(default=3, metadata={"help": "prompts a batch"})
    seed: int = field(default=7, metadata={"help": "of the choice of prompts"})

    def __post_init__(self) -> None:
        if self.batches < 0 or self.rows < 1 or self.seed < 0:
            raise InputError(f"batches={self.batches}, rows={self.rows}, seed={self.seed}: use at least 0, 1 and 0")


def main(config: InspectConfig) -> None:
    """Prints and writes; exits with status 1 if a leak is found."""
    corpus, console = Corpus.load(config.data.path), Console()
    graph = build_graph(corpus, GraphConfig())
    edges = {f"{s} {name} {t}": graph.data[s, name, t].edge_index.shape[1] for s, name, t in graph.relations[::2]}
    drawn, findings = figures(corpus), check_leakage(corpus, graph)
    batches = prompt_batches(corpus, graph, config.run, config.batches, config.rows, config.seed)
    for table in (
        _counts(corpus),
        _table("edges of the graph (each with its reverse)", ("relation", "edges"), edges.items()),
        *map(_figure, drawn),
        _concepts(corpus),
        _leaks(findings),
    ):
        console.print(table)
    for number, batch in enumerate(batches, start=1):
        console.print(f"\n[bold]prompt batch {number} of {len(batches)}[/bold]  {LEGEND}")
        for row in batch:
            console.print(coloured(row))
    if config.html:
        write_page(Path(config.html), corpus, edges, drawn, findings, batches)
        console.print(f"\nwritten to {config.html}")
    for finding in findings:
        if finding.is_remark:
            console.print(Text(f"\nremark: {finding.seen}; {REPEATED_REMEDY}"))
    leaks = [finding.check for finding in findings if finding.leak and not finding.is_remark]
    if leaks:
        raise SystemExit(f"leak found: {', '.join(leaks)}; {LEAK_REMEDY}")


def _counts(corpus: Corpus) -> Table:
    rows = []
    for split in SPLITS:
        chosen = corpus.rows(split)
        record_M, concept_M, _ = corpus.mention_columns(chosen)
        rows.append(
            (
                split,
                len(chosen),
                len(np.unique(corpus.user_R[chosen])),
                len(np.unique(corpus.item_R[chosen])),
                len(np.unique(concept_M)),
                f"{len(record_M) / max(len(chosen), 1):.2f}",
                f"{corpus.rating_R[chosen].mean():.3f}" if len(chosen) else "",
            )
        )
    title = f"{corpus.path}: {len(corpus.users)} users, {len(corpus.items)} items, {len(corpus.concepts)} concepts"
    head = ("split", "records", "users", "items", "concepts", "concepts named a record", "mean rating")
    return _table(f"{title}; concepts {corpus.manifest['concepts']}", head, rows)


def _figure(figure: Figure) -> Table:
    widest = max(figure.values, default=0) or 1
    rows = [(label, value, "█" * round(40 * value / widest)) for label, value in figure.bars()]
    return _table(figure.title, (figure.what, "count", ""), rows)


def _concepts(corpus: Corpus) -> Table:
    count = np.bincount(corpus.mention_columns(corpus.rows("train"))[1], minlength=len(corpus.concepts))
    rows = [(name, int(number)) for name, number in zip(corpus.concepts[:SHOWN], count, strict=False)]
    return _table("most frequent concepts in train", ("concept", "mentions"), rows)


def _leaks(findings: list[Finding]) -> Table:
    rows = [(finding.check, _verdict(finding), finding.seen) for finding in findings]
    return _table("leaks", ("does training read ...", "found", "what was seen"), rows)


def _verdict(finding: Finding) -> Text:
    if finding.is_remark:
        return Text("repeated", "yellow")
    return Text("LEAK", "bold red") if finding.leak else Text("none", "green")


def _table(title: str, head: tuple[str, ...], rows) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 or name in ("", "found", "what was seen") else "right")
    for row in rows:
        # As `Text`: a string would be searched for markup, which names and reviews may hold.
        cells = (f"{cell:,}" if isinstance(cell, int) else cell for cell in row)
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    return table


if __name__ == "__main__":
    command(main, InspectConfig, __doc__)
