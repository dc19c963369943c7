"""With LoRA: the discriminator, whose trunk is read from merged adapters, learns, and PPO is paid by it."""

import json
from pathlib import Path

import pytest
from running import losses_of

LORA = ["explanation.lora.rank=4", "hqar.fit.lr=3e-3"]


@pytest.mark.long
def test_with_adapters_the_discriminator_learns_sharded_or_not(tmp_path: Path) -> None:
    """As an earlier version froze the trunk, its loss stayed at that of guessing."""
    one, two = tmp_path / "one", tmp_path / "two"
    expected = losses_of("", one, 1, LORA)
    found = losses_of(str(one), two, 2, [*LORA, "zero.stage=3"])
    for stage in ("hqar", "ppo"):
        assert len(found[stage]) == len(expected[stage]) >= 20, stage
        assert found[stage][:20] == pytest.approx(expected[stage][:20], abs=1e-4), stage
    for folder in (one, two):
        summary = json.loads((folder / "hqar" / "export" / "stage.json").read_text())["summary"]
        assert summary["valid_loss"] < 0.6
        assert "warnings" not in summary
