"""train.sbatch on a real SLURM of two virtual nodes: interrupted in each way, it finishes by itself.

Needs root and a tool that brings up a cluster (LLM2ER_SHARED/tools/slurm-local); the longer ways only with
LLM2ER_SLURM=all. Where a cluster can be had and does not come up, that is a failure and no skip.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SBATCH = ROOT / "launch" / "slurm" / "train.sbatch"
TOOL = Path(os.environ.get("LLM2ER_SHARED", ROOT.parent / "shared")) / "tools" / "slurm-local"
SMALL = [
    "configs/debug/tiny.yaml",
    "configs/hardware/cpu.yaml",
    "stage=rating",
    "logger=none",
    "rating.fit.epochs=60",
    "rating.fit.patience=60",
    "checkpoint.every_n_steps=20",
]

# What the tool says of a machine that can have no cluster: no right to make one, or nowhere to get SLURM from.
CANNOT = ("needs CAP_SYS_ADMIN", "not installed: ", "apt could not install ")

needs_cluster = pytest.mark.skipif(
    not TOOL.is_file() or os.geteuid() != 0, reason=f"no cluster: needs root and {TOOL} (LLM2ER_SHARED)"
)
long_way = pytest.mark.skipif(os.environ.get("LLM2ER_SLURM") != "all", reason="takes minutes: set LLM2ER_SLURM=all")


class Cluster:
    """Two virtual nodes, and what is asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            **{"SLURM_LOCAL_DIR": str(folder / "slurm"), "SLURM_LOCAL_PREFIX": "vnode", "SLURM_LOCAL_PORT": "17817"},
            **{"SLURM_LOCAL_GPUS": "0"},
        }
        (folder / "site.sh").write_text(
            f"export LLM2ER_PYTHON={sys.executable} LLM2ER_RANKS_PER_NODE=1 OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu\n"
            "export CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 LLM2ER_SHUTDOWN_TIMEOUT=30\n"
        )
        self.environment |= {"LLM2ER_SITE": str(folder / "site.sh"), "LLM2ER_ROOT": str(ROOT)}

    def __call__(self, *command: str, check: bool = True) -> str:
        """Runs a command against the cluster; what it printed."""
        done = subprocess.run(
            [str(TOOL), "run", *command], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, name: str, *options: str, keys: tuple[str, ...] = (), **environment: str) -> tuple[str, Path]:
        """Submits a run on both nodes, with variables of the script: (job id, run folder)."""
        run_dir = self.folder / name
        output = f"--output={self.folder / name}.out"
        command = ["env", *(f"{key}={value}" for key, value in environment.items())]
        command += ["sbatch", "--parsable", "--nodes=2", "--mem=1000", "--cpus-per-task=1", "--time=9", output]
        command += ["--signal=B:USR1@20", *options, str(SBATCH)]
        return self(*command, *SMALL, *keys, f"run_dir={run_dir}"), run_dir

    def state(self, job: str) -> dict[str, str]:
        """What SLURM says of a job."""
        told = self("scontrol", "show", "job", job)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def until(self, what: Callable[[], bool], job: str, seconds: float = 240) -> None:
        """Waits; fails with the job's output."""
        deadline = time.monotonic() + seconds
        while not what():
            assert self.state(job)["JobState"] not in ("FAILED", "TIMEOUT") or what(), self.output(job)[-4000:]
            assert time.monotonic() < deadline, self.state(job)["JobState"] + "\n" + self.output(job)[-4000:]
            time.sleep(0.5)

    def output(self, job: str) -> str:
        """What a job printed."""
        path = Path(self.state(job)["StdOut"])
        return path.read_text() if path.is_file() else ""

    def finished(self, job: str) -> bool:
        """Whether a job has ended for good, and well."""
        state = self.state(job)["JobState"]
        assert state in ("PENDING", "RUNNING", "COMPLETING", "COMPLETED", "REQUEUED"), (
            state + "\n" + self.output(job)[-4000:]
        )
        return state == "COMPLETED"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    lock = (Path(tempfile.gettempdir()) / "llm2er-slurm.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pytest.skip("another run of these tests has its cluster up on this machine")
    folder = Path(tempfile.mkdtemp(prefix="llm2er-slurm-"))
    folder.chmod(0o755)  # munge refuses a key below a folder that others cannot enter, such as pytest's
    made = Cluster(folder)
    try:
        started = subprocess.run(
            [str(TOOL), "start", "2"], env=made.environment, capture_output=True, text=True, timeout=180, check=False
        )
        if started.returncode != 0 and any(words in started.stderr for words in CANNOT):
            pytest.skip(f"no cluster: {started.stderr.strip()[-200:]}")
        assert started.returncode == 0, started.stderr
        yield made
    finally:  # also of a cluster that started by half
        stop = [str(TOOL), "stop", "--purge"]
        subprocess.run(stop, env=made.environment, capture_output=True, timeout=60, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def product(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "rating" / "export" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    """The product of the same run on two ranks that nothing interrupts."""
    return run_undisturbed(cluster, "undisturbed")


def run_undisturbed(cluster: Cluster, name: str, *keys: str) -> str:
    run_dir = cluster.folder / name
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "launch/train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *SMALL, *keys, f"run_dir={run_dir}"],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 240, "check": False},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return product(run_dir)


def ranks_on(node: str, run_dir: Path) -> list[int]:
    """Process ids of the ranks of a run on a node."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        of_run = b"launch/train.py" in words and f"run_dir={run_dir}".encode() in words
        if of_run and b"torch.distributed.run" not in words and f"SLURMD_NODENAME={node}".encode() in environment:
            found.append(int(process.name))
    return found


def newest(run_dir: Path) -> int:
    """The last step that a run has saved, or 0."""
    steps = [int(path.name[5:]) for path in (run_dir / "rating" / "checkpoints").glob("step-*[0-9]")]
    return max(steps, default=0)


def trains(run_dir: Path) -> bool:
    """Whether a run has saved a step."""
    return newest(run_dir) > 0


@needs_cluster
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_job_that_is_signalled_early_requeues_itself_and_finishes(cluster: Cluster, undisturbed: str) -> None:
    # What --signal=B:USR1@600 does before the time limit, at the moment that the test chooses.
    job, run_dir = cluster.submit("signalled")
    cluster.until(lambda: trains(run_dir), job)
    cluster("scancel", "--batch", "--signal=USR1", job)
    cluster.until(lambda: cluster.finished(job), job)
    assert cluster.state(job)["Restarts"] == "1"
    assert "stopped by signal SIGUSR1" in cluster.output(job)
    assert ": goes on from " in cluster.output(job)
    assert product(run_dir) == undisturbed


@needs_cluster
@long_way
@pytest.mark.timeout(600)
def test_a_job_that_is_requeued_from_outside_finishes(cluster: Cluster, undisturbed: str) -> None:
    job, run_dir = cluster.submit("requeued")
    cluster.until(lambda: trains(run_dir), job)
    cluster("scontrol", "requeue", job)
    cluster.until(lambda: cluster.finished(job), job)
    assert product(run_dir) == undisturbed


@needs_cluster
@long_way
@pytest.mark.timeout(600)
def test_a_job_whose_rank_is_killed_on_one_node_finishes(cluster: Cluster, undisturbed: str) -> None:
    job, run_dir = cluster.submit("killed")
    cluster.until(lambda: trains(run_dir), job)
    for pid in ranks_on("vnode2", run_dir):
        os.kill(pid, signal.SIGKILL)
    cluster.until(lambda: cluster.finished(job), job)
    assert product(run_dir) == undisturbed


@needs_cluster
@long_way
@pytest.mark.timeout(900)
def test_a_job_that_reaches_its_time_limit_finishes(cluster: Cluster) -> None:
    long = ("rating.fit.epochs=600", "rating.fit.patience=600")
    job, run_dir = cluster.submit("limited", "--time=2", "--signal=B:USR1@50", keys=long)
    cluster.until(lambda: cluster.finished(job), job, 600)
    assert int(cluster.state(job)["Restarts"]) >= 1
    assert product(run_dir) == run_undisturbed(cluster, "undisturbed-long", *long)


@needs_cluster
@long_way
@pytest.mark.timeout(600)
def test_a_job_that_is_preempted_finishes(cluster: Cluster, undisturbed: str) -> None:
    job, run_dir = cluster.submit("preempted")
    cluster.until(lambda: trains(run_dir), job)
    cluster("srun", "-p", "urgent", "--nodes=2", "--mem=100", "sleep", "2")
    cluster.until(lambda: cluster.finished(job), job)
    assert int(cluster.state(job)["Restarts"]) >= 1
    assert product(run_dir) == undisturbed


def end_early(cluster: Cluster, job: str, run_dir: Path, beyond: int) -> int:
    """Lets a job train beyond a step, then asks it to end as before a time limit; the step that it saved."""
    cluster.until(lambda: newest(run_dir) > beyond, job)
    # Of a job of an array scancel signals the batch shell, and ends with an exit code as if it had not.
    cluster("scancel", "--batch", "--signal=USR1", job, check=False)
    cluster.until(lambda: cluster.state(job)["JobState"] == "FAILED", job)  # with 75: it wants to go on
    assert cluster.state(job)["ExitCode"] == "75:0"
    return newest(run_dir)


@needs_cluster
@long_way
@pytest.mark.timeout(600)
def test_a_chain_of_array_jobs_goes_on_one_from_the_other(cluster: Cluster, undisturbed: str) -> None:
    array, run_dir = cluster.submit("array", "--array=1-4%1", LLM2ER_MAX_REQUEUES="0")
    saved = 0
    for task in (1, 2):
        saved = end_early(cluster, f"{array}_{task}", run_dir, saved)
    cluster.until(lambda: cluster.finished(f"{array}_3"), f"{array}_3")
    assert product(run_dir) == undisturbed
    cluster.until(lambda: cluster.finished(f"{array}_4"), f"{array}_4")  # finds everything finished
    assert product(run_dir) == undisturbed
    told = cluster.output(f"{array}_4")
    assert told.count(": goes on from ") == 2
    assert told.count("rating: already finished in ") == 1


@needs_cluster
@long_way
@pytest.mark.timeout(600)
def test_a_job_that_depends_on_another_goes_on_from_it_when_it_has_ended(cluster: Cluster, undisturbed: str) -> None:
    first, run_dir = cluster.submit("chain", LLM2ER_MAX_REQUEUES="0")
    second, _ = cluster.submit("chain", f"--dependency=afterany:{first}", LLM2ER_MAX_REQUEUES="0")
    cluster.until(lambda: trains(run_dir), first)
    assert cluster.state(second)["JobState"] == "PENDING"
    end_early(cluster, first, run_dir, 0)
    cluster.until(lambda: cluster.finished(second), second)
    assert cluster.output(second).count(": goes on from ") == 1
    assert product(run_dir) == undisturbed


@needs_cluster
@pytest.mark.long
def test_a_mistake_in_the_config_ends_the_job_with_its_sentence(cluster: Cluster) -> None:
    job, run_dir = cluster.submit("mistake", keys=("sed=3",))
    cluster.until(lambda: cluster.state(job)["JobState"] == "FAILED", job)
    assert "unknown key `sed`; did you mean `seed`?" in cluster.output(job)
    assert not run_dir.exists()


def directives() -> list[str]:
    return [line for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH")]


def test_no_directive_holds_a_variable() -> None:
    assert len(directives()) >= 9
    assert not [line for line in directives() if "$" in line]


def test_the_script_asks_for_a_requeue_and_an_early_signal() -> None:
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@600", "#SBATCH --ntasks-per-node=1"} <= set(directives())


@pytest.mark.parametrize("script", ["train.sbatch", "site.example.sh"])
def test_the_scripts_are_clean(script: str) -> None:
    path = SBATCH.with_name(script)
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    assert checker, "shellcheck is part of the dev extra"
    for command in (["bash", "-n", str(path)], [checker, str(path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
