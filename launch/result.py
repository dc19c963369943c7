"""The result of a run: predictions on test, their metrics beside trivial answers, the table, the report."""

import json
import logging
from collections import Counter
from typing import Any

import numpy as np
import torch

from datamodules.corpus import Corpus
from datamodules.importers.embedded import load_truth
from datamodules.predictions import predictions
from datamodules.quality import pad
from launch.evaluate import train_knowledge
from launch.report import write_report
from launch.report_folder import BACKBONE, FULL
from launch.stages import Run, write_jsonl
from lightning_modules.collectives import barrier, world
from metrics.bootstrap import bootstrap, interval
from metrics.phrases import PhraseMatcher
from metrics.rating import fit_bias, predict_bias
from metrics.suite import evaluate, format_table
from models.language_model import load_tokenizer

log = logging.getLogger("llm2er")

SCORED_AT_ONCE = 256  # explanations
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
        for line in [*reward_lines(scores.get("rewards", {})), *driver_lines(scores.get("drivers", {}))]:
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
    if run.folder.done("ccr") and run.folder.done("hqar"):
        texts = {name: [row["explanation"] for row in rows] for name, rows in systems.items()}
        records = [row["record"] for row in systems[BACKBONE]]
        judged["rewards"] = {name: reward_scores(run, records, found) for name, found in texts.items()}
    if (corpus.path / "truth.parquet").is_file():
        judged["drivers"] = {name: driver_scores(corpus, rows) for name, rows in systems.items()}
    return judged


def reward_scores(run: Run, records: list[int], texts: list[str]) -> dict[str, Any]:
    """Mean rewards of explanations, with intervals, by the reward models as their stages left them, before PPO."""
    tokenizer = load_tokenizer(str(run.folder.need("explanation", "result") / "lm"))
    scorer, builder = run.scorer("result", tokenizer), run.builder("result", tokenizer)
    names = [[run.corpus.concepts[c] for c in run.evidence("result").concept_RK[record].tolist()] for record in records]
    columns = []
    for start in range(0, len(texts), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        response_BT, mask_BT = pad([builder.response(text) for text in texts[part]], tokenizer.pad_token_id)
        scores = scorer.score(response_BT, mask_BT, names[part])
        columns.append(torch.stack([scores.ccr_B, scores.hqar_B], dim=1).double().numpy())
    value_N2, n = np.concatenate(columns), len(texts)
    drawn_R2 = bootstrap(lambda weight_RN: weight_RN @ value_N2 / n, n, run.config.result.resamples, run.config.seed)
    found: dict[str, Any] = {}
    for place, name in enumerate(("ccr", "hqar")):
        found[name] = float(value_N2[:, place].mean())
        found[f"{name}_ci"] = interval(drawn_R2[:, place])
    return found


def reward_lines(rewards: dict[str, dict[str, Any]]) -> list[str]:
    """The rewards as text."""
    lines = ["", "rewards on test, by the reward models as they were before PPO (95 % intervals over records)"]
    for name, row in rewards.items():
        told = [
            f"{key} {row[key]:.3f} [{row[f'{key}_ci'][0]:.3f}, {row[f'{key}_ci'][1]:.3f}]" for key in ("ccr", "hqar")
        ]
        lines.append(f"  {name:<32}" + "  ".join(told))
    return lines if rewards else []


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
