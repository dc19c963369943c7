"""One job a run folder: who may take it, who is refused, and who notices that he lost it."""

import json
import os
import subprocess
import sys
import time

import pytest

from launch import run_lock
from launch.run_lock import InUseError, RunLock
from metrics.errors import InputError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds instead of half a minute, and no scheduler around."""
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    monkeypatch.setattr(run_lock, "SILENCE", 0.5)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def held_by(folder, **changes):
    """A lock of another process that lives, changed as given."""
    lock = RunLock(folder)
    owner = lock._mine() | {"pid": os.getppid(), "born": run_lock._born(os.getppid())} | changes
    lock.path.with_name("new").write_text(json.dumps(owner))
    lock.path.with_name("new").replace(lock.path)  # as a whole: the one who looks every 50 ms must see no half of it
    return owner


def acquire(folder):
    lock, said = RunLock(folder), []
    lock.acquire(said.append)
    return lock, said


def test_a_free_folder_is_taken_and_released(tmp_path):
    lock, said = acquire(tmp_path)
    assert lock.taken_by() == ""
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert said == []


def test_a_second_job_on_the_same_machine_is_refused_and_told_who_is_there(tmp_path):
    held_by(tmp_path, job="4711")
    with pytest.raises(InputError, match=rf"is in use by job 4711, process {os.getppid()} on .*; stop that job"):
        acquire(tmp_path)


def test_a_dead_owner_on_this_machine_is_replaced_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    born = run_lock._born(child.pid)
    child.wait()
    held_by(tmp_path, pid=child.pid, born=born)
    lock, said = acquire(tmp_path)
    assert lock.taken_by() == ""
    assert said == []


def test_an_owner_whose_process_id_was_given_to_another_is_dead(tmp_path):
    held_by(tmp_path, born="another start 1")
    assert acquire(tmp_path)[1] == []


def test_a_silent_owner_on_another_machine_is_replaced_after_a_while(tmp_path):
    held_by(tmp_path, host="node9")
    began = time.monotonic()
    lock, said = acquire(tmp_path)
    assert time.monotonic() - began >= 0.5
    assert "waiting" in said[0]
    assert lock.taken_by() == ""


def test_an_owner_on_another_machine_that_shows_life_is_left_alone(tmp_path, monkeypatch):
    owner = held_by(tmp_path, host="node9")
    (tmp_path / f"lock-{owner['token']}.beat").write_text("1\n")
    monkeypatch.setattr(run_lock.time, "sleep", lambda _: (tmp_path / f"lock-{owner['token']}.beat").write_text("2\n"))
    with pytest.raises(InputError, match="on node9; stop that job"):
        acquire(tmp_path)


@pytest.mark.parametrize(("variable", "key"), [("SLURM_JOB_ID", "job"), ("TORCHELASTIC_RUN_ID", "launch")])
def test_a_requeued_job_and_a_restarted_rank_replace_themselves_at_once(tmp_path, monkeypatch, variable, key):
    held_by(tmp_path, host="node9", **{key: "77"})
    monkeypatch.setenv(variable, "77")
    assert acquire(tmp_path)[1] == []


def test_ranks_behind_a_network_cut_do_not_take_the_lock_back_from_a_later_start(tmp_path, monkeypatch):
    # torchrun restarts its ranks also there, as the same job.
    owner = held_by(tmp_path, host="node9", job="77", start=2)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(
        InUseError, match="was taken over by job 77, process .* a later start of this job; this copy stops"
    ):
        acquire(tmp_path)
    assert json.loads((tmp_path / "lock.json").read_text()) == owner
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert acquire(tmp_path)[1] == []


def test_the_stale_copy_notices_and_leaves_the_lock_to_its_new_owner(tmp_path):
    stale, _ = acquire(tmp_path)
    lost = []
    stale.beat(lost.append)
    time.sleep(0.2)
    assert list(tmp_path.glob("lock-*.beat"))
    owner = held_by(tmp_path, host="node2", job="8", pid=9)
    deadline = time.monotonic() + 5
    while not lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lost == ["job 8, process 9 on node2"]
    assert stale.taken_by() == "job 8, process 9 on node2"
    stale.release()
    assert json.loads((tmp_path / "lock.json").read_text()) == owner


def test_a_folder_without_write_permission_is_an_input_error(tmp_path, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(run_lock, "write_durably", refuse)
    with pytest.raises(InputError, match=r"run_dir=.*: cannot be written \(Permission denied\); choose another"):
        acquire(tmp_path)
