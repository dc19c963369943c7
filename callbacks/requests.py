"""What may ask a run to save or to end: signals, files in the run folder. All ranks agree on it at a step boundary."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from lightning_modules.collectives import gather_objects, world

log = logging.getLogger("llm2er")

REQUEUE_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on
START = "the start"  # where a run is until a stage trains
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):  # noqa: N818 - no error: the run was asked to end and can go on
    """The run ends before it is finished, because it was asked to."""

    def __init__(self, message: str, requeue: bool) -> None:
        super().__init__(message)
        self.requeue = requeue


@dataclass(frozen=True)
class Wish:
    """What all ranks have agreed to do at a step boundary."""

    save: bool = False
    stop: bool = False
    requeue: bool = False
    reason: str = ""


class Requests:
    """Collects what asks this run to save or to end.

    A signal sets a flag and nothing else: it may arrive on one rank or on all, twice within a second (SLURM and
    torchrun both send it), in the middle of a save or of a generation. `agree` is collective.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.signal = 0
        self.lost = ""  # who took the run folder over, once that is known
        self.place = START  # what this rank is doing, for messages
        self._interrupts = 0

    def listen(self) -> None:
        """Installs the handlers; Ctrl-C asks once and, pressed again, ends at once."""
        for number in SIGNALS:
            signal.signal(number, self._remember)
        signal.signal(signal.SIGINT, self._interrupt)

    def replaced(self, owner: str) -> None:
        """Called when another process owns the run folder."""
        self.lost = owner

    def forget_files(self) -> None:
        """At the end of a run: a switch that came too late must not end the next start."""
        for name in ("SAVE", "STOP"):
            (self.run_dir / name).unlink(missing_ok=True)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.signal = number

    def agree(self, due: bool, device: torch.device) -> Wish:
        """The wishes of all ranks; files count where rank 0 sees them. `due`: a save is due anyway on this rank."""
        first = world()[0] == 0
        files = [first and (self.run_dir / name).exists() for name in ("SAVE", "STOP")]
        flags = torch.tensor([int(due), *map(int, files), self.signal, int(bool(self.lost))], device=device)
        if world()[1] > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        due_any, save, stop, number, lost = flags.tolist()
        if lost:
            raise LockLostError(self.lost or "another copy of this job")
        if first:
            for name, seen in zip(("SAVE", "STOP"), (save, stop), strict=True):
                if seen:
                    (self.run_dir / name).unlink(missing_ok=True)  # done once, not at every start
        if number:
            # Ctrl-C is the user's own wish to end; the others come from a scheduler that wants the job again.
            name = signal.Signals(number).name
            return Wish(True, True, requeue=number != signal.SIGINT, reason=f"signal {name}")
        if stop:
            return Wish(True, True, reason=f"{self.run_dir / 'STOP'}")
        return Wish(bool(due_any or save), reason=f"{self.run_dir / 'SAVE'}" if save else "")


class LockLostError(RuntimeError):
    """Another process owns the run folder now; this one must touch nothing more."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"{owner} has taken over the run folder; this copy stops and writes nothing more")


def stop_if_taken(taken_by: Callable[[], str]) -> None:
    """Ends this copy of a job on all ranks when another one owns the run folder; collective."""
    if owner := gather_objects(taken_by() if world()[0] == 0 else "")[0]:
        raise LockLostError(owner)


def restarts() -> dict[str, int]:
    """How often torchrun and SLURM have started this process again by themselves; {} at a first start."""
    names = {"torchrun": "TORCHELASTIC_RESTART_COUNT", "SLURM": "SLURM_RESTART_COUNT"}
    counts = {who: int(os.environ.get(name) or 0) for who, name in names.items()}
    return {who: count for who, count in counts.items() if count > 0}


def restarted() -> bool:
    """Whether torchrun or SLURM started this process again by itself."""
    return bool(restarts())
