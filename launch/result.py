"""The result of a run: predictions on test, their metrics beside trivial answers, the table, the report."""

import json
import logging
from collections import Counter

import numpy as np

from datamodules.corpus import Corpus
from datamodules.predictions import predictions
from launch.faithfulness import DRIVER_METRICS, driver_lines, drivers, has_truth
from launch.knowledge import full_knowledge
from launch.leaderboard import Judging, leaderboard
from launch.report import write_report
from launch.report_folder import BACKBONE, FULL
from launch.stages import Run, write_jsonl
from lightning_modules.collectives import barrier, world
from metrics import paper
from metrics.suite import canonical, counts_of
from metrics.table import format_table

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
    """Metrics of every system and of the bias predictor, paired tests against the backbone, cold and warm groups."""
    corpus, resamples, seed = run.corpus, run.config.result.resamples, run.config.seed
    knowledge = full_knowledge(corpus)
    seeds = {name: [canonical(rows)] for name, rows in systems.items()}
    measured = {name: [paper.measure(rows, knowledge, counts_of(rows)) for rows in own] for name, own in seeds.items()}
    if has_truth(corpus):
        for name, own in seeds.items():
            measured[name][0].families.append(drivers(corpus, own[0]))
    judging = Judging(resamples=resamples, seed=seed, groups=True)
    judged = leaderboard(seeds, measured, knowledge, judging)
    scores = judged["systems"]
    # the rating model is the same for all; of the trivial answer it would only repeat the figures
    scores[FREQUENT] = {key: value for key, value in scores[FREQUENT].items() if not key.startswith(("rmse", "mae"))}
    bias = {"rmse": "rmse_bias", "mae": "mae_bias"}
    scores[BIAS] = {"n": judged["n"]} | {
        f"{key}{part}": scores[BACKBONE][f"{source}{part}"]
        for key, source in bias.items()
        for part in ("", "_ci")
        if f"{source}{part}" in scores[BACKBONE]
    }
    if has_truth(corpus):
        judged["drivers"] = {
            name: {key: scores[name][key] for key in DRIVER_METRICS if key in scores[name]} for name in systems
        }
    return judged


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
