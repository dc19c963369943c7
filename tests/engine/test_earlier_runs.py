"""What an earlier version left on a user's disk goes on working: format-1/ was made by commit 5a91527.

`run.tar.gz` is a finished run of a tiny config with all five stages and one checkpoint of the rating stage
(`configs/debug/tiny.yaml`, smaller still; the command stands in its command.txt). `losses.json` holds the first twenty
losses of every stage of the tests' tiny run. A change of a format adds a folder beside this one and leaves it.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import torchrun

from launch.config import flatten, load
from launch.schema import TrainConfig

ROOT = Path(__file__).parents[2]
SAVED = Path(__file__).parent / "format-1"
STAGES = ("rating", "explanation", "ccr", "hqar", "ppo")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with tarfile.open(SAVED / "run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def train(run: Path, *arguments: str) -> str:
    """Starts the run again with the config it was made by; returns what it wrote on the console."""
    done = torchrun(ROOT / "launch" / "train.py", [str(run / "config.yaml"), f"run_dir={run}", *arguments], 1)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def entry_point(name: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *arguments]
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_its_stages_are_finished_and_its_result_is_the_same(run: Path) -> None:
    before = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    console = train(run)
    for stage in STAGES:
        assert f"{stage}: already finished" in console
    after = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["explanation"] for row in after] == [row["explanation"] for row in before]
    assert [row["predicted_rating"] for row in after] == pytest.approx([row["predicted_rating"] for row in before])


def test_its_checkpoint_is_gone_on_from(run: Path) -> None:
    (run / "rating" / "export" / "stage.json").unlink()
    console = train(run, "stage=rating")
    assert "goes on from" in console
    assert "step-000016: step 16" in console
    assert (run / "rating" / "export" / "stage.json").is_file()


def test_explain_report_and_evaluate_read_it(run: Path) -> None:
    row = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    text = entry_point("explain", f"run={run}", f"user={row['user']}", f"item={row['item']}")
    assert row["explanation"] in text
    entry_point("report", f"run={run}")
    assert "LLM2ER-EQR" in (run / "report.html").read_text()
    table = entry_point("evaluate", f"runs=[{run},{run / 'explanation' / 'predictions.jsonl'}]")
    metrics = json.loads((run / "metrics.json").read_text())["systems"]["LLM2ER-EQR"]
    assert f"{metrics['bleu_1']:.3f}" in table


def test_a_run_that_has_not_finished_ppo_is_explained_by_its_last_stage(run: Path) -> None:
    row = json.loads((run / "explanation" / "predictions.jsonl").read_text().splitlines()[0])
    shutil.rmtree(run / "ppo" / "export")
    pair = [f"run={run}", f"user={row['user']}", f"item={row['item']}"]
    assert row["explanation"] in entry_point("explain", *pair)
    shutil.rmtree(run / "explanation" / "export")
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "explain.py"), *pair], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no stage that explains is finished (explanation, ppo)" in done.stderr


def test_losses_are_those_of_the_earlier_version(one_rank: tuple[Path, dict[str, list[float]]]) -> None:
    # Another processor rounds sums otherwise, which grows to 1e-4 in twenty steps; another order of batches, another
    # seed or another network differ by 1e-2 and more.
    _, losses = one_rank
    saved = json.loads((SAVED / "losses.json").read_text())
    assert saved.keys() == set(STAGES)
    for stage, values in saved.items():
        assert losses[stage][:20] == pytest.approx(values, abs=1e-3), stage


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]


def test_its_config_names_every_key_that_there_was(run: Path) -> None:
    """A key that is renamed or dropped makes an old run unreadable; a new one has a default that changes nothing."""
    config, _ = load(TrainConfig, [str(run / "config.yaml")])
    now = flatten(config)
    for name, value in leaves(yaml.safe_load((run / "config.yaml").read_text())):
        assert now[name] == value, name
