"""PPO, GRPO and RLOO from one fine-tuned model: held-out quality for the same samples, and what it costs.

    python benchmarks/algorithms.py [OUT] [SEEDS] [ALGORITHMS]          # default runs/algorithms 1,2,3 ppo,grpo,rloo

The embedded corpus at the size of benchmarks/orderings.py, one rank; rating, explanation and reward models are trained
once. Each algorithm gets 8 rollouts of 256 samples, two passes over each; GRPO and RLOO compare four samples of a
prompt, PPO has one; the learning rate is the same for all, that of the orderings. What was measured is kept in OUT:
several processes can share the work.

Settled before the runs: the figure is the gain in held-out weighted rewards (in standard deviations before training)
a CPU minute of the stage, start and evaluations included. An algorithm replaces PPO as the default if this figure is
higher in every seed and neither the mean CMR nor the mean share of drivers recalled on test is lower.
"""

import json
import os
import resource
import sys
from pathlib import Path
from statistics import mean, stdev

os.environ["RANKS"] = "1"
from orderings import curve, figures_of, train

STAGES = ("rating", "explanation", "ccr", "hqar")
ALGORITHMS = {
    "ppo": ("ppo.algorithm=ppo", "ppo.samples_per_prompt=1"),
    "grpo": ("ppo.algorithm=grpo", "ppo.samples_per_prompt=4"),
    "rloo": ("ppo.algorithm=rloo", "ppo.samples_per_prompt=4"),
}
COURSE = ("ppo.iterations=8", "ppo.eval_every=8")
UPSTREAM = ("explanation.fit.epochs=10",)
SHOWN = ("ccr", "hqar", "cmr", "distinct_2", "score")


def cpu_seconds() -> float:
    """Of all processes waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def held_out(run: Path) -> list[dict[str, float]]:
    """The held-out evaluations of a finished stage, in order."""
    columns = {name: curve(run, "ppo", f"ppo/valid/{name}") for name in SHOWN}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def upstream(out: Path) -> list[str]:
    """The stages in front, trained once: where to find them."""
    full = out / "seed-1" / "full"
    for stage in STAGES:
        if not (full / stage / "export").is_dir():
            train(out, 1, "full", stage, *UPSTREAM)
    return [f"data.path={full}/data", *[f"{stage}.init_from={full}/{stage}" for stage in STAGES], *UPSTREAM]


def one_run(out: Path, seed: int, algorithm: str) -> dict:
    """Figures of one algorithm and seed; measured once, then read from a file."""
    file = out / f"seed-{seed}" / f"{algorithm}.json"
    if file.is_file():
        return json.loads(file.read_text())
    given = [*upstream(out), *COURSE, *ALGORITHMS[algorithm]]
    begin = cpu_seconds()
    run = train(out, seed, algorithm, "ppo", *given)
    seconds = cpu_seconds() - begin
    train(out, seed, algorithm, "result", *given)
    curves, known = held_out(run), figures_of(run)["drivers"]
    found = {
        "gain_a_cpu_minute": round(60 * curves[-1]["score"] / seconds, 3),
        "cpu_s": round(seconds, 1),
        "gains": [round(row["score"], 3) for row in curves],
        "before": curves[0],
        "after": curves[-1],
        "drivers_before": known["LLM2ER"],
        "drivers": known["LLM2ER-EQR"],
    }
    file.write_text(json.dumps(found))
    print(f"seed {seed}, {algorithm}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/algorithms").resolve()
    seeds = [int(seed) for seed in (sys.argv[2] if len(sys.argv) > 2 else "1,2,3").split(",")]
    names = (sys.argv[3] if len(sys.argv) > 3 else "ppo,grpo,rloo").split(",")
    found = {name: {seed: one_run(out, seed, name) for seed in seeds} for name in names}
    summary = {}
    for name, runs in found.items():
        columns = {
            "gain_a_cpu_minute": [run["gain_a_cpu_minute"] for run in runs.values()],
            "gain": [run["after"]["score"] for run in runs.values()],
            "cpu_s": [run["cpu_s"] for run in runs.values()],
            "cmr": [run["after"]["cmr"] for run in runs.values()],
            "distinct_2": [run["after"]["distinct_2"] for run in runs.values()],
            "driver_recall": [run["drivers"]["driver_recall"] for run in runs.values()],
        }
        summary[name] = {
            key: {"seeds": [round(v, 3) for v in values], "mean": round(mean(values), 3)}
            | ({"sd": round(stdev(values), 3)} if len(values) > 1 else {})
            for key, values in columns.items()
        }
    print(json.dumps({"bench": "algorithms", "seeds": seeds, "summary": summary, "runs": found}))


if __name__ == "__main__":
    main()
