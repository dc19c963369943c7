"""Signals and switch files: what a run understands by them."""

import os
import signal

import pytest
import torch

from callbacks.requests import LockLostError, Requests, restarted

CPU = torch.device("cpu")


@pytest.fixture
def requests(tmp_path):
    """Requests that listen; the handlers of before are put back."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    made = Requests(tmp_path)
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_wished_when_nothing_has_come(requests):
    wish = requests.agree(False, CPU)
    assert (wish.save, wish.stop, wish.requeue) == (False, False, False)


def test_a_save_that_is_due_is_a_save_and_no_more(requests):
    wish = requests.agree(True, CPU)
    assert (wish.save, wish.stop) == (True, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_once_or_twice_asks_to_save_stop_and_be_queued_again(requests, number):
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    wish = requests.agree(False, CPU)
    assert (wish.save, wish.stop, wish.requeue) == (True, True, True)
    assert signal.Signals(number).name in wish.reason


def test_ctrl_c_asks_to_stop_and_pressed_again_ends_at_once(requests):
    os.kill(os.getpid(), signal.SIGINT)
    wish = requests.agree(False, CPU)
    assert (wish.save, wish.stop, wish.requeue) == (True, True, False)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("name", "stops"), [("SAVE", False), ("STOP", True)])
def test_a_switch_file_counts_once(requests, tmp_path, name, stops):
    (tmp_path / name).touch()
    wish = requests.agree(False, CPU)
    assert (wish.save, wish.stop, wish.requeue) == (True, stops, False)
    assert wish.reason == str(tmp_path / name)
    assert not (tmp_path / name).exists()
    assert not requests.agree(False, CPU).save


def test_a_switch_that_came_too_late_does_not_end_the_next_start(requests, tmp_path):
    (tmp_path / "STOP").touch()
    requests.forget_files()
    assert not requests.agree(False, CPU).stop


def test_a_run_folder_that_was_lost_ends_the_run(requests):
    requests.replaced("job 7, process 1 on node2")
    with pytest.raises(LockLostError, match="job 7, process 1 on node2 has taken over the run folder"):
        requests.agree(False, CPU)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"SLURM_RESTART_COUNT": "2"}, True),
        ({"SLURM_RESTART_COUNT": ""}, False),
    ],
)
def test_a_restart_by_torchrun_or_slurm_is_known(monkeypatch, environment, expected):
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert restarted() is expected
