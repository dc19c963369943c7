"""Real torchrun, real DeepSpeed: how the engine tests run things."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
TINY = [
    "hardware.accelerator=cpu",
    "data.embedded_users=40",
    "data.embedded_items=20",
    "graph.folds=3",
    "prompt.max_new_tokens=12",
    "rating.model.width=16",
    "rating.model.heads=2",
    "rating.model.mlp_width=16",
    "rating.model.dropout=0",
    "rating.fit.batch_size=64",
    "rating.fit.epochs=4",
    "explanation.new_model.width=32",
    "explanation.new_model.layers=2",
    "explanation.new_model.dropout=0",
    "explanation.fit.batch_size=64",
    "explanation.fit.epochs=4",
    "ccr.new_model.width=32",
    "ccr.new_model.dropout=0",
    "ccr.fit.batch_size=64",
    "ccr.fit.epochs=4",
    "ccr.fit.patience=9",
    "hqar.fit.batch_size=64",
    "hqar.fit.epochs=7",
    "hqar.fit.patience=9",
    "hqar.high_quality.top_share=1",
    "hqar.high_quality.perplexity_share=1",
    "ppo.iterations=5",
    "ppo.rollout_batch_size=32",
    "ppo.mini_batch_size=16",
    "ppo.epochs=2",
    "ppo.eval_every=5",
    "ppo.eval_prompts=16",
    "ppo.guards.max_distinct_1_drop=1",
    "ppo.guards.min_end_rate=0",
    "result.resamples=50",
]


def torchrun(
    script: Path, arguments: list[str], ranks: int, timeout: int = 240, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Runs a script on `ranks` ranks of this machine, on CPU and offline."""
    variables = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }
    variables |= environment or {}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*command, str(script), *arguments],
        env=variables,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )


def losses_of(base: str, out: Path, ranks: int, arguments: list[str]) -> dict[str, list[float]]:
    """Losses by stage of a tiny run."""
    done = torchrun(HERE / "stage_losses.py", [base, str(out), *TINY, *arguments], ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "losses.json").read_text())


def wandb_records(path: Path) -> Iterator:
    """The records of an offline W&B file: a 7-byte header, then LevelDB log records in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, place, part = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        piece = data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind == 0 and length == 0:
            place += 32768 - place % 32768
            continue
        part = piece if kind in (1, 2) else part + piece
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            yield record
