"""Starts, disturbs and starts again small runs on real DeepSpeed; prints what was seen as JSON.

    interruptions.py WORK [SCENARIO ...]

Ranks are forked from this process, which has imported everything (see benchmarks/kills.py): a start costs seconds less.
"""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import kills  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
from damage import WAYS, rejected  # noqa: E402
from kills import SMALL, STAGES, last_step, losses  # noqa: E402
from running import wandb_records  # noqa: E402

from callbacks.checkpoint_folder import candidates  # noqa: E402
from launch.convert import convert  # noqa: E402
from launch.run_lock import RunLock  # noqa: E402
from lightning_modules.collectives import world  # noqa: E402


class Disturb(pl.Callback):
    """Does something on chosen ranks when a step begins, or at another moment of a step, named as Lightning does."""

    def __init__(
        self,
        step: int,
        ranks: tuple[int, ...],
        action: Callable[[pl.Trainer], None],
        moment: str = "on_train_batch_start",
    ) -> None:
        self.step, self.ranks, self.action = step, ranks, action
        setattr(self, moment, self._act)

    def _act(self, trainer: pl.Trainer, *arguments: object) -> None:
        if trainer.global_step == self.step and world()[0] in self.ranks:
            self.action(trainer)


def run(
    work: Path,
    name: str,
    stage: str,
    *arguments: str,
    ranks: int = 2,
    also: list | None = None,
    move: Callable[[int], None] | None = None,
    **environment: str,
) -> dict:
    """One start of a stage in the run folder `work/NAME`: exit codes, what was printed, the log of losses."""
    folder, log = work / name, work / f"{name}-{stage}-{time.monotonic_ns()}.log"
    before = dict(os.environ)
    os.environ |= environment
    pids = kills.start(stage, [*SMALL, f"run_dir={folder}", *arguments], log, ranks, also, move)
    os.environ.clear()
    os.environ |= before
    codes: list[int] = []
    limit = time.monotonic() + 120
    ended: dict[int, int] = {}
    while running := kills.alive(pids, ended):
        # As torchrun does: when one rank has failed the others are ended, after a moment in which they end themselves.
        if any(ended.values()):
            limit = min(limit, time.monotonic() + 8)
        if time.monotonic() > limit:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    codes = [ended[pid] for pid in pids]
    printed = [log.with_suffix(f".rank{rank}").read_text() for rank in range(ranks)]
    return {"codes": codes, "printed": printed, "log": log, "last_step": last_step(log), "folder": folder}


def checkpoints(work: Path, name: str, stage: str) -> list[str]:
    """Names of the checkpoints of a stage, oldest first."""
    return [path.name for path in candidates(work / name / stage / "checkpoints")][::-1]


def tail_equals(whole: Path, part: Path) -> dict:
    """Whether the losses of `part` are those of `whole` at the same batches, and how many there are."""
    expected, found = losses(whole)[0], losses(part)[0]
    same = all(expected[key] == value for key, value in found.items())
    return {"same": same, "batches": len(found), "to_the_end": max(found) == max(expected) if found else False}


def exact(work: Path, zero: int = 3, stages: tuple[str, ...] = STAGES) -> dict:
    """Every stage goes on from a checkpoint within its course: losses and products against those of the whole run."""
    found = {}
    for stage in stages:
        # Worker processes fetch ahead: where the loader goes on is then settled before the first step.
        settings = (f"zero.stage={zero}", f"data.workers={2 if stage == 'rating' else 0}")
        whole = run(work, "whole", stage, *settings, "checkpoint.every_n_steps=4", "checkpoint.keep=99")
        if any(whole["codes"]):
            return {stage: whole["printed"]}
        names = [name for name in checkpoints(work, "whole", stage) if name != "step-000000"]
        chosen = names[len(names) // 2]
        export = work / "whole" / stage / "export"
        before = {path.name: path.read_bytes() for path in export.rglob("*") if path.is_file()}
        (export / "stage.json").unlink()
        path = work / "whole" / stage / "checkpoints" / chosen
        part = run(work, "whole", stage, *settings, f"resume={path}")
        after = {path.name: path.read_bytes() for path in export.rglob("*") if path.is_file()}
        equal = tail_equals(whole["log"], part["log"])
        found[stage] = equal | {"codes": part["codes"], "from": chosen, "product": before == after}
        if any(part["codes"]):
            found[stage]["printed"] = part["printed"]
    return found


def damage(work: Path) -> dict:
    """Every file of a real checkpoint damaged in every way: how often it was found out before anything was loaded."""
    seen = run(work, "hurt", "rating", "zero.stage=3", "checkpoint.every_n_steps=5", "checkpoint.keep=9")
    older, path = (work / "hurt" / "rating" / "checkpoints" / f"step-{step:06d}" for step in (10, 15))
    kept, found, missed = work / "kept", 0, []
    path.rename(kept)
    names = [file.relative_to(kept).as_posix() for file in sorted(kept.rglob("*")) if file.is_file()]
    for name in names:
        for how in WAYS:
            shutil.copytree(kept, path)
            how(path / name, older / name)
            reason = rejected(path)
            found += bool(reason)
            missed += [] if reason else [f"{how.__name__} {name}"]
            shutil.rmtree(path)
    shutil.copytree(kept, path)
    return {"codes": seen["codes"], "files": names, "found": found, "missed": missed, "whole": rejected(path)}


def send(number: int, times: int = 1) -> Callable[[pl.Trainer], None]:
    """Sends this rank a signal, as schedulers do: perhaps more than once."""

    def action(trainer: pl.Trainer) -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return action


def touch(path: Path) -> Callable[[pl.Trainer], None]:
    """Makes a file."""
    return lambda trainer: path.touch()


def asked_to_end(work: Path) -> dict:
    """A run ended five ways and started six times, against one that was left alone."""
    whole, folder = run(work, "whole", "rating", "checkpoint.first=true"), work / "asked"
    starts = {
        "usr1_twice_on_rank_1": [Disturb(7, (1,), send(signal.SIGUSR1, 2))],
        "term_on_all_in_the_last_batch_of_an_epoch": [Disturb(17, (0, 1), send(signal.SIGTERM))],
        "save_then_stop": [Disturb(20, (0,), touch(folder / "SAVE")), Disturb(22, (0,), touch(folder / "STOP"))],
        "usr1_in_a_validation_and_term_in_the_save": [
            Disturb(24, (1,), send(signal.SIGUSR1), "on_validation_batch_start"),
            Disturb(25, (0,), send(signal.SIGTERM), "on_save_checkpoint"),
        ],
        "usr2_in_the_very_last_batch": [Disturb(29, (1,), send(signal.SIGUSR2))],
        "left_alone": [],
    }
    found, joined = {}, {}
    for name, also in starts.items():
        seen = run(work, "asked", "rating", "checkpoint.keep=9", also=also)
        joined |= losses(seen["log"])[0]
        found[name] = {
            "codes": seen["codes"],
            "steps": seen["last_step"],
            "checkpoints": checkpoints(work, "asked", "rating"),
            "requeue": (folder / "REQUEUE").exists(),
            "printed": seen["printed"][0],
            "left": [path.name for path in folder.iterdir() if path.name in ("SAVE", "STOP", "lock.json")],
        }
    same = joined == losses(whole["log"])[0] and kills.products(work / "whole") == kills.products(folder)
    return found | {"same": same, "whole": whole["codes"]}


def hang(work: Path) -> dict:
    """Rank 1 sleeps for ever in its fourth step."""
    began = time.monotonic()
    asleep = Disturb(3, (1,), lambda trainer: time.sleep(1000))
    seen = run(work, "hang", "rating", "hardware.hang_timeout=3", also=[asleep])
    told = [(work / "hang" / "rating" / f"hang-rank-{rank:05d}.txt").read_text() for rank in (0, 1)]
    return {"codes": seen["codes"], "told": told, "seconds": time.monotonic() - began}


def broken_gradient(work: Path) -> dict:
    """On rank 1 a gradient of the fourth step is not finite, though its loss is."""

    def spoil(trainer: pl.Trainer) -> None:
        for parameter in trainer.lightning_module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * float("nan"))

    found = {}
    for zero in (2, 3):
        arguments = (f"zero.stage={zero}", "checkpoint.every_n_steps=1")
        seen = run(work, f"nan{zero}", "rating", *arguments, also=[Disturb(3, (1,), spoil)])
        names = checkpoints(work, f"nan{zero}", "rating")
        found[zero] = {"codes": seen["codes"], "printed": seen["printed"], "checkpoints": names}
    return found


def spike(work: Path) -> dict:
    """From the fifteenth step on the losses of rank 1 are out of all proportion."""

    def enlarge(trainer: pl.Trainer) -> None:
        module = trainer.lightning_module
        inner = module.training_step
        module.training_step = lambda *batch: 1000 * inner(*batch)

    arguments = ("loss_spike=20", "checkpoint.every_n_steps=7")
    seen = run(work, "spike", "rating", *arguments, also=[Disturb(14, (1,), enlarge)])
    return {
        "codes": seen["codes"],
        "printed": seen["printed"],
        "steps": seen["last_step"],
        "checkpoints": checkpoints(work, "spike", "rating"),
    }


def wandb_goes_on(work: Path) -> dict:
    """A run with W&B that was stopped goes on: ids and steps of what both starts wrote."""
    folder = work / "run"
    stop = [Disturb(12, (0,), touch(folder / "STOP"))]
    keys = ("logger=wandb", "rating.fit.epochs=3")
    starts = [run(work, "run", "rating", *keys, ranks=1, also=also, WANDB_MODE="offline") for also in (stop, [])]
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    found = {"codes": [start["codes"] for start in starts], "ids": [], "steps": []}
    for file in files:
        records = list(wandb_records(file))
        found["ids"] += [record.run.run_id for record in records if record.WhichOneof("record_type") == "run"]
        rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
        rows = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        found["steps"].append([row["trainer/global_step"] for row in rows if "rating/train/mse" in row])
    with (folder / "rating" / "metrics.csv").open(newline="") as table:
        found["table"] = [int(row["step"]) for row in csv.DictReader(table) if row["rating/train/mse"]]
    return found


def fenced(work: Path) -> dict:
    """Another copy takes the run folder over in the fifth step; and a second job finds it in use."""
    folder = work / "fenced"

    def replace(trainer: pl.Trainer) -> None:
        lock = json.loads((folder / "lock.json").read_text())
        lock |= {"token": "another", "host": "node7", "job": "4711"}
        (folder / "lock.json").write_text(json.dumps(lock))

    arguments = ("checkpoint.every_n_steps=2", "checkpoint.keep=9")
    stale = run(work, "fenced", "rating", *arguments, also=[Disturb(5, (0,), replace)])
    other = RunLock(folder)
    other.path.unlink()
    other.acquire(print)  # this process lives, and is not the one that starts below
    second = run(work, "fenced", "rating")
    other.release()
    return {
        "stale": {"codes": stale["codes"], "printed": stale["printed"]},
        "checkpoints": checkpoints(work, "fenced", "rating"),
        "second": {"codes": second["codes"], "printed": second["printed"], "pid": os.getpid()},
    }


def fails_again(work: Path) -> list:
    """Rank 1 fails at its eighth step, whenever it is started; torchrun starts it again."""

    def fail(trainer: pl.Trainer) -> None:
        raise ValueError("a bug")

    return [
        run(work, "bug", "rating", also=[Disturb(7, (1,), fail)], TORCHELASTIC_RESTART_COUNT=str(count))["printed"]
        for count in range(3)
    ]


def other_ranks(work: Path, zero: int = 3) -> dict:
    """A checkpoint of two ranks goes on with one and with four, after conversion."""
    fixed = ("rating.model.dropout=0", f"zero.stage={zero}")
    whole = run(work, "two", "rating", *fixed, "checkpoint.every_n_steps=4", "checkpoint.keep=99")
    (work / "two" / "rating" / "export" / "stage.json").unlink()
    path, found = work / "two" / "rating" / "checkpoints" / "step-000016", {}
    expected = losses(whole["log"])[0]
    found["refused"] = run(work, "two", "rating", *fixed, f"resume={path}", ranks=1)["printed"][0]
    for ranks in (1, 4):
        out = Path(f"{path}-{ranks}-ranks")
        told = convert(path, ranks, out)
        seen = run(work, "two", "rating", *fixed, f"resume={out}", "checkpoint.keep=99", ranks=ranks)
        after = losses(seen["log"])[0]
        gaps = [abs(float.fromhex(v) / ranks - float.fromhex(expected[k]) / 2) for k, v in after.items()]
        found[ranks] = {
            "told": told,
            "codes": seen["codes"],
            "printed": seen["printed"][0],
            "batches": len(after),
            "largest_gap": max(gaps, default=None),
        }
        (work / "two" / "rating" / "export" / "stage.json").unlink(missing_ok=True)
    return found


def disk_full(work: Path) -> dict:
    """From the eighth step on the disk is full: a small tmpfs, or, where none can be mounted, files may not grow."""
    found = {}
    for policy in ("stop", "go_on"):
        folder = work / policy
        folder.mkdir()
        mount = [shutil.which("mount") or "/bin/false", "-t", "tmpfs", "-o", "size=8m", "llm2er", str(folder)]
        mounted = subprocess.run(mount, check=False).returncode == 0
        try:
            also = full_tmpfs(folder) if mounted else files_that_do_not_grow()
            arguments = ("checkpoint.every_n_steps=4", "checkpoint.keep=9", f"checkpoint.on_failure={policy}")
            seen = run(work, policy, "rating", *arguments, also=also)
            names = checkpoints(work, policy, "rating")
        finally:
            if mounted:
                subprocess.run([shutil.which("umount"), "--lazy", str(folder)], check=True)
        found[policy] = {"codes": seen["codes"], "printed": seen["printed"][0], "checkpoints": names}
    return found


def full_tmpfs(folder: Path) -> list[Disturb]:
    """Fills the file system of a folder up to a part of a checkpoint, and frees it."""

    def fill(trainer: pl.Trainer) -> None:
        (folder / "filler").write_bytes(bytes(max(shutil.disk_usage(folder).free - 50_000, 0)))

    return [Disturb(7, (0,), fill), Disturb(10, (0,), lambda trainer: (folder / "filler").unlink())]


def files_that_do_not_grow() -> list[Disturb]:
    """Limits the size of files on one rank, and lifts the limit."""

    def limit(size: int) -> Callable[[pl.Trainer], None]:
        return lambda trainer: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return [Disturb(7, (1,), limit(20_000)), Disturb(10, (1,), limit(resource.RLIM_INFINITY))]


SCENARIOS = [
    exact,
    asked_to_end,
    hang,
    broken_gradient,
    spike,
    wandb_goes_on,
    fenced,
    fails_again,
    other_ranks,
    disk_full,
    damage,
]


def main() -> None:
    """All scenarios, or those named; one that breaks does not hide the others."""
    work, names = Path(sys.argv[1]), sys.argv[2:]
    found = {}
    for scenario in SCENARIOS:
        name = scenario.__name__
        if names and name not in names:
            continue
        (work / name).mkdir(parents=True)
        began = time.monotonic()
        try:
            found[name] = scenario(work / name)
        except Exception:
            found[name] = {"broken": traceback.format_exc()}
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
