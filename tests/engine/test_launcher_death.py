"""kill -9 of torchrun: its ranks end within seconds, in every phase, and the next start goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import TINY, torchrun

TRAIN = Path(__file__).parents[2] / "launch" / "train.py"
SECONDS = 5.0  # within which all ranks must be gone
RATING = ["stage=rating", "rating.fit.epochs=60", "rating.fit.patience=99", "checkpoint.every_n_steps=4"]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def start(run: Path, arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(TRAIN)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    log = (run.parent / "log.txt").open("w")
    return subprocess.Popen([*command, *TINY, *arguments, f"run_dir={run}"], env=variables, stdout=log, stderr=log)


def reached(phase: str, run: Path, log: Path) -> bool:
    text = log.read_text()
    if phase == "imports":
        return True  # as soon as there are ranks
    if phase == "training":
        return (run / "rating" / "checkpoints" / "step-000008").is_dir()
    return "explaining" in text and "ppo: done" in text  # the result


def kill_launcher(launcher: subprocess.Popen, wait: Callable[[list[int]], None]) -> None:
    """kill -9 of torchrun once it has two ranks and `wait` is over; fails if a rank is left after `SECONDS`."""
    ranks: list[int] = []
    try:
        assert wait_for(lambda: len(children(launcher.pid)) == 2, 60)
        ranks = children(launcher.pid)
        wait(ranks)
        assert all(alive(rank) for rank in ranks)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert wait_for(lambda: not any(alive(rank) for rank in ranks), SECONDS)
    finally:
        launcher.kill()
        for rank in filter(alive, ranks):
            os.kill(rank, signal.SIGKILL)


@pytest.mark.parametrize(
    "phase",
    [
        "training",
        pytest.param("imports", marks=pytest.mark.long),
        pytest.param("rendezvous", marks=pytest.mark.long),
        pytest.param("result", marks=pytest.mark.long),
    ],
)
def test_no_rank_outlives_its_launcher(phase: str, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    arguments = RATING if phase == "training" else []

    def wait_for_phase(ranks: list[int]) -> None:
        if phase == "rendezvous":  # one rank waits for another that does not come
            time.sleep(2)  # it is within its imports
            os.kill(ranks[1], signal.SIGSTOP)
            time.sleep(10)  # the other is past its own and waits
        else:
            assert wait_for(lambda: reached(phase, run, log), 120), log.read_text()[-2000:]

    kill_launcher(start(run, arguments), wait_for_phase)
    again = torchrun(TRAIN, [*TINY, *arguments, f"run_dir={run}"], 2)
    assert again.returncode == 0, again.stderr[-3000:]
    assert ("goes on from" in again.stderr) == (phase == "training")
    assert (run / ("rating/export/stage.json" if arguments else "predictions.jsonl")).is_file()


def test_no_rank_of_evaluate_outlives_its_launcher(tmp_path: Path) -> None:
    """They meet as training's ranks do, and would wait for each other."""
    row = '{"user": "u", "item": "i", "explanation": "a fine lid", "reference": "a fine lid"}\n'
    (tmp_path / "a.jsonl").write_text(row)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = TRAIN.with_name("evaluate.py")
    kill_launcher(subprocess.Popen([*command, str(script), f"predictions={tmp_path / 'a.jsonl'}"]), lambda ranks: None)


def test_a_process_that_no_launcher_started_outlives_its_parent(tmp_path: Path) -> None:
    """`nohup python launch/train.py` goes on when its shell ends."""
    flag = tmp_path / "flag"
    child = (
        "from launch.launcher import end_with_launcher; import pathlib, sys, time; end_with_launcher(); "
        "time.sleep(1.5); pathlib.Path(sys.argv[1]).touch()"
    )
    variables = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    parent = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); os._exit(0)"
    subprocess.run([sys.executable, "-c", parent, child, str(flag)], check=True, env=variables, cwd=TRAIN.parents[1])
    assert wait_for(flag.is_file, 20)
