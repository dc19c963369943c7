"""Do the parts of LLM2ER-EQR do what they are for? Ablations on the embedded corpus, whose truth is planted.

    RANKS=2 python benchmarks/orderings.py [OUT] [SEEDS]          # default runs/orderings 1,2,3

Prints one JSON line: for each seed the figures, and for each ordering in how many seeds it holds. The orderings are
those of docs/methods.md, A.7. The corpus has few records an item (about 16): one record is a large part of what is
known of it, so a leak shows, and an item's concepts are few, so the concept match is no foregone conclusion.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from datamodules.corpus import Corpus
from datamodules.evidence import Evidence

ROOT = Path(__file__).resolve().parents[1]
SHARED = [
    str(ROOT / "configs/llm2er_eqr.yaml"),
    str(ROOT / "configs/hardware/cpu.yaml"),
    "data.embedded_users=400",
    "data.embedded_items=200",
    "rating.fit.epochs=25",
    "explanation.new_model.width=64",
    "explanation.new_model.layers=2",
    "explanation.connector_epochs=0",
    "explanation.fit.epochs=30",
    "explanation.fit.patience=4",
    "explanation.fit.batch_size=32",
    "ccr.new_model.width=64",
    "ccr.fit.epochs=5",
    "ppo.algorithm=rloo",
    "ppo.samples_per_prompt=8",
    "ppo.rollout_batch_size=256",
    "ppo.mini_batch_size=128",
    "ppo.epochs=2",
    "ppo.lr=0.0003",
    "ppo.iterations=48",
    "ppo.eval_every=12",
    "ppo.eval_prompts=400",
    "ppo.lambda_ccr=4",
    "ppo.lambda_hqar=0.5",
    "ppo.entropy_coef=0.05",
    "ppo.sft_coef=1",
    "ppo.kl_coef=0.02",
    "ppo.kl_target=0",
    "ppo.discriminator_lr=0.001",
    "ppo.max_distinct_2_drop=1",
    # an ablation may collapse: it is measured to the end
    "ppo.guards.max_distinct_1_drop=1",
    "result.resamples=200",
    "result.examples=0",
]


def train(out: Path, seed: int, name: str, stage: str, *arguments: str) -> Path:
    """One stage (or all) of a run; a finished stage is skipped."""
    run, ranks = out / f"seed-{seed}" / name, os.environ.get("RANKS", "2")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(ROOT / "launch/train.py"), *SHARED, f"seed={seed}", f"run_dir={run}", f"stage={stage}", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return run


def figures_of(run: Path) -> dict:
    """Test metrics of a run, its planted-truth figures, and what PPO's held-out evaluation kept."""
    metrics = json.loads((run / "metrics.json").read_text())
    found = {"drivers": metrics["drivers"], "systems": metrics["systems"]}
    marker = run / "ppo" / "export" / "stage.json"
    return found | (json.loads(marker.read_text())["summary"] if marker.is_file() else {})


def curve(run: Path, stage: str, column: str) -> list[float]:
    """What a stage logged under a name, in order."""
    with (run / stage / "metrics.csv").open(newline="") as lines:
        return [float(row[column]) for row in csv.DictReader(lines) if row[column]]


def held_out(run: Path) -> dict[str, float]:
    """Means of PPO's held-out evaluations after the first: of one policy they are within chance of an ablation's."""
    evaluations = {name: curve(run, "ppo", f"ppo/valid/{name}")[1:] for name in ("ccr", "hqar", "cmr")}
    return {name: sum(values) / len(values) for name, values in evaluations.items()}


def train_loss(run: Path, stage: str, column: str) -> float:
    """Mean of the last tenth of a stage's logged train losses."""
    values = curve(run, stage, column)
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail)


def rating_figures(run: Path, data: Path) -> dict[str, float]:
    """Train MSE at the end and test RMSE of a finished rating stage."""
    corpus = Corpus.load(data)
    evidence = Evidence.load(run / "rating" / "export" / "evidence.safetensors")
    test = corpus.rows("test")
    error = evidence.predicted_R.numpy()[test] - corpus.rating_R[test]
    return {"train_mse": train_loss(run, "rating", "rating/train/mse"), "rmse": float((error**2).mean() ** 0.5)}


def one_seed(out: Path, seed: int) -> tuple[dict, dict[str, bool]]:
    """(figures, which orderings hold) of one seed."""
    full = train(out, seed, "full", "all")
    upstream = [f"{stage}.init_from={full}/{stage}" for stage in ("rating", "explanation", "ccr", "hqar")]
    data = f"data.path={full}/data"
    runs = {"full": full}
    for name, key in (("no_ccr", "ppo.lambda_ccr=0"), ("no_hqar", "ppo.lambda_hqar=0")):
        runs[name] = train(out, seed, name, "all", data, key, *upstream)
    for name, key in (("random", "graph.candidate_source=random"), ("unmasked", "graph.leave_one_out=false")):
        for stage in ("rating", "explanation", "result"):
            runs[name] = train(out, seed, name, stage, data, key)
    found = {name: figures_of(run) for name, run in runs.items()}
    kept = {name: found[name]["held_out_kept"] for name in ("full", "no_ccr", "no_hqar")}
    reinforced = {name: held_out(runs[name]) for name in kept}
    backbone = {name: found[name]["drivers"]["LLM2ER"]["names_a_driver"] for name in ("full", "random", "unmasked")}
    tuned = {name: found[name]["drivers"]["LLM2ER-EQR"]["names_a_driver"] for name in kept}
    systems = found["full"]["systems"]
    rating = {name: rating_figures(runs[name], full / "data") for name in ("full", "unmasked")}
    loss = {
        name: {
            "train": train_loss(runs[name], "explanation", "explanation/train/loss"),
            "held_out": min(curve(runs[name], "explanation", "explanation/valid/loss")),
        }
        for name in ("full", "unmasked")
    }
    rmse = {"hgt": found["full"]["systems"]["LLM2ER"]["rmse"], "bias": systems["user+item bias"]["rmse"]}
    figures = {
        "rmse": rmse,
        "masking_rating": rating,
        "masking_explanation_loss": loss,
        "names_a_driver": {"backbone": backbone, "tuned": tuned},
        "held_out": reinforced,
        "held_out_kept": {name: {key: row[key] for key in ("ccr", "hqar", "cmr")} for name, row in kept.items()},
        "held_out_before": {key: found["full"]["held_out_before"][key] for key in ("ccr", "hqar", "cmr")},
    }
    holds = {
        "hgt_beats_bias": rmse["hgt"] < rmse["bias"],
        "graph_candidates_beat_random": backbone["full"] > backbone["random"],
        "ppo_names_more_drivers": tuned["full"] > backbone["full"],
        "without_ccr_concept_match_is_lower": reinforced["no_ccr"]["cmr"] < reinforced["full"]["cmr"],
        "without_hqar_quality_is_lower": reinforced["no_hqar"]["hqar"] < reinforced["full"]["hqar"],
        "without_masking_train_rating_looks_better": rating["unmasked"]["train_mse"] < rating["full"]["train_mse"],
        "without_masking_test_rating_is_worse": rating["unmasked"]["rmse"] > rating["full"]["rmse"],
        "without_masking_train_explanations_look_better": loss["unmasked"]["train"] < loss["full"]["train"],
        "without_masking_held_out_explanations_are_worse": loss["unmasked"]["held_out"] > loss["full"]["held_out"],
        "without_masking_fewer_drivers_are_named": backbone["unmasked"] < backbone["full"],
    }
    return figures, holds


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/orderings").resolve()
    seeds = [int(seed) for seed in (sys.argv[2] if len(sys.argv) > 2 else "1,2,3").split(",")]
    results = {seed: one_seed(out, seed) for seed in seeds}
    holds = {name: sum(held[name] for _, held in results.values()) for name in next(iter(results.values()))[1]}
    figures = {seed: found for seed, (found, _) in results.items()}
    print(json.dumps({"seeds": seeds, "holds_in": holds, "figures": figures}))


if __name__ == "__main__":
    main()
