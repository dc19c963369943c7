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

import pytorch_lightning as pl
from damage import WAYS, flip, rejected
from disturbing import Disturb, checkpoints, kills, run, send, tail_equals, times, touch
from running import wandb_records

import callbacks.checkpoints
from callbacks.checkpoint_folder import candidates, read_manifest
from launch.convert import convert
from launch.run_lock import RunLock
from lightning_modules.collectives import world

STAGES, losses = kills.STAGES, kills.losses


class InRollout(pl.Callback):
    """Notes the records of each rollout, and does something on one rank between sampling and scoring one of them."""

    def __init__(self, path: Path, iteration: int = -1, action: Callable[[pl.Trainer], None] | None = None) -> None:
        self.path, self.iteration, self.action = path, iteration, action

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        inner = module.score

        def score(rollout):  # noqa: ANN001, ANN202
            if world()[0] == 0:
                with self.path.open("a") as file:
                    file.write(json.dumps([module.current_epoch, rollout.record_B.tolist()]) + "\n")
            elif module.current_epoch == self.iteration and self.action:
                self.action(trainer)
            return inner(rollout)

        module.score = score


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


def ppo_alone(work: Path) -> tuple[str, ...]:
    """Keys with which PPO is trained alone, on the other stages as `exact` has left them (or on new ones)."""
    base = work.parent / "exact" / "whole"
    base.parent.mkdir(exist_ok=True)
    for stage in STAGES[:4]:
        if not (base / stage / "export" / "stage.json").is_file():
            run(base.parent, "whole", stage)
    return (f"data.path={base / 'data'}", *(f"{stage}.init_from={base / stage}" for stage in STAGES[:4]))


def in_a_rollout(work: Path) -> dict:
    """PPO is killed in a rollout, then asked to end in one, then left alone; against a run that nothing disturbed."""
    keys, rows = (*ppo_alone(work), "checkpoint.every_n_steps=4"), work / "rollouts.jsonl"
    whole = run(work, "whole", "ppo", *keys, also=[InRollout(work / "whole.jsonl")])
    starts = {
        "killed": InRollout(rows, 2, send(signal.SIGKILL)),
        "asked_to_end": InRollout(rows, 3, send(signal.SIGUSR1)),
        "left_alone": InRollout(rows),
    }
    found, joined = {}, {}
    for name, callback in starts.items():
        seen = run(work, "hurt", "ppo", *keys, also=[callback])
        joined |= losses(seen["log"])[0]
        found[name] = {"codes": seen["codes"], "printed": seen["printed"][0]}
    same = joined == losses(whole["log"])[0] and kills.products(work / "whole") == kills.products(work / "hurt")
    expected, rollouts = ([json.loads(line) for line in path.open()] for path in (work / "whole.jsonl", rows))
    return found | {"whole": whole["codes"], "same": same, "expected": expected, "rollouts": rollouts}


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


def no_network(work: Path) -> dict:
    """Ranks that have met are to compute over a network that is not there."""
    seen = run(work, "none", "rating", GLOO_SOCKET_IFNAME="ib77")
    return {"codes": seen["codes"], "printed": seen["printed"]}


def broken_gradient(work: Path) -> dict:
    """On rank 1 a gradient of the fourth step is not finite, though its loss is; or the loss itself is not."""

    def spoil(trainer: pl.Trainer) -> None:
        for parameter in trainer.lightning_module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * float("nan"))

    found = {}
    for name, zero, action in (("2", 2, spoil), ("3", 3, spoil), ("loss", 2, times(float("nan")))):
        arguments = (f"zero.stage={zero}", "checkpoint.every_n_steps=1")
        seen = run(work, f"nan-{name}", "rating", *arguments, also=[Disturb(3, (1,), action)])
        names = checkpoints(work, f"nan-{name}", "rating")
        found[name] = {"codes": seen["codes"], "printed": seen["printed"], "checkpoints": names}
    return found


def spike(work: Path) -> dict:
    """From the fifteenth step on the losses of rank 1 are out of all proportion."""
    found = {}
    for stage, keys in (("rating", ()), ("ppo", ppo_alone(work))):
        arguments = (*keys, "loss_spike=20", "checkpoint.every_n_steps=7")
        seen = run(work, "spike", stage, *arguments, also=[Disturb(14, (1,), times(1000))])
        found[stage] = {key: seen[key] for key in ("codes", "printed", "last_step")}
        found[stage]["checkpoints"] = checkpoints(work, "spike", stage)
    return found


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


def keeps_the_best(work: Path) -> dict:
    """The best validation is kept beside the newest state: where it lies within the run, and where it is the last."""
    found = {}
    for name, keys in (("within", ("rating.fit.lr=0.3",)), ("last", ("rating.fit.lr=0.02",))):
        arguments = ("logger=csv", "checkpoint.keep_best=true", "checkpoint.every_n_steps=6", *keys)
        seen = run(work, name, "rating", *arguments)
        with (work / name / "rating" / "metrics.csv").open(newline="") as table:
            rows = [row for row in csv.DictReader(table) if row["rating/valid/rmse"]]
        manifests = [read_manifest(path) for path in candidates(work / name / "rating" / "checkpoints")]
        found[name] = {
            "codes": seen["codes"],
            "rmse": [float(row["rating/valid/rmse"]) for row in rows],
            "saved": [[manifest.step, manifest.best] for manifest in manifests],
        }
    return found


def broken_disk(work: Path) -> dict:
    """What has been written as the first checkpoint reads back otherwise."""

    def break_it(trainer: pl.Trainer) -> None:
        publish = callbacks.checkpoints.publish

        def and_flip(partial: Path) -> Path:
            path = publish(partial)
            flip(max(path.glob("shards/*"), key=lambda file: file.stat().st_size), path)
            return path

        callbacks.checkpoints.publish = and_flip

    also = [Disturb(0, (0,), break_it, "on_train_start")]
    seen = run(work, "run", "rating", "checkpoint.first=true", also=also)
    return {"codes": seen["codes"], "printed": seen["printed"][0], "steps": seen["last_step"]}


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
            # So many checkpoints would not fit, which is told after the first of them.
            keep = ("checkpoint.first=true", "checkpoint.keep=999")
            arguments = (*keep, "checkpoint.every_n_steps=4", f"checkpoint.on_failure={policy}")
            seen = run(work, policy, "rating", *arguments, also=also)
            names = checkpoints(work, policy, "rating")
        finally:
            if mounted:
                subprocess.run([shutil.which("umount"), "--lazy", str(folder)], check=True)
        found[policy] = {"codes": seen["codes"], "printed": seen["printed"][0], "checkpoints": names}
        found[policy]["small"] = mounted
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
    in_a_rollout,
    asked_to_end,
    hang,
    no_network,
    broken_gradient,
    spike,
    wandb_goes_on,
    fenced,
    fails_again,
    other_ranks,
    keeps_the_best,
    broken_disk,
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
