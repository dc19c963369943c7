"""How runs are started, disturbed and looked at by interruptions.py and network.py."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import kills  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
from kills import SMALL, last_step, losses  # noqa: E402

from callbacks.checkpoint_folder import candidates  # noqa: E402
from lightning_modules.collectives import world  # noqa: E402


class Disturb(pl.Callback):
    """Does something on chosen ranks when a step begins, or at another moment of a step, named as Lightning does."""

    def __init__(
        self,
        step: int,
        ranks: tuple[int, ...],
        action: Callable[[pl.Trainer], None],
        moment: str = "on_train_batch_start",
    ) -> None:
        self.step, self.ranks, self.action = step, ranks, action
        setattr(self, moment, self._act)

    def _act(self, trainer: pl.Trainer, *arguments: object) -> None:
        if trainer.global_step == self.step and world()[0] in self.ranks:
            self.action(trainer)


def run(
    work: Path,
    name: str,
    stage: str,
    *arguments: str,
    ranks: int = 2,
    also: list | None = None,
    move: Callable[[int], None] | None = None,
    **environment: str,
) -> dict:
    """One start of a stage in the run folder `work/NAME`: exit codes, what was printed, the log of losses."""
    folder, log = work / name, work / f"{name}-{stage}-{time.monotonic_ns()}.log"
    before = dict(os.environ)
    os.environ |= environment
    pids = kills.start(stage, [*SMALL, f"run_dir={folder}", *arguments], log, ranks, also, move)
    os.environ.clear()
    os.environ |= before
    codes: list[int] = []
    limit = time.monotonic() + 120
    ended: dict[int, int] = {}
    while running := kills.alive(pids, ended):
        # As torchrun does: when one rank has failed the others are ended, after a moment in which they end themselves.
        if any(ended.values()):
            limit = min(limit, time.monotonic() + 8)
        if time.monotonic() > limit:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    codes = [ended[pid] for pid in pids]
    printed = [log.with_suffix(f".rank{rank}").read_text() for rank in range(ranks)]
    return {"codes": codes, "printed": printed, "log": log, "last_step": last_step(log), "folder": folder}


def checkpoints(work: Path, name: str, stage: str) -> list[str]:
    """Names of the checkpoints of a stage, oldest first."""
    return [path.name for path in candidates(work / name / stage / "checkpoints")][::-1]


def tail_equals(whole: Path, part: Path) -> dict:
    """Whether the losses of `part` are those of `whole` at the same batches, and how many there are."""
    expected, found = losses(whole)[0], losses(part)[0]
    same = all(expected[key] == value for key, value in found.items())
    return {"same": same, "batches": len(found), "to_the_end": max(found) == max(expected) if found else False}


def send(number: int, times: int = 1) -> Callable[[pl.Trainer], None]:
    """Sends this rank a signal, as schedulers do: perhaps more than once."""

    def action(trainer: pl.Trainer) -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return action


def touch(path: Path) -> Callable[[pl.Trainer], None]:
    """Makes a file."""
    return lambda trainer: path.touch()


def times(factor: float) -> Callable[[pl.Trainer], None]:
    """Multiplies the losses of this rank."""

    def action(trainer: pl.Trainer) -> None:
        module = trainer.lightning_module
        inner = module.training_step
        module.training_step = lambda *batch: factor * inner(*batch)

    return action
