"""Real torchrun, real DeepSpeed: how the engine tests run things."""

import json
import os
import subprocess
import sys
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
