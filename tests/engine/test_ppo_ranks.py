"""Reinforcement learning on two ranks: the texts and losses of one rank, however differently the ranks' texts end."""

import json
from pathlib import Path

import pytest
from running import HERE, torchrun

CASES = ("ppo", "grpo", "rloo", "adapters")


def probe(folder: Path, ranks: int, *stages: str) -> list[dict]:
    """What each rank found, by ZeRO stage and case. A rank that waits for ever is ended by the time limit."""
    folder.mkdir()
    done = torchrun(HERE / "ppo_probe.py", [str(folder), *stages], ranks, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """(one rank without sharding, two ranks with ZeRO 2 and 3)."""
    folder = tmp_path_factory.mktemp("ppo_ranks")
    return probe(folder / "one", 1, "0")[0]["0"], probe(folder / "two", 2, "2", "3")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stage", ["2", "3"])
def test_texts_and_losses_are_those_of_one_rank(found: tuple[dict, list[dict]], stage: str, case: str) -> None:
    one, two = found
    for rank in two:
        assert rank[stage][case]["texts"] == one[case]["texts"]
        assert len(one[case]["losses"]) == 12
        assert rank[stage][case]["losses"] == pytest.approx(one[case]["losses"], abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_of_a_rollout_are_those_of_the_update(found: tuple[dict, list[dict]], case: str) -> None:
    one, two = found
    assert one[case]["gap"] < 1e-5
    assert all(rank[stage][case]["gap"] < 1e-5 for rank in two for stage in ("2", "3"))


def test_the_ranks_texts_did_end_at_different_steps(found: tuple[dict, list[dict]]) -> None:
    """Else nothing above would have been hard."""
    lengths = [1 if text[0] == 0 else 10 for text in found[0]["ppo"]["texts"]]
    assert lengths == [1, 1, 1, 1, 10, 10, 10, 10]
