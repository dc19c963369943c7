"""Freed memory that stays with the process, and when it is given back.

A training step on a CPU makes large arrays anew each time, and the system would clear every page of them. Kept, they
take 3 to 30 % less time (benchmarks/NOTES.md). What one stage has freed is of no use to the next, and other ranks want
memory too: it goes back between stages, and within one where the process holds more than its share of the machine.
"""

import ctypes
import gc
import os
from pathlib import Path

import pytorch_lightning as pl

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # numbers of malloc.h
NEVER = -1
SHARE = 0.5  # of the memory that a rank may use, above which freed memory goes back


def keep_freed_memory() -> None:
    """Has glibc give nothing back to the system; other C libraries are left alone."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, NEVER)


def give_back_freed_memory() -> None:
    """Frees what only circles of objects hold (a network and its trainer), and gives free memory to the system."""
    gc.collect()
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)


def resident_bytes() -> int:
    """Memory of this process, or 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def usable_bytes() -> int:
    """Memory that a rank may use: that of the machine, or of its control group (a SLURM job's), by ranks a machine."""
    total = min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *group_limits(Path("/"))])
    return total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def group_limits(root: Path) -> list[int]:
    """Bytes that this process's control group and those around it may hold; a job's limit lies some levels above.

    `root` is the folder that holds `proc` and `sys`. Version 2 has one tree, version 1 one for memory.
    """
    membership = root / "proc" / "self" / "cgroup"
    limits = []
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "sys" / "fs" / "cgroup" / ("memory" if controllers else "")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = tree / group.lstrip("/")
        for place in (folder, *(above for above in folder.parents if above.is_relative_to(tree))):
            if (place / file).is_file() and (text := (place / file).read_text().strip()).isdigit():
                limits.append(int(text))
    return limits


class BoundFreedMemory(pl.Callback):
    """Gives freed memory back at the end of an epoch (of PPO: a rollout) in which the process holds too much."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit = SHARE * usable_bytes() if limit is None else limit

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Looks once an epoch."""
        if resident_bytes() > self.limit:
            give_back_freed_memory()
