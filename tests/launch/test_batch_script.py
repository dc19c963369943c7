"""What train.sbatch asks of SLURM, and when it puts itself into the queue again: with programs that stand for SLURM's.

The same on a real SLURM stands in test_slurm.py; here each way takes a fraction of a second.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SBATCH = ROOT / "launch" / "slurm" / "train.sbatch"
PROGRAMS = {
    # Prints a config for print_config=true, and nothing else.
    "python": 'if [[ ${*: -1} = print_config=true ]]; then echo "run_dir: $RUN  # command line"; fi',
    "scontrol": """
        echo "scontrol $*" >>"$CALLS"
        case $1 in show) printf '%s\\n' node7 node8 ;; requeue) exit "${REQUEUE_CODE:-0}" ;; esac""",
    "scancel": 'echo "scancel $*" >>"$CALLS"; touch "$RUN/signalled"',
    "srun": 'echo "srun $*" >>"$CALLS"; cd "$RUN" && eval "$STEP"',
    "sleep": '[[ $1 = 60 ]] || exec /bin/sleep "$@"',  # until SLURM ends the job
    "nvidia-smi": "echo GPU 0",
}


class Batch:
    """A machine with those programs."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.calls = folder / "run", folder / "calls"
        (folder / "bin").mkdir()
        for name, text in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(f"#!/usr/bin/env bash\n{text}\n")
            program.chmod(0o755)
        self.environment = {
            **{"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "RUN": str(self.run_dir), "CALLS": str(self.calls)},
            **{"SLURM_JOB_ID": "60123", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"},
            **{"SLURM_GPUS_ON_NODE": "4", "LLM2ER_ROOT": str(ROOT), "LLM2ER_SITE": str(folder / "none.sh")},
        }

    def __call__(self, step: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs the script; `step` is what happens in the place of training, within the run folder."""
        self.calls.unlink(missing_ok=True)
        return subprocess.run(
            ["/usr/bin/env", "bash", str(SBATCH), "configs/debug/tiny.yaml", "seed=3"],
            env=self.environment | {"STEP": step} | environment,
            **{"capture_output": True, "text": True, "timeout": 60, "check": False},
        )

    def called(self, program: str) -> list[str]:
        """How a program was called, in order."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(program + " ")]

    def requeued(self) -> bool:
        """Whether the job was put into the queue again."""
        return "scontrol requeue 60123" in self.called("scontrol")


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def test_a_run_that_ends_well_ends_the_job(batch):
    done = batch("true")
    assert done.returncode == 0, done.stderr
    assert not batch.requeued()


def test_torchrun_gets_nodes_ranks_and_meeting_point_of_this_job_and_start(batch):
    batch("true", SLURM_RESTART_COUNT="2")
    [called] = batch.called("srun")
    words = called.split()
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d", "--rdzv-id=60123-2"} <= set(words)
    assert "--rdzv-endpoint=node7:20123" in words  # 10000 + 60123 % 50000
    assert {"--kill-on-bad-exit=1", "--max-restarts=1", "--shutdown-timeout=480"} <= set(words)
    handled = next(word for word in words if word.startswith("--signals-to-handle=")).split("=")[1].split(",")
    assert {"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"} <= set(handled)
    assert words[-3:] == ["launch/train.py", "configs/debug/tiny.yaml", "seed=3"]


def test_the_first_lines_say_what_runs_where(batch):
    told = batch("true").stdout
    assert "job 60123, start 0, 2 nodes (node[7-8]) with 4 ranks each, commit " in told
    assert ", config " in told
    assert f"run folder {batch.run_dir}" in told
    assert "GPU 0" in told


def test_a_run_that_was_asked_to_end_is_put_into_the_queue_again_once(batch):
    done = batch("touch REQUEUE; exit 1")
    assert done.returncode == 75
    assert batch.called("scontrol").count("scontrol requeue 60123") == 1


def test_a_signal_is_handed_to_the_ranks_and_the_script_waits_for_them(batch):
    # The step signals the batch shell as SLURM does, and ends when it has been signalled itself.
    step = "kill -USR1 $PPID; until [[ -f signalled ]]; do sleep 0.02; done; sleep 0.2; touch REQUEUE; exit 1"
    done = batch(step)
    assert batch.called("scancel") == ["scancel --signal=USR1 60123.0"]
    assert done.returncode == 75
    assert batch.requeued()


def test_where_it_may_not_be_queued_again_the_remedy_is_told(batch):
    done = batch("touch REQUEUE; exit 1", REQUEUE_CODE="1")
    assert done.returncode == 75
    assert "could not be put into the queue again; the same sbatch command goes on" in done.stderr
    done = batch("touch REQUEUE; exit 1", SLURM_RESTART_COUNT="3", LLM2ER_MAX_REQUEUES="3")
    assert "that was done 3 times (LLM2ER_MAX_REQUEUES)" in done.stderr
    assert not batch.requeued()


def test_an_error_that_is_sure_to_come_again_ends_the_job(batch):
    done = batch("""echo '{"certain": true}' >failed.json; exit 1""")
    assert done.returncode == 1
    assert not batch.requeued()


def test_ranks_that_die_are_started_again_three_times_in_a_row(batch):
    ends = []
    for start in range(4):
        ends.append(batch("exit 1", SLURM_RESTART_COUNT=str(start)))
        assert batch.requeued() == (start < 3)
    assert [done.returncode for done in ends] == [75, 75, 75, 1]
    assert "failed 4 times in a row (LLM2ER_MAX_FAILURES)" in ends[-1].stderr


@pytest.mark.parametrize("owner", ["60123-1", "777-0"])  # a later start of this job; another job
def test_the_run_folder_of_another_is_left_as_it_is(batch, owner):
    lock = json.dumps({"token": "t", "job": owner.split("-")[0], "launch": owner})
    done = batch(f"echo '{lock}' >lock.json; touch REQUEUE; exit 1")
    assert done.returncode == 1
    assert not batch.requeued()
    assert "the run folder belongs to" in done.stderr
    assert sorted(path.name for path in batch.run_dir.iterdir()) == ["REQUEUE", "lock.json"]


def test_a_lock_that_our_own_killed_ranks_left_is_no_hindrance(batch):
    lock = json.dumps({"token": "t", "job": "60123", "start": 0, "launch": "60123-0"})
    assert batch(f"echo '{lock}' >lock.json; exit 1").returncode == 75
    assert batch.requeued()


def test_a_config_that_cannot_be_read_ends_the_job_before_any_rank_starts(batch):
    failing = Path(batch.environment["PATH"].split(":")[0]) / "python"
    failing.write_text('#!/usr/bin/env bash\necho "error: unknown key sed" >&2\nexit 2\n')
    done = batch("true")
    assert done.returncode == 2
    assert "error: unknown key sed" in done.stderr
    assert not batch.calls.exists()


def test_a_container_is_put_before_python(batch):
    batch("true", LLM2ER_CONTAINER="nice -n 0")
    assert " nice -n 0 python -m torch.distributed.run " in batch.called("srun")[0]
