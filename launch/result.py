"""The result of a run: predictions on test, their metrics beside trivial answers, the table, the report."""

import json
import logging
from collections import Counter

import numpy as np

from datamodules.corpus import Corpus
from datamodules.importers.embedded import load_truth
from datamodules.predictions import predictions
from launch.evaluate import train_knowledge
from launch.report import write_report
from launch.report_folder import BACKBONE, FULL
from launch.stages import Run, write_jsonl
from lightning_modules.collectives import barrier, world
from metrics.phrases import PhraseMatcher
from metrics.rating import fit_bias, predict_bias
from metrics.suite import evaluate, format_table

log = logging.getLogger("llm2er")

FREQUENT, BIAS = "item's most frequent sentence", "user+item bias"


def result(run: Run) -> None:
    """Explains the test split with the backbone and, if PPO is finished, the tuned model, and judges them."""
    test = run.corpus.rows("test")
    backbone = run.generate(run.folder.need("explanation", "result"), test, "explanation")
    texts = {BACKBONE: backbone}
    if run.folder.done("ppo"):
        texts[FULL] = run.generate(run.folder.export("ppo"), test, "ppo")
    if world()[0] == 0:
        evidence = run.evidence("result")
        texts[FREQUENT] = frequent_sentences(run.corpus, test)
        systems = {name: predictions(run.corpus, evidence, found) for name, found in texts.items()}
        path = run.folder.path
        run.folder.stage("explanation").mkdir(exist_ok=True)  # the stage itself may be another run's
        write_jsonl(run.folder.stage("explanation") / "predictions.jsonl", systems[BACKBONE])
        write_jsonl(path / "predictions.jsonl", systems[FULL if FULL in systems else BACKBONE])
        scores = judge(run, systems)
        (path / "metrics.json").write_text(json.dumps(scores, indent=1) + "\n")
        report = write_report(path)
        print(format_table(scores["systems"]))
        for line in driver_lines(scores.get("drivers", {})):
            print(line)
        print(examples(systems, run.config.result.examples, run.config.seed))
        log.info("wrote %s, %s and %s", path / "predictions.jsonl", path / "metrics.json", report)
    barrier()


def frequent_sentences(corpus: Corpus, records: np.ndarray) -> dict[int, str]:
    """The trivial answer: the item's most frequent train sentence, the first of equals; "" for a cold item."""
    said: dict[int, Counter] = {}
    for record in corpus.rows("train").tolist():
        said.setdefault(int(corpus.item_R[record]), Counter())[corpus.explanations[record]] += 1
    best = {item: counts.most_common(1)[0][0] for item, counts in said.items()}
    return {record: best.get(int(corpus.item_R[record]), "") for record in records.tolist()}


def judge(run: Run, systems: dict[str, list[dict]]) -> dict:
    """Metrics of every system, of the bias predictor, and of the planted drivers where the corpus knows them."""
    corpus, resamples, seed = run.corpus, run.config.result.resamples, run.config.seed
    knowledge = train_knowledge(corpus)
    scores = {name: evaluate(rows, knowledge, resamples, seed) for name, rows in systems.items()}
    scores[FREQUENT] = {key: value for key, value in scores[FREQUENT].items() if not key.startswith(("rmse", "mae"))}
    train, test = corpus.rows("train"), corpus.rows("test")
    bias = fit_bias(
        corpus.user_R[train], corpus.item_R[train], corpus.rating_R[train], len(corpus.users), len(corpus.items), 5.0
    )
    predicted = predict_bias(*bias, corpus.user_R[test], corpus.item_R[test])
    rows = [
        {"explanation": "", "reference": "-", "rating": float(corpus.rating_R[r]), "predicted_rating": float(p)}
        for r, p in zip(test, predicted, strict=True)
    ]
    rated = evaluate(rows, knowledge, resamples, seed)
    scores[BIAS] = {key: value for key, value in rated.items() if key.startswith(("rmse", "mae")) or key == "n"}
    judged = {"n": len(test), "suite": "paper", "seed": seed, "systems": scores}
    if (corpus.path / "truth.parquet").is_file():
        judged["drivers"] = {name: driver_scores(corpus, rows) for name, rows in systems.items()}
    return judged


def driver_scores(corpus: Corpus, rows: list[dict]) -> dict[str, float]:
    """How well explanations name what drove the rating, on a corpus whose truth was planted.

    Precision: named concepts that are drivers; recall: drivers that are named; both over all records together.
    `names_a_driver`: share of records that name at least one.
    """
    matcher, truth = PhraseMatcher(corpus.concepts), load_truth(corpus)
    named = [matcher.find(row["explanation"]) for row in rows]
    drivers = [set(truth[row["record"]]) for row in rows]
    hits = [len(a & b) for a, b in zip(named, drivers, strict=True)]
    return {
        "driver_precision": sum(hits) / max(1, sum(map(len, named))),
        "driver_recall": sum(hits) / max(1, sum(map(len, drivers))),
        "names_a_driver": sum(hit > 0 for hit in hits) / len(rows),
    }


def driver_lines(drivers: dict[str, dict[str, float]]) -> list[str]:
    """The planted-truth figures as text."""
    if not drivers:
        return []
    lines = ["", "what drove the rating (planted in this corpus): precision, recall, share naming a driver"]
    for name, row in drivers.items():
        lines.append(f"  {name:<32}" + "  ".join(f"{value:.3f}" for value in row.values()))
    return lines


def examples(systems: dict[str, list[dict]], count: int, seed: int) -> str:
    """Some explanations side by side, drawn by seed."""
    rows = systems[BACKBONE]
    chosen = np.random.Generator(np.random.Philox(key=[seed, 5])).permutation(len(rows))[:count]
    lines = []
    for i in sorted(chosen.tolist()):
        row = rows[i]
        lines += [
            "",
            f"user {row['user']}, item {row['item']}: rated {row['rating']:g}, predicted {row['predicted_rating']:.2f}",
            f"  candidates  {', '.join(concept['concept'] for concept in row['concepts'])}",
            f"  written     {row['reference']}",
        ]
        told = [name for name in (BACKBONE, FULL) if name in systems]
        lines += [f"  {name:<11} {systems[name][i]['explanation']}" for name in told]
    return "\n".join(lines)
