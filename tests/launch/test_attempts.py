"""What one start leaves for the next."""

import json

import pytest

from callbacks.guards import HarmfulUpdateError
from launch.attempts import ask_for_requeue, look_back, remember_failure
from launch.run_lock import InUseError
from metrics.errors import InputError


@pytest.fixture(autouse=True)
def first_start(monkeypatch):
    """No scheduler around."""
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_start_by_hand_forgets_what_failed(tmp_path):
    remember_failure(tmp_path, "rating step 7", InputError("no"))
    ask_for_requeue(tmp_path, "signal")
    look_back(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [InputError("wrong"), HarmfulUpdateError("the loss is not finite")])
def test_what_is_certain_to_come_again_is_not_tried_again(tmp_path, monkeypatch, error):
    remember_failure(tmp_path, "ppo step 3", error)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(InputError, match="not restarted, as it would fail again: it failed before at ppo step 3"):
        look_back(tmp_path)


def test_another_error_is_tried_again_until_it_came_twice_at_the_same_step(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for where in ("rating step 7", "rating step 9", "ccr step 9"):
        remember_failure(tmp_path, where, OSError("the network is down"))
        look_back(tmp_path)
    remember_failure(tmp_path, "ccr step 9", OSError("the network is down"))
    with pytest.raises(InputError, match="failed twice at ccr step 9 with OSError: the network is down"):
        look_back(tmp_path)


def test_what_failed_twice_before_training_is_tried_on_other_nodes_and_not_on_the_same(tmp_path, monkeypatch):
    for _ in range(2):
        remember_failure(tmp_path, "the start", RuntimeError("7 of 9 sums over 2 ranks are wrong"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    look_back(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(InputError, match="it failed twice at the start with RuntimeError: 7 of 9 sums"):
        look_back(tmp_path)


def test_a_rank_that_only_lost_another_says_nothing(tmp_path):
    remember_failure(tmp_path, "rating step 7", ValueError("a bug"))
    remember_failure(tmp_path, "rating step 7", RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4"))
    assert json.loads((tmp_path / "failed.json").read_text())["error"] == "ValueError: a bug"


def test_torchrun_does_not_restart_a_run_that_was_asked_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    ask_for_requeue(tmp_path, "signal SIGTERM")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit) as leave:
        look_back(tmp_path)
    assert leave.value.code == 75


def test_a_requeued_job_is_started_although_it_was_asked_to_end_before(tmp_path, monkeypatch):
    ask_for_requeue(tmp_path, "signal SIGTERM")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    look_back(tmp_path)
    assert not (tmp_path / "REQUEUE").exists()


def test_a_job_that_found_the_run_folder_in_use_leaves_nothing_for_its_owner_to_read(tmp_path):
    remember_failure(tmp_path, "the start", InUseError("is in use by job 8"))
    assert list(tmp_path.iterdir()) == []
