"""The result of a run: predictions on test, their metrics beside trivial answers, the table, the report."""

import json
import logging
from collections import Counter
from typing import Any

import numpy as np
import torch

from datamodules.corpus import Corpus
from datamodules.predictions import predictions
from datamodules.quality import pad
from launch.config import flatten
from launch.faithfulness import DRIVER_METRICS, driver_lines, drivers, has_truth
from launch.knowledge import full_knowledge
from launch.leaderboard import Judging, leaderboard
from launch.report import write_report
from launch.report_folder import BACKBONE, FULL, warnings_of
from launch.run import Run
from launch.stages import write_jsonl
from lightning_modules.collectives import barrier, world
from metrics import paper
from metrics.bootstrap import bootstrap, interval
from metrics.columns import Predictions
from metrics.suite import canonical, counts_of
from metrics.table import format_table
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
    run.stop_if_taken()
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
        for sentence in warnings_of(path, flatten(run.config)):
            log.warning("WARNING: %s", sentence)
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
    columns = {name: canonical(Predictions.of(rows)) for name, rows in systems.items()}
    measured = {name: [paper.measure(rows, knowledge, counts_of(rows))] for name, rows in columns.items()}
    if has_truth(corpus):
        for name, rows in columns.items():
            measured[name][0].families.append(drivers(corpus, rows))
    judging = Judging(resamples=resamples, seed=seed, groups=True)
    judged = leaderboard(columns, measured, knowledge, judging)
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
    if run.folder.done("ccr") and run.folder.done("hqar"):
        texts = {name: [row["explanation"] for row in rows] for name, rows in systems.items()}
        records = [row["record"] for row in systems[BACKBONE]]
        judged["rewards"] = {name: reward_scores(run, records, found) for name, found in texts.items()}
    if has_truth(corpus):
        judged["drivers"] = {
            name: {key: scores[name][key] for key in DRIVER_METRICS if key in scores[name]} for name in systems
        }
    return judged


def reward_scores(run: Run, records: list[int], texts: list[str]) -> dict[str, Any]:
    """Mean rewards of explanations, with intervals, by the reward models as their stages left them, before PPO."""
    tokenizer = load_tokenizer(str(run.folder.need("explanation", "result") / "lm"))
    scorer, builder = run.scorer("result", tokenizer), run.builder("result", tokenizer)
    scorer.to(run.device)
    names = [[run.corpus.concepts[c] for c in run.evidence("result").concept_RK[record].tolist()] for record in records]
    columns = []
    for start in range(0, len(texts), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        response_BT, mask_BT = pad([builder.response(text) for text in texts[part]], tokenizer.pad_token_id)
        scores = scorer.score(response_BT.to(run.device), mask_BT.to(run.device), names[part])
        columns.append(torch.stack([scores.ccr_B, scores.hqar_B], dim=1).double().cpu().numpy())
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
