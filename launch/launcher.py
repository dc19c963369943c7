"""Ranks end with the torchrun that started them."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that the kernel sends when the parent dies


def end_with_launcher() -> None:
    """Has this process killed as soon as its launcher dies; does nothing for a process that torchrun did not start.

    torchrun that is killed (kill -9, the OOM killer, the end of a SLURM step) cannot end its ranks. They would train on
    unseen or wait for each other, with their memory, and the next start would find the run folder in use. SIGKILL, as
    nothing is left to agree on a checkpoint with; those on disk are whole at any instant. Call it before any import
    that takes time. The kernel does it, since a thread of ours gets no turn while a library holds the interpreter.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()
    if not _kernel_will_kill():
        threading.Thread(target=_watch, args=(launcher,), daemon=True).start()
    if os.getppid() != launcher or _is_orphan(launcher):  # it died before the kernel knew
        os._exit(1)


def _kernel_will_kill() -> bool:
    try:
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (OSError, AttributeError):  # no Linux
        return False


def _is_orphan(parent: int) -> bool:
    """Whether the parent is the system's first process and that is no launcher, as it can be in a container."""
    command = Path(f"/proc/{parent}/cmdline")
    return parent == 1 and command.is_file() and b"python" not in command.read_bytes()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)
