"""Kills a small run of all five stages again and again, and looks whether anything is lost.

    python benchmarks/kills.py kills=200 zero=2,3 seed=1

SIGKILL to one rank or to all, at random moments and inside saves; the rest is ended as torchrun ends it, and the same
run is started again. Prints one JSON line: kills by kind and stage, the most steps lost, starts from scratch after a
checkpoint existed, and whether the losses put together equal those of an uninterrupted run bit for bit, and the final
products byte for byte. Exit status 1 if anything is not as it must be.

Ranks are forked from a process that has imported everything, as importing takes longer than the run; but for that and
for torchrun's part they are the ranks of `torchrun launch/train.py`.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}

# DeepSpeed imports it with the first optimizer, and with it all of torch.compile: most of the time of a small start.
import deepspeed.runtime.zero.muon.original_muon  # noqa: E402,F401
import pytorch_lightning as pl  # noqa: E402
import torch.distributed as dist  # noqa: E402

from callbacks.checkpoint_folder import RejectedError, candidates, inspect  # noqa: E402
from callbacks.requests import REQUEUE_CODE  # noqa: E402
from launch import run as launch_run  # noqa: E402
from launch import train  # noqa: E402
from launch.config import command  # noqa: E402
from launch.result import result  # noqa: E402,F401 - imported here so that no rank has to
from launch.schema import TrainConfig  # noqa: E402
from lightning_modules.collectives import sum_over_ranks, world  # noqa: E402

RANKS, SAVE_EVERY = 2, 3
STAGES = ("rating", "explanation", "ccr", "hqar", "ppo")
SMALL = [
    "hardware.accelerator=cpu",
    "logger=none",
    "data.embedded_users=40",
    "data.embedded_items=20",
    "graph.folds=2",
    "prompt.max_new_tokens=8",
    "rating.model.width=16",
    "rating.model.heads=2",
    "rating.model.mlp_width=16",
    "rating.model.dropout=0.2",
    "rating.fit.batch_size=64",
    "rating.fit.epochs=5",
    "explanation.new_model.width=32",
    "explanation.new_model.layers=2",
    "explanation.new_model.dropout=0.1",
    "explanation.fit.batch_size=64",
    "explanation.fit.accumulate=2",
    "explanation.fit.epochs=4",
    "ccr.new_model.width=32",
    "ccr.fit.batch_size=64",
    "ccr.fit.epochs=4",
    "hqar.fit.batch_size=64",
    "hqar.fit.epochs=5",
    "hqar.high_quality.top_share=1",
    "hqar.high_quality.perplexity_share=1",
    "ppo.iterations=6",
    "ppo.rollout_batch_size=16",
    "ppo.mini_batch_size=8",
    "ppo.epochs=2",
    "ppo.eval_every=2",
    "ppo.eval_prompts=8",
    "ppo.guards.max_distinct_1_drop=1",
    "ppo.guards.min_end_rate=0",
    "ppo.discriminator_lr=0.001",
    "checkpoint.keep=1",
    "checkpoint.first=false",
    "checkpoint.every_minutes=0",
]


class LossLog(pl.Callback):
    """Appends the exact loss of every micro-batch, summed over ranks, to a file that survives the process."""

    def __init__(self, path: Path) -> None:
        self.path, self.micro = path, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # noqa: ANN001
        value = float(sum_over_ranks(outputs["loss"].double()))
        if world()[0] == 0:
            with self.path.open("a") as file:
                file.write(f"{trainer.current_epoch} {index} {trainer.global_step} {value.hex()}\n")


def rank_main(
    rank: int,
    ranks: int,
    port: int,
    launch: str,
    stage: str,
    arguments: list[str],
    log: Path,
    also: list,
    move: Callable[[int], None] | None,
) -> None:
    """What one rank does from fork to end; `also`: callbacks that disturb it; `move(rank)` takes it elsewhere first."""
    os.setpgid(0, 0)
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"},
        "TORCHELASTIC_RUN_ID": launch,
    }
    if move:
        move(rank)
    output = os.open(log.with_suffix(f".rank{rank}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    make = launch_run.make_trainer

    def watched(zero, hardware, folder, logger, callbacks, **options):  # noqa: ANN001, ANN003, ANN202
        logged = [*callbacks, *also, LossLog(log)] if callbacks else callbacks  # generation has none
        return make(zero, hardware, folder, logger, logged, **options)

    launch_run.make_trainer = watched
    sys.argv = ["launch/train.py", *arguments, f"stage={stage}"]
    command(train.main, TrainConfig, train.__doc__)


def start(
    stage: str,
    arguments: list[str],
    log: Path,
    ranks: int = RANKS,
    also: list | None = None,
    move: Callable[[int], None] | None = None,
) -> list[int]:
    """Forks the ranks of one attempt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch, pids = uuid.uuid4().hex, []
    for rank in range(ranks):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            rank_main(rank, ranks, port, launch, stage, arguments, log, also or [], move)
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            if code in (0, REQUEUE_CODE) and dist.is_initialized():
                code = 128 + signal.SIGABRT  # gloo may end such a process so (see `part`); os._exit never does
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pids


def alive(pids: list[int], ended: dict[int, int]) -> list[int]:
    """Those that run; the exit codes of the others go to `ended`."""
    for pid in pids:
        if pid not in ended:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[pid] = os.waitstatus_to_exitcode(status)
    return [pid for pid in pids if pid not in ended]


@dataclass
class Plan:
    """When a start is killed."""

    save: int  # in its so-many-th save; 0: at any time after its first step
    delay: float  # seconds after that save's staging folder is first seen; or after the start
    all_ranks: bool

    def __post_init__(self) -> None:
        self._staged: set[str] = set()
        self._due = 0.0 if self.save else time.monotonic() + self.delay

    def begin(self, checkpoints: Path) -> None:
        """Before the start: saves that an earlier one left cut off are none of this one's."""
        self._left = {path.name for path in checkpoints.glob("*.partial")}

    def strikes(self, checkpoints: Path, log: Path) -> bool:
        """Whether the moment has come."""
        if self.save and not self._due:
            self._staged |= {path.name for path in checkpoints.glob("*.partial") if "removed" not in path.name}
            if len(self._staged - self._left) >= self.save:
                self._due = time.monotonic() + self.delay
        return bool(self._due) and time.monotonic() >= self._due and log.exists() and log.stat().st_size > 0

    def __str__(self) -> str:
        return f"{'in a save' if self.save else 'at any time'}, {'all ranks' if self.all_ranks else 'one rank'}"


def attempt(stage: str, run_dir: Path, arguments: list[str], log: Path, plan: Plan | None) -> str:
    """One start; returns finished, killed, or failed (which never should be)."""
    if plan:
        plan.begin(run_dir / stage / "checkpoints")
    pids, ended = start(stage, arguments, log), {}
    while running := alive(pids, ended):
        if len(running) < RANKS and any(ended.values()):
            break
        if plan and plan.strikes(run_dir / stage / "checkpoints", log):
            for pid in running if plan.all_ranks else [random.choice(running)]:
                os.kill(pid, signal.SIGKILL)
            plan = None
        time.sleep(0.002)
    killed = any(code == -signal.SIGKILL for code in ended.values())
    for pid in alive(pids, ended):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return "killed" if killed else "failed" if any(ended.values()) else "finished"


def newest(run_dir: Path, stage: str) -> int:
    """Step of the newest checkpoint that looks whole, or -1."""
    for path in candidates(run_dir / stage / "checkpoints"):
        try:
            return inspect(path).step
        except RejectedError:
            continue
    return -1


def losses(log: Path) -> tuple[dict[tuple[int, int], str], list[str]]:
    """(loss by (epoch, batch), what was computed twice and differed). A torn last line is left out."""
    found: dict[tuple[int, int], str] = {}
    differing = []
    for line in log.read_text().split("\n")[:-1] if log.exists() else []:
        epoch, batch, _, value = line.split()
        key = (int(epoch), int(batch))
        if found.setdefault(key, value) != value:
            differing.append(f"{key}: {found[key]} then {value}")
    return found, differing


def last_step(log: Path) -> int:
    """The last optimizer step that was logged."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return int(lines[-1].split()[2]) if lines else 0


def products(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every file that the stages hand on."""
    files = sorted(path for path in run_dir.glob("*/export/**/*") if path.is_file())
    return {str(p.relative_to(run_dir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Campaign:
    """An uninterrupted run, and one that is killed again and again."""

    def __init__(self, zero: int, kills: int, work: Path) -> None:
        self.zero, self.kills, self.work = zero, kills, work
        self.whole, self.hurt = work / f"whole-{zero}", work / f"hurt-{zero}"
        self.seen: Counter = Counter()
        self.faults: list[str] = []
        self.lost = 0

    def run(self) -> dict:
        """All stages; what was seen."""
        for number, stage in enumerate(STAGES, 1):
            began, log = time.monotonic(), self.log("whole", stage)
            if attempt(stage, self.whole, self.arguments(self.whole, 0), log, None) != "finished":
                self.faults.append(f"uninterrupted {stage}: {told(log)}")
            if not self.faults:
                self.kill_stage(stage, self.kills * number // len(STAGES), time.monotonic() - began)
            print(f"ZeRO-{self.zero} {stage}: {dict(self.seen)} {self.faults}", file=sys.stderr)
        same = products(self.whole) == products(self.hurt)
        if not same:
            self.faults.append("the products differ from those of the uninterrupted run")
        if self.lost > SAVE_EVERY + 4:  # PPO saves between iterations, which have 4 steps here
            self.faults.append(f"{self.lost} steps were lost")
        row = {"zero": self.zero, **self.seen, "most_steps_lost": self.lost, "products_equal": same}
        return row | {"faults": self.faults}

    def arguments(self, run_dir: Path, save_every: int) -> list[str]:
        """The command of a run."""
        return [*SMALL, f"zero.stage={self.zero}", f"run_dir={run_dir}", f"checkpoint.every_n_steps={save_every}"]

    def log(self, kind: str, stage: str, lap: int = 0) -> Path:
        """Where the losses of a run of a stage are."""
        return self.work / f"{kind}-{self.zero}-{stage}-{lap}.log"

    def kill_stage(self, stage: str, target: int, length: float) -> None:
        """Runs a stage to its end, killed on its way, and anew until all runs together were killed `target` times."""
        before, lap = self.work / f"before-{self.zero}-{stage}", 0
        if self.hurt.exists():
            shutil.copytree(self.hurt, before)
        while not self.faults:
            log = self.log("hurt", stage, lap)
            while not self.faults and self.one_start(stage, log, target, length) != "finished":
                pass
            found, differing = losses(log)
            expected, _ = losses(self.log("whole", stage))
            if differing or found != expected:
                self.faults.append(f"{stage}: losses differ: {differing[:3]}, {len(found)} of {len(expected)} batches")
            printed = log.with_suffix(".rank0").read_text()
            self.seen += Counter(rejected=printed.count(": rejected "), resumed=printed.count(": goes on from "))
            if self.seen["killed"] >= target:
                return
            lap += 1
            shutil.rmtree(self.hurt)
            if before.exists():
                shutil.copytree(before, self.hurt)

    def one_start(self, stage: str, log: Path, target: int, length: float) -> str:
        """Starts the run once, with a kill if there are to be more."""
        plan = None
        if self.seen["killed"] < target:
            save = random.choice([0, 0, 0, 1, 2])
            delay = random.uniform(0, 0.05) if save else random.uniform(0.2, 1.0) * length
            plan = Plan(save, delay, random.random() < 0.5)
        had = newest(self.hurt, stage)
        outcome = attempt(stage, self.hurt, self.arguments(self.hurt, SAVE_EVERY), log, plan)
        self.seen[outcome] += 1
        if outcome == "killed" and plan:
            self.seen[f"{stage}, {plan}"] += 1
            has = newest(self.hurt, stage)
            self.lost = max(self.lost, last_step(log) - max(has, 0))
            if has < had:
                self.faults.append(f"{stage}: a checkpoint of step {had} was there, then only one of {has}")
        if outcome == "failed":
            self.faults.append(f"{stage}: {told(log)}")
        return outcome


def told(log: Path) -> str:
    """The end of what the ranks printed."""
    return "\n".join(log.with_suffix(f".rank{rank}").read_text()[-1500:] for rank in range(RANKS))


def main() -> int:
    """Parses key=value, prints one JSON line."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    kills, seed = int(given.get("kills", 200)), int(given.get("seed", 1))
    zeros = [int(word) for word in given.get("zero", "2,3").split(",")]
    random.seed(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.get("tmp")) as work:
        found = [Campaign(zero, kills // len(zeros), Path(work)).run() for zero in zeros]
    seconds = round(time.monotonic() - began)
    print(json.dumps({"kills": sum(row.get("killed", 0) for row in found), "seconds": seconds, "campaigns": found}))
    return int(any(row["faults"] for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
