"""Score predictions, compare systems, make a leaderboard.

    python launch/evaluate.py predictions=a.jsonl [suite=paper|standard|all] [data.path=CORPUS] [json=true]
    python launch/evaluate.py predictions=a.jsonl against=b.jsonl
    python launch/evaluate.py runs=[runs/peter,runs/llm2er,runs/eqr] out=table.html

Predictions are a run's predictions.jsonl, JSON lines of any program with `reference` and `explanation`, or PETER's and
PEPLER's generated.txt. The corpus, from whose train split the concept metrics know the concepts of users and items, is
the one of the run that the file lies in, unless data.path names another. docs/metrics.md defines every figure. With
torchrun the work is dealt to the ranks; the figures stay the same to the last digit.
"""

from launch.launcher import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()

import contextlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from datamodules.corpus import Corpus
from launch import dealing
from launch.config import command
from launch.faithfulness import driver_lines, drivers, has_truth
from launch.knowledge import corpus_of_run, full_knowledge, listed_knowledge, train_knowledge, with_indices
from launch.leaderboard import Judging, leaderboard
from launch.leaderboard_text import WRITERS, comparison_lines, markdown, untested
from launch.scoring import SUITES, StandardConfig, measure
from launch.systems import Systems, corpus_path, read_systems, rows_of
from metrics.catalog import ALL, MAIN
from metrics.columns import Predictions
from metrics.errors import InputError
from metrics.measures import ConceptKnowledge, Measures
from metrics.table import format_table

__all__ = ["EvaluateConfig", "corpus_of_run", "main", "train_knowledge"]

OUT = (".html", ".json", *WRITERS)


@dataclass(frozen=True)
class DataConfig:
    """Where the corpus lies."""

    path: str = field(default="", metadata={"help": "corpus folder; empty: that of the run the predictions lie in"})


@dataclass(frozen=True)
class EvaluateConfig:
    """What to score and how to print it."""

    predictions: str = field(default="", metadata={"help": "predictions to score: JSON lines, or generated.txt"})
    against: str = field(default="", metadata={"help": "predictions of another system on the same records"})
    runs: list[str] = field(default_factory=list, metadata={"help": "run folders or files; the first is the baseline"})
    out: str = field(default="", metadata={"help": f"write the leaderboard there: {', '.join(OUT)}"})
    suite: str = field(default="paper", metadata={"help": f"{', '.join(SUITES)}"})
    standard: StandardConfig = field(default_factory=StandardConfig)
    data: DataConfig = field(default_factory=DataConfig)
    vocabulary: str = field(default="", metadata={"help": "without a corpus: file of concepts, one a line"})
    rating_range: list[float] = field(
        default_factory=lambda: [1.0, 5.0], metadata={"help": "without a corpus: predicted ratings are clipped to it"}
    )
    metrics: list[str] = field(default_factory=list, metadata={"help": "metrics compared; empty: the main ones"})
    json: bool = field(default=False, metadata={"help": "print one flat JSON object instead of a table"})
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples; 0: no intervals, no tests"})
    trials: int = field(default=1000, metadata={"help": "trials of approximate randomisation"})
    seed: int = field(default=0, metadata={"help": "seed of bootstrap and randomisation"})

    def __post_init__(self) -> None:
        """One kind of work, counts that are none below zero, names that exist."""
        for name, value in (("resamples", self.resamples), ("trials", self.trials), ("seed", self.seed)):
            if value < 0:
                raise InputError(f"{name}={value} must not be negative")
        if self.predictions in ("", MISSING) and not self.runs:
            raise InputError("`predictions` must be given: a predictions file to score; or `runs`, several to compare")
        if self.runs and (self.predictions or self.against):
            raise InputError("`runs` is given with `predictions` or `against`; give one or the other")
        if self.out and (not self.runs or Path(self.out).suffix not in OUT):
            raise InputError(f"out={self.out}: give `runs` too, and a name that ends with one of {', '.join(OUT)}")
        if self.suite not in SUITES:
            raise InputError(f"suite={self.suite}: use one of {', '.join(SUITES)}")
        if unknown := [name for name in self.metrics if name not in ALL]:
            raise InputError(f"metrics: {unknown[0]} is no metric; docs/metrics.md lists them")
        if len(self.rating_range) != 2 or not self.rating_range[0] < self.rating_range[1]:
            raise InputError(f"rating_range={self.rating_range}: give the lowest and the highest rating")


def main(cfg: EvaluateConfig) -> None:
    """Reads, scores on all ranks, prints on the first."""
    entries = list(cfg.runs) or [cfg.predictions, *([cfg.against] if cfg.against else [])]
    # libraries greet; standard output is for the figures
    with dealing.joined(), contextlib.redirect_stdout(sys.stderr):
        systems = read_systems(entries)
        if cfg.against and len(systems) == 1:  # two seeds of one system are two systems here
            systems = {entry: {entry: seed} for seeds in systems.values() for entry, seed in seeds.items()}
        corpus, knowledge = _knowledge(cfg, entries)
        measured = {name: _measured(seeds, corpus, knowledge, cfg) for name, seeds in systems.items()}
        if dealing.ranks()[0] > 0:
            return
    if cfg.against:  # the first named is the one that is asked about
        measured = dict(reversed(measured.items()))
    judging = Judging(
        cfg.suite, cfg.standard, tuple(cfg.metrics) or MAIN, cfg.resamples, cfg.trials, cfg.seed, bool(cfg.runs)
    )
    firsts = {name: next(iter(seeds.values())) for name, seeds in systems.items() if seeds}
    tree = leaderboard(firsts, measured, knowledge, judging)
    if cfg.runs:
        _leaderboard(cfg, tree, systems)
    elif cfg.against:
        _comparison(cfg, tree)
    else:
        _single(cfg, tree)


def _knowledge(cfg: EvaluateConfig, entries: list[str]) -> tuple[Corpus | None, ConceptKnowledge]:
    path = Path(cfg.data.path) if cfg.data.path else corpus_path(entries)
    if path is None:
        return None, listed_knowledge(cfg.vocabulary, cfg.rating_range)
    corpus = Corpus.load(path)
    return corpus, full_knowledge(corpus)


def _measured(
    seeds: dict[str, Predictions], corpus: Corpus | None, knowledge: ConceptKnowledge, cfg: EvaluateConfig
) -> list[Measures]:
    """The measures of each seed. What a leaderboard does not ask for again is let go: it may be millions of texts."""
    measured = []
    for entry in list(seeds):
        if corpus is not None:
            seeds[entry] = with_indices(seeds[entry], corpus)
        measured.append(_measure(seeds[entry] if cfg.runs else seeds.pop(entry), corpus, knowledge, cfg))
    return measured


def _measure(seed: Predictions, corpus: Corpus | None, knowledge: ConceptKnowledge, cfg: EvaluateConfig) -> Measures:
    measures = measure(seed, knowledge, cfg.suite, cfg.standard)
    if corpus is not None and has_truth(corpus) and cfg.suite != "standard":
        n = len(corpus.explanations)
        if all(isinstance(record, int) and 0 <= record < n for record in seed.ids["record"].told()):
            measures.families.append(drivers(corpus, seed))
    return measures


def _single(cfg: EvaluateConfig, tree: dict[str, Any]) -> None:
    ((_, scores),) = tree["systems"].items()
    if cfg.json:
        print(json.dumps(scores))
        return
    print(format_table({cfg.predictions: scores}))
    for line in (*driver_lines({cfg.predictions: scores}), *_told(scores)):
        print(line)


def _comparison(cfg: EvaluateConfig, tree: dict[str, Any]) -> None:
    theirs = tree["baseline"]
    ours = next(name for name in tree["systems"] if name != theirs)
    found = tree["comparisons"].get(ours, {})
    if cfg.json:
        print(json.dumps({"n": tree["n"], "ours": ours, "theirs": theirs} | _flat(found)))
        return
    print(format_table(tree["systems"]))
    print("\n" + "\n".join(comparison_lines(tree)), end="")
    if found:
        print(
            f"difference: {ours} minus {theirs}. p: approximate randomisation, for those that count what is different "
            "(Distinct, USR, FCR) the jackknife; Holm's correction is for the metrics listed."
        )
        for line in untested(tree):
            print(line)
        for key, test in found.items():
            if test["no_ci"] and not test["no_p"]:
                print(f"{key} has no interval of the difference: {test['no_ci']}")
    else:
        print("no tests: they need two records and resamples above 0")
    told = [_told(tree["systems"][name]) for name in (ours, theirs)]
    for line in told[0]:
        print(line if line in told[1] else f"{ours}: {line}")
    for line in told[1]:
        if line not in told[0]:
            print(f"{theirs}: {line}")


def _flat(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """metric_ours, metric_theirs, metric_difference, metric_difference_ci, metric_p, metric_p_holm."""
    flat: dict[str, Any] = {}
    for key, test in found.items():
        named = {"difference_ci" if part == "ci" else part: value for part, value in test.items()}
        flat |= {f"{key}_{part}": value for part, value in named.items() if value is not None}
    return flat


def _leaderboard(cfg: EvaluateConfig, tree: dict[str, Any], systems: Systems) -> None:
    if not cfg.out:
        print(json.dumps(tree) if cfg.json else markdown(tree))
        return
    out = Path(cfg.out)
    if out.suffix == ".html":
        from launch.report import leaderboard_page

        # aligned, so that the place names a record also where a program gave it no id
        shown = {
            name: [row | {"record": place} for place, row in enumerate(rows_of(*next(iter(seeds.items()))))]
            for name, seeds in systems.items()
        }
        text = leaderboard_page(tree, shown)
    elif out.suffix == ".json":
        text = json.dumps(tree, indent=1) + "\n"
    else:
        text = WRITERS[out.suffix](tree)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8", errors="backslashreplace")  # JSON may hold half a surrogate pair
    except OSError as error:
        raise InputError(f"out={out} cannot be written ({error.strerror}); name another file.") from None
    print(f"wrote {out}")


def _told(scores: dict[str, Any]) -> list[str]:
    signatures = [f"{key}: {value}" for key, value in scores.items() if key.endswith("_signature")]
    return [*signatures, *(f"skipped {reason}" for reason in scores["skipped"])]


if __name__ == "__main__":
    command(main, EvaluateConfig, __doc__)
