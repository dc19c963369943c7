"""Freed memory that stays with the process: large arrays are made anew in each step, and each page of them cleared."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # numbers of malloc.h
NEVER = -1


def keep_freed_memory() -> None:
    """Has glibc give nothing back to the system; other C libraries are left alone.

    A training step on a CPU takes 3 to 30 % less for it, and a tenth more memory at its peak (benchmarks/NOTES.md).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, NEVER)
