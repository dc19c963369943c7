"""Runs that are killed, asked to end, hang, fail, or lose their run folder: on real DeepSpeed, two ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import HERE, TINY

STAGES = ("rating", "explanation", "ccr", "hqar", "ppo")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """scenario(name) -> what it saw. All run in one process, which imports the libraries once."""
    done = subprocess.run(
        [sys.executable, str(HERE / "interruptions.py"), str(tmp_path_factory.mktemp("interruptions"))],
        **{"capture_output": True, "text": True, "timeout": 590, "check": False},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)

    def seen(name: str) -> dict:
        assert "broken" not in found[name], found[name]
        return found[name]

    return seen


@pytest.mark.timeout(600)  # the first one runs all scenarios
def test_every_stage_goes_on_with_the_same_losses_to_the_last_bit(scenario: Callable[[str], dict]) -> None:
    found = scenario("exact")
    for stage in STAGES:
        seen = found[stage]
        assert seen["codes"] == [0, 0], seen
        assert seen["same"], stage
        assert seen["to_the_end"], stage
        assert seen["product"], stage
        assert seen["batches"] >= 8, stage


def test_a_run_that_is_asked_to_end_saves_once_and_goes_on(scenario: Callable[[str], dict]) -> None:
    seen = scenario("asked_to_end")
    assert seen["whole"] == [0, 0]
    assert seen["same"]  # losses of six starts put together, and the product
    one = seen["usr1_twice_on_rank_1"]
    assert one["codes"] == [75, 75]
    assert one["checkpoints"] == ["step-000008"]
    assert one["requeue"]
    assert "stopped by signal SIGUSR1; the same command goes on from here" in one["printed"]
    last_of_epoch = seen["term_on_all_in_the_last_batch_of_an_epoch"]
    assert last_of_epoch["codes"] == [75, 75]
    assert last_of_epoch["checkpoints"][-1] == "step-000018"
    files = seen["save_then_stop"]
    assert files["codes"] == [0, 0]  # the user's own wish: nothing to queue again
    assert not files["requeue"]
    assert files["checkpoints"][-2:] == ["step-000021", "step-000023"]
    assert "rating: saved as " in files["printed"]
    assert "SAVE asks, in " in files["printed"]
    assert files["left"] == []  # the switches are taken back, and the lock is released
    within = seen["usr1_in_a_validation_and_term_in_the_save"]
    assert within["codes"] == [75, 75]
    assert within["checkpoints"][-2:] == ["step-000023", "step-000025"]  # one save at the next step, and no other
    very_last = seen["usr2_in_the_very_last_batch"]
    assert very_last["codes"] == [75, 75]
    assert very_last["checkpoints"][-1] == "step-000030"
    assert seen["left_alone"]["codes"] == [0, 0]
    assert seen["left_alone"]["steps"] == 0  # no step more than the run that was left alone


def test_a_rollout_that_is_cut_off_is_drawn_again_and_no_prompt_is_lost_or_doubled(
    scenario: Callable[[str], dict],
) -> None:
    seen = scenario("in_a_rollout")
    assert seen["whole"] == [0, 0]
    assert -signal.SIGKILL in seen["killed"]["codes"]
    assert seen["asked_to_end"]["codes"] == [75, 75]  # at the end of its iteration
    assert "ppo step 16: stopped by signal SIGUSR1" in seen["asked_to_end"]["printed"]
    assert seen["left_alone"]["codes"] == [0, 0]
    assert seen["same"]
    whole = dict(seen["expected"])
    assert [iteration for iteration, _ in seen["rollouts"]] == [0, 1, 2, 2, 3, 4, 5]
    assert all(records == whole[iteration] for iteration, records in seen["rollouts"])
    drawn = [record for records in whole.values() for record in records]
    assert len(drawn) == len(set(drawn)) == 6 * 16


def test_torchrun_starts_the_ranks_again_when_one_has_died(tmp_path: Path) -> None:
    # Its store outlives them: the new ranks must not look for the addresses of the dead.
    keys = [*TINY, f"run_dir={tmp_path / 'run'}", "stage=rating", "logger=none", "checkpoint.every_n_steps=2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, str(HERE / "dies_once.py"), *keys],
        **{"env": environment, "capture_output": True, "text": True, "timeout": 240, "check": False},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on from " in done.stderr
    assert done.stderr.count("restart 1 by torchrun") == 1
    assert (tmp_path / "run" / "rating" / "export" / "stage.json").is_file()


def listens(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_signal_in_the_first_second_is_not_lost(tmp_path: Path) -> None:
    command = [sys.executable, "launch/train.py", *TINY, f"run_dir={tmp_path / 'run'}", "stage=rating", "logger=none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, cwd=HERE.parents[1], env=environment, stderr=subprocess.PIPE, text=True)
    while not listens(process.pid, signal.SIGUSR1):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 75, printed
    assert "nothing is begun; stopped by signal SIGUSR1" in printed
    assert (tmp_path / "run" / "REQUEUE").is_file()


def test_a_rank_that_hangs_ends_the_job_with_every_ranks_stack(scenario: Callable[[str], dict]) -> None:
    seen = scenario("hang")
    assert seen["codes"] == [1, 1]
    assert seen["seconds"] < 60
    for rank in (0, 1):
        assert f"rank {rank} of 2 on " in seen["told"][rank]
        assert "has made no progress for 3 s (hardware.hang_timeout) in rating, step 3" in seen["told"][rank]
    assert "in <lambda>" in seen["told"][1]  # where it sleeps
    assert "distributed" in seen["told"][0]  # where the other waits for it


def test_ranks_that_meet_and_cannot_compute_together_are_told_what_to_look_at(scenario: Callable[[str], dict]) -> None:
    seen = scenario("no_network")
    assert seen["codes"] == [1, 1]
    told = [printed.strip().splitlines()[-1] for printed in seen["printed"]]
    assert re.fullmatch(
        r"RuntimeError: rank [01] on \S+ has met the others and cannot compute with them \(.*: ib77\); "
        "GLOO_SOCKET_IFNAME, if set, must name a network that joins all nodes",
        next(words for words in told if "ib77" in words),
    )


def test_a_gradient_that_is_not_finite_stops_all_ranks_before_the_update(scenario: Callable[[str], dict]) -> None:
    seen = scenario("broken_gradient")
    for name in ("2", "3", "loss"):
        assert all(code != 0 for code in seen[name]["codes"])
        assert seen[name]["checkpoints"] == ["step-000003"]
        for printed in seen[name]["printed"]:
            what = "the loss" if name == "loss" else "a gradient"
            assert f"{what} is not finite at step 3 (records " in printed
            assert "nothing was updated" in printed


@pytest.mark.parametrize(("stage", "what", "saved"), [("rating", "the loss", 14), ("ppo", "the gradient's norm", 8)])
def test_a_spike_on_one_rank_stops_all_before_the_update(
    scenario: Callable[[str], dict], stage: str, what: str, saved: int
) -> None:
    seen = scenario("spike")[stage]
    assert seen["codes"] == [1, 1]
    assert seen["last_step"] == 14
    assert seen["checkpoints"] == [f"step-{saved:06d}"]
    for printed in seen["printed"]:
        assert re.search(rf"{what} is \S+, more than loss_spike=20 times the usual \S+ at step 14 \(records ", printed)
        assert "Traceback" not in printed


def test_wandb_goes_on_in_the_same_run_without_a_row_lost_or_doubled(scenario: Callable[[str], dict]) -> None:
    seen = scenario("wandb_goes_on")
    assert seen["codes"] == [[0], [0]]
    assert len(seen["ids"]) == 2
    assert len(set(seen["ids"])) == 1
    assert seen["steps"] == [list(range(12)), list(range(12, 18))]
    assert seen["table"] == list(range(18))


def test_a_copy_that_lost_the_run_folder_stops_before_it_touches_a_checkpoint(scenario: Callable[[str], dict]) -> None:
    seen = scenario("fenced")
    assert all(code != 0 for code in seen["stale"]["codes"])
    assert "job 4711, process " in seen["stale"]["printed"][0]
    assert "on node7 has taken over the run folder" in seen["stale"]["printed"][0]
    assert seen["checkpoints"] == ["step-000002", "step-000004"]
    assert seen["second"]["codes"] == [2, 2]
    assert f"is in use by process {seen['second']['pid']} on " in seen["second"]["printed"][0]
    assert "Traceback" not in seen["second"]["printed"][0]


def test_an_error_that_comes_again_is_not_tried_for_ever(scenario: Callable[[str], dict]) -> None:
    first, second, third = scenario("fails_again")
    assert "ValueError: a bug" in first[1]
    assert "ValueError: a bug" in second[1]
    assert "not restarted, as it would fail again: it failed twice at rating step 7 with ValueError: a bug" in third[0]


def test_a_converted_checkpoint_goes_on_with_another_number_of_ranks(
    scenario: Callable[[str], dict],
) -> None:
    seen = scenario("other_ranks")
    assert "was saved by 2 ranks, this run has 1; convert it: python launch/train.py" in seen["refused"]
    for ranks in ("1", "4"):
        assert set(seen[ranks]["codes"]) == {0}, seen[ranks]["printed"]
        assert seen[ranks]["batches"] == 14
        assert seen[ranks]["largest_gap"] < 1e-5


@pytest.mark.parametrize(("name", "best"), [("within", 3), ("last", 5)])
def test_the_state_of_the_best_validation_is_kept_beside_the_newest(
    scenario: Callable[[str], dict], name: str, best: int
) -> None:
    seen = scenario("keeps_the_best")[name]
    assert seen["codes"] == [0, 0]
    assert seen["rmse"].index(min(seen["rmse"])) + 1 == best  # epochs of six steps
    assert [step for step, is_best in seen["saved"] if is_best] == [6 * best]
    assert seen["saved"][0][0] == 30


def test_a_disk_that_does_not_give_back_what_was_written_is_told_before_the_first_step(
    scenario: Callable[[str], dict],
) -> None:
    seen = scenario("broken_disk")
    assert seen["codes"] == [2, 2]
    assert seen["steps"] == 0
    assert re.search(r"error: \S+/step-000000/shards/\S+: does not read back as it was written; check", seen["printed"])
    assert "Traceback" not in seen["printed"]


def test_a_full_disk_is_told_in_a_sentence_and_older_checkpoints_stand(scenario: Callable[[str], dict]) -> None:
    seen = scenario("disk_full")
    assert seen["stop"]["codes"] == [2, 2]
    assert seen["stop"]["checkpoints"] == ["step-000000", "step-000004"]
    assert "error: step-000008 could not be saved in " in seen["stop"]["printed"]
    assert "free some space and run the same command again" in seen["stop"]["printed"]
    assert "Traceback" not in seen["stop"]["printed"]
    assert seen["go_on"]["codes"] == [0, 0]
    assert seen["go_on"]["printed"].count("could not be saved") == 1
    assert seen["go_on"]["checkpoints"] == [f"step-{step:06d}" for step in (0, 4, 12, 16, 20, 24, 28)]


def test_too_little_space_for_the_checkpoints_to_come_is_told_at_the_start(scenario: Callable[[str], dict]) -> None:
    for seen in scenario("disk_full").values():
        if not seen["small"]:
            pytest.skip("takes a small file system: needs the right to mount a tmpfs")
        told = re.findall(r"checkpoints of \d\S* MB need up to \d\S* MB more; lower checkpoint.keep", seen["printed"])
        assert len(told) == 1


def test_damage_to_any_file_is_found_before_anything_is_loaded(scenario: Callable[[str], dict]) -> None:
    seen = scenario("damage")
    assert seen["codes"] == [0, 0]
    assert len(seen["files"]) >= 9  # manifest, four shards of two ranks, two random states, the product
    assert seen["missed"] == []
    assert seen["found"] == 5 * len(seen["files"])
    assert seen["whole"] == ""
