"""PPO, GRPO and RLOO from one fine-tuned model: held-out quality after the same number of samples, and CPU seconds.

    python benchmarks/algorithms.py [OUT] [SEEDS]          # default runs/algorithms 1,2,3; one rank

The embedded corpus at the size of benchmarks/orderings.py; rating, explanation and reward models are trained once. Each
algorithm gets the same rollouts and passes; GRPO and RLOO compare four samples of a prompt, PPO has one. Prints one
JSON line: by algorithm and seed the held-out figures before and after, the CPU seconds of the stage, start-up
included, and the gain in weighted rewards (in standard deviations before training) a CPU minute.
"""

import json
import os
import resource
import sys
from pathlib import Path

os.environ["RANKS"] = "1"
from orderings import curve, train

STAGES = ("rating", "explanation", "ccr", "hqar")
ALGORITHMS = {
    "ppo": ("ppo.algorithm=ppo", "ppo.samples_per_prompt=1"),
    "grpo": ("ppo.algorithm=grpo", "ppo.samples_per_prompt=4"),
    "rloo": ("ppo.algorithm=rloo", "ppo.samples_per_prompt=4"),
}
SHOWN = ("ccr", "hqar", "cmr", "distinct_2", "score")


def cpu_seconds() -> float:
    """Of all processes waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def held_out(run: Path) -> list[dict[str, float]]:
    """The held-out evaluations of a finished stage, in order."""
    columns = {name: curve(run, "ppo", f"ppo/valid/{name}") for name in SHOWN}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def one_run(out: Path, full: Path, seed: int, algorithm: str) -> dict:
    """Figures of one algorithm and seed."""
    upstream = [f"{stage}.init_from={full}/{stage}" for stage in STAGES]
    begin = cpu_seconds()
    run = train(out, seed, algorithm, "ppo", f"data.path={full}/data", *upstream, *ALGORITHMS[algorithm])
    seconds = cpu_seconds() - begin
    first, *_, last = held_out(run)
    gain = round(60 * last["score"] / seconds, 3)
    return {"before": first, "after": last, "cpu_s": round(seconds, 1), "score_a_cpu_minute": gain}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/algorithms").resolve()
    seeds = [int(seed) for seed in (sys.argv[2] if len(sys.argv) > 2 else "1,2,3").split(",")]
    for stage in STAGES:
        full = train(out, 1, "full", stage)
    found: dict = {name: {} for name in ALGORITHMS}
    for seed in seeds:
        for name in ALGORITHMS:
            found[name][seed] = one_run(out, full, seed, name)
            print(f"{name}, seed {seed}: {found[name][seed]}", file=sys.stderr, flush=True)
    print(json.dumps({"bench": "algorithms", "seeds": seeds, "figures": found}))


if __name__ == "__main__":
    main()
