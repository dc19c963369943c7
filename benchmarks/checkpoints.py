"""What a checkpoint costs: seconds of stall, bytes, and the share of PPO's time when saving every 50 iterations.

    python benchmarks/checkpoints.py widths=64,256,512 zero=2 tmp=/data

Two ranks on CPU, the explanation stage at several widths (three layers), then PPO. Prints one JSON line. A save stalls
training: nothing is written in the background.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import kills
import pytorch_lightning as pl
from kills import SMALL, start

from callbacks.checkpoints import Checkpoints
from lightning_modules.collectives import trainable_and_total, world


class Measure(pl.Callback):
    """Seconds of saves and of everything, to a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.saves, self.begun, self.before = path, 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer, module) -> None:  # noqa: ANN001
        if trainer.current_epoch == 1:  # what the first epoch sets up is not measured
            self.begun, self.before = time.monotonic(), self._callback(trainer).stall

    def on_train_end(self, trainer, module) -> None:  # noqa: ANN001
        if world()[0] == 0:
            epochs = trainer.current_epoch - 1
            saves = self._callback(trainer)
            self.path.write_text(
                json.dumps(
                    {
                        "parameters": trainable_and_total(module)[1],
                        "seconds_an_epoch": (time.monotonic() - self.begun - saves.stall + self.before) / epochs,
                        "seconds_a_save": (saves.stall - self.before) / max(saves.count - 1, 1),
                        "saves": saves.count,
                    }
                )
            )

    @staticmethod
    def _callback(trainer) -> Checkpoints:  # noqa: ANN001
        return next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))


def measure(work: Path, stage: str, *arguments: str) -> dict:
    """Runs a stage and returns what `Measure` wrote, and the bytes of its last checkpoint."""
    log = work / f"{stage}-{time.monotonic_ns()}.log"
    path = log.with_suffix(".json")
    pids = start(stage, [*SMALL, f"run_dir={work / 'run'}", *arguments], log, also=[Measure(path)])
    ended: dict[int, int] = {}
    while kills.alive(pids, ended):
        time.sleep(0.05)
    if any(ended.values()):
        raise RuntimeError(log.with_suffix(".rank0").read_text()[-3000:])
    if not path.exists():
        return {}
    last = max((work / "run" / stage / "checkpoints").iterdir())
    # A product is linked into a checkpoint, not written again.
    size = sum(p.stat().st_size for p in last.rglob("*") if p.is_file() and "export" not in p.relative_to(last).parts)
    return json.loads(path.read_text()) | {"bytes": size}


def main() -> None:
    """Parses key=value, prints one JSON line."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    zero = f"zero.stage={given.get('zero', '2')}"
    rows = []
    for width in map(int, given.get("widths", "64,256,512").split(",")):
        with tempfile.TemporaryDirectory(dir=given.get("tmp")) as folder:
            work = Path(folder)
            measure(work, "rating", zero)
            size = [
                f"explanation.new_model.width={width}",
                "explanation.new_model.layers=3",
                "explanation.fit.epochs=3",
            ]
            rows.append(
                {"stage": "explanation"} | measure(work, "explanation", zero, *size, "checkpoint.every_n_steps=2")
            )
            for stage in ("ccr", "hqar"):
                measure(work, stage, zero, *size)
            ppo = measure(work, "ppo", zero, *size, "ppo.iterations=7", "checkpoint.every_n_steps=8")
            share = ppo["seconds_a_save"] / (50 * ppo["seconds_an_epoch"])
            rows.append({"stage": "ppo"} | ppo | {"share_when_saving_every_50_iterations": share})
        print(rows[-2:], file=sys.stderr)
    print(json.dumps({"ranks": kills.RANKS, "zero": zero, "rows": rows}))


if __name__ == "__main__":
    main()
