"""Every YAML that is shipped is a valid config and opens with the command that runs it."""

from pathlib import Path

import pytest

from launch.config import load
from launch.schema import TrainConfig

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_is_valid(path: Path) -> None:
    arguments = ["hardware.accelerator=cpu"]  # after the file: a GPU config must be readable without a GPU
    config, _ = load(TrainConfig, [str(path), *arguments])
    assert config.hardware.accelerator == "cpu"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_opens_with_its_command(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("launch/train.py" in line for line in header)
