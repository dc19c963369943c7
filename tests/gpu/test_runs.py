"""Whole runs of launch/train.py on one GPU without torchrun: in float32 and bfloat16, killed and gone on with.

All processes are started at once: most of their time is imports.
"""

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tested_device import DEVICE

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/engine"))

from running import TINY  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(290)]

ACCELERATOR = "gpu" if DEVICE == "cuda" else "cpu"
KILLED, SAVED = "explanation", "step-000006"  # with dropout, whose random state is then the GPU's
SETTINGS = [
    *TINY,
    f"hardware.accelerator={ACCELERATOR}",
    "zero.stage=2",
    "explanation.new_model.dropout=0.1",
    "explanation.fit.epochs=3",
    "rating.fit.epochs=2",
    "ccr.fit.epochs=2",
    "hqar.fit.epochs=2",
    "ppo.iterations=2",
    "checkpoint.every_n_steps=3",
]


def started(log: Path, script: str, *arguments: str) -> subprocess.Popen:
    """A process of this Python, offline, that sees the same devices and prints to `log`."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path, "PROBE_ACCELERATOR": ACCELERATOR}
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            **{"env": variables, "cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT},
        )


def train(log: Path, run_dir: Path, *more: str) -> subprocess.Popen:
    """A run of the default preset, made tiny."""
    return started(log, "launch/train.py", "configs/llm2er_eqr.yaml", *SETTINGS, *more, f"run_dir={run_dir}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, int, str]]]:
    """runs(name) -> (folder, exit code, what was printed)."""
    folder = tmp_path_factory.mktemp("runs")
    going = {
        "whole": train(folder / "whole.log", folder / "whole"),
        "bf16": train(folder / "bf16.log", folder / "bf16", "hardware.precision=bf16"),
        "probe": started(folder / "probe.log", "tests/engine/ppo_probe.py", str(folder), "2"),
    }
    killed = train(folder / "killed.log", folder / "killed")
    saved, end = folder / "killed" / KILLED / "checkpoints" / SAVED, time.monotonic() + 200
    while not saved.is_dir() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    going["resumed"] = train(folder / "resumed.log", folder / "killed")

    def ended(name: str) -> tuple[Path, int, str]:
        code = going[name].wait(timeout=250)
        place = {"probe": folder, "resumed": folder / "killed"}.get(name, folder / name)
        return place, code, (folder / f"{name}.log").read_text()

    yield ended
    for process in going.values():
        process.kill()


def curves(folder: Path, stage: str) -> list[dict[str, str]]:
    """The rows of a stage's metrics.csv, without those that tell of time."""
    with (folder / stage / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["whole", "bf16", "resumed"])
def test_a_run_ends_well_and_explains_all_of_test(runs, name):
    folder, code, printed = runs(name)
    assert code == 0, printed[-3000:]
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert rows
    assert all(math.isfinite(row["predicted_rating"]) for row in rows)


def test_log_probabilities_of_a_rollout_are_those_of_its_update(runs):
    """PPO, GRPO, RLOO and PPO on adapters."""
    folder, code, printed = runs("probe")
    assert code == 0, printed[-3000:]
    for name, seen in json.loads((folder / "0.json").read_text())["2"].items():
        assert seen["gap"] < 1e-4, name
        assert len(seen["losses"]) == 12, name
        assert all(map(math.isfinite, seen["losses"])), name


def test_a_run_that_was_killed_goes_on_to_the_same_numbers(runs):
    """To the last bit: the curves of every stage, and the predictions."""
    (whole, *_), (killed, _, printed) = runs("whole"), runs("resumed")
    assert "goes on from" in printed, printed[-3000:]
    for stage in ("rating", "explanation", "ccr", "hqar", "ppo"):
        assert curves(killed, stage) == curves(whole, stage), stage
    assert (killed / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()
