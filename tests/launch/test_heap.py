"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

ALLOCATES = """
import resource, sys, torch
from launch.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def four_arrays():
    for _ in range(4):
        torch.zeros(2**24).add_(1)
for _ in range(4):  # some room is only found when its neighbour is free as well
    four_arrays()
before = faults()
four_arrays()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    """Of four arrays of 64 MiB, each made after the one before was freed, in a process of its own."""
    run = subprocess.run([sys.executable, "-c", ALLOCATES, how], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back and can be told not to")
def test_an_array_takes_the_memory_of_the_one_before() -> None:
    assert page_faults("kept") < page_faults("as usual") / 10
