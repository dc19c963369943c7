"""Trains every stage of a tiny run and prints the loss of each optimizer step as JSON; started by torchrun.

    stage_losses.py BASE OUT key=value ...

With BASE empty the stages follow each other in OUT. Else each stage reads what BASE holds, so that only its own
training can differ.
"""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl

from launch import run as launch_run
from launch.config import load
from launch.engine import start
from launch.run import Run
from launch.schema import TrainConfig
from launch.stages import TRAINED
from lightning_modules.collectives import part, sum_over_ranks, world


class Losses(pl.Callback):
    """The loss of every micro-batch, mean over ranks; Lightning has divided it by the number of micro-batches."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # noqa: ANN001
        self.values.append(float(sum_over_ranks(outputs["loss"].double()) / world()[1]))


def train(name: str, base: str, arguments: list[str]) -> list[float]:
    """Runs a stage and returns its losses."""
    given = [f"{stage}.init_from={base}/{stage}" for stage in TRAINED if stage != name] if base else []
    config, _ = load(TrainConfig, [*arguments, *given])
    start(config.hardware)
    losses, make = Losses(), launch_run.make_trainer

    def watched(zero, hardware, folder, logger, callbacks, **options):  # noqa: ANN001, ANN003, ANN202
        return make(zero, hardware, folder, logger, [*callbacks, losses], **options)

    launch_run.make_trainer = watched
    run = Run(config)
    run.folder.finish(name, TRAINED[name](run))
    launch_run.make_trainer = make
    # Every rank of CCR computes the loss of all rows, of which its own carry gradient.
    shares = world()[1] if name == "ccr" else 1
    return [value / shares for value in losses.values]


def main() -> None:
    base, out, *arguments = sys.argv[1:]
    found = {name: train(name, base, [*arguments, f"run_dir={out}"]) for name in TRAINED}
    if world()[0] == 0:
        (Path(out) / "losses.json").write_text(json.dumps(found))
    part()


if __name__ == "__main__":
    main()
