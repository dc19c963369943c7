"""Freed memory stays with the process, within bounds."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from callbacks import freed_memory
from callbacks.freed_memory import BoundFreedMemory, group_limits, resident_bytes, usable_bytes

ALLOCATES = """
import resource, sys, torch
from callbacks.freed_memory import keep_freed_memory
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


GIVES_BACK = """
import torch
from callbacks.freed_memory import give_back_freed_memory, keep_freed_memory, resident_bytes
keep_freed_memory()
before = resident_bytes()
arrays = [torch.ones(2**22) for _ in range(16)]
last = torch.ones(1000)  # behind them: what is freed is not at the heap's end
held = resident_bytes() - before
circle = [arrays]
circle.append(circle)
del arrays, circle
kept = resident_bytes() - before
give_back_freed_memory()
print(held, kept, resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back and can be told not to")
def test_between_stages_it_goes_back_to_the_system() -> None:
    run = subprocess.run([sys.executable, "-c", GIVES_BACK], capture_output=True, text=True, check=True)
    held, kept, left = (int(word) for word in run.stdout.split())
    made = 16 * 2**24  # bytes: 16 arrays of 4 Mi numbers
    assert held >= made
    assert kept >= made
    assert left < made / 8


def test_a_rank_may_use_its_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    whole = usable_bytes()
    assert 0 < whole <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usable_bytes() == whole // 4


def test_an_epoch_that_holds_too_much_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: calls.append(1))
    BoundFreedMemory(limit=resident_bytes() * 10).on_train_epoch_end(None, None)
    assert calls == []
    BoundFreedMemory(limit=1).on_train_epoch_end(None, None)
    assert calls == [1]


@pytest.mark.parametrize(
    ("membership", "tree", "file"),
    [
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/task_0\n", "", "memory.max"),
        ("5:cpu:/x\n4:memory:/slurm/uid_0/job_7/step_0\n0::/\n", "memory", "memory.limit_in_bytes"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_job_is_found_above_the_process(tmp_path: Path, membership: str, tree: str, file: str) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(membership)
    groups = tmp_path / "sys" / "fs" / "cgroup" / tree
    line = next(line for line in membership.splitlines() if "job_7" in line)
    own = groups / line.split(":", 2)[2].lstrip("/")
    own.mkdir(parents=True)
    (own / file).write_text("max\n")
    job = next(place for place in own.parents if place.name == "job_7")
    (job / file).write_text("4000000000\n")
    (groups / "another_job").mkdir()
    (groups / "another_job" / file).write_text("7\n")
    assert group_limits(tmp_path) == [4_000_000_000]


def test_a_process_in_no_group_has_no_limit(tmp_path: Path) -> None:
    assert group_limits(tmp_path) == []
