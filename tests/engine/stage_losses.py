"""Trains every stage of a tiny run and prints the loss of each optimizer step as JSON; started by torchrun.

    stage_losses.py BASE OUT key=value ...

With BASE empty the stages follow each other in OUT. Else each stage reads what BASE holds, so that only its own
training can differ.
"""

import csv
import json
import sys
from pathlib import Path

import torch.distributed as dist

from launch.config import load
from launch.engine import start
from launch.schema import TrainConfig
from launch.stages import TRAINED, Run

LOSSES = {
    "rating": "rating/train/mse",
    "explanation": "explanation/train/loss",
    "ccr": "ccr/train/loss",
    "hqar": "hqar/train/loss",
    "ppo": "ppo/policy_loss",
}


def step_losses(folder: Path, name: str) -> list[float]:
    """The logged losses in the order of the steps."""
    column = LOSSES[name]
    with (folder / name / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = column if any(row.get(column) for row in rows) else column + "_step"
    return [float(row[key]) for row in rows if row.get(key)]


def main() -> None:
    base, out, *arguments = sys.argv[1:]
    losses = {}
    for name in TRAINED:
        given = [f"{stage}.init_from={base}/{stage}" for stage in TRAINED if stage != name] if base else []
        config, _ = load(TrainConfig, [*arguments, *given, f"run_dir={out}"])
        start(config.hardware)
        run = Run(config)
        run.folder.finish(name, TRAINED[name](run))
        if not dist.is_initialized() or dist.get_rank() == 0:
            losses[name] = step_losses(Path(out), name)
    if not dist.is_initialized() or dist.get_rank() == 0:
        (Path(out) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
