"""Sharding, ranks and accumulation change no loss: the very engine of real runs, on two ranks."""

from pathlib import Path

import pytest
from running import losses_of

STAGES = ("rating", "explanation", "ccr", "hqar", "ppo")


def assert_same(found: dict[str, list[float]], expected: dict[str, list[float]], stages: tuple[str, ...]) -> None:
    for stage in stages:
        assert len(found[stage]) == len(expected[stage]) >= 20, stage
        assert found[stage][:20] == pytest.approx(expected[stage][:20], abs=1e-4), stage


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_two_ranks_sharded_lose_as_one_rank_unsharded(
    zero_stage: int, one_rank: tuple[Path, dict[str, list[float]]], tmp_path: Path
) -> None:
    base, expected = one_rank
    found = losses_of(str(base), tmp_path, 2, [f"zero.stage={zero_stage}"])
    assert_same(found, expected, STAGES)


def test_every_stage_learns(one_rank: tuple[Path, dict[str, list[float]]]) -> None:
    _, losses = one_rank
    for stage in ("rating", "explanation", "ccr", "hqar"):
        assert sum(losses[stage][-3:]) < sum(losses[stage][:3]), stage
