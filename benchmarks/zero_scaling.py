"""ZeRO 0 to 3 on one and two ranks: memory of states against the formula, CPU seconds a step, share of communication.

    python benchmarks/zero_scaling.py [--steps 6]

Fine-tuning of the small GPT-2, 32 rows of 13 + 17 tokens a rank (weak scaling). Memory is that of all tensors that are
alive after a backward pass, less batches, activations and the buckets of DeepSpeed, of which a CPU touches only
what it uses. Started by torchrun with `--rank-of` it is one rank.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from measuring import END, clock, run_json, tiny_explainer, tiny_tokenizer
from sft_speed import Rows

from datamodules.explanation import ExplanationData
from launch.engine import HardwareConfig, ZeroConfig, make_trainer, start
from launch.footprint import state_bytes
from lightning_modules.collectives import trainable_and_total, world
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig

ROWS, WARM_UP = 32, 2
BUCKET = 200_000_000  # elements of DeepSpeed's buckets under Lightning


def alive() -> int:
    """Bytes of all tensors, each storage once, without the buckets."""
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(size for size in sizes.values() if size < BUCKET)


class Watch(pl.Callback):
    """Seconds of steps and of collective operations, and memory once."""

    def __init__(self) -> None:
        self.communication = self.bytes = self.most = 0.0
        self.measured = False
        for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_gather", "reduce"):
            self._watch(name)

    def _watch(self, name: str) -> None:
        inner = getattr(dist, name)

        def timed(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
            if self.measured:
                self.most = max(self.most, alive())
            begin = clock()
            result = inner(*args, **kwargs)
            self.communication += clock() - begin
            return result

        setattr(dist, name, timed)

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor) -> None:
        """From here to its end: the most that is alive when a collective operation begins."""
        self.measured = trainer.global_step == WARM_UP

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Where gradients are there and activations are not."""
        self.measured = False
        if trainer.global_step == WARM_UP:
            self.bytes = alive()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, out, batch, index: int) -> None:  # noqa: ANN001
        """Starts and stops."""
        if index == WARM_UP:
            self.begin, self.communication = clock(), 0.0
        self.end = clock()


def one_rank(stage: int, steps: int) -> dict:
    """What this rank measured."""
    hardware = HardwareConfig(accelerator="cpu")
    start(hardware)
    rank, ranks = world()
    count = ROWS * ranks * (steps + WARM_UP + 1)
    prompt, response = list(range(2, 15)), [*range(20, 36), END]
    rows = Rows([(prompt, response)] * count)
    config = ExplanationConfig(connector_epochs=0, fit=FitConfig(epochs=1, batch_size=ROWS * ranks))
    module = ExplanationModule(config, tiny_explainer(), tiny_tokenizer())
    trainable, total = trainable_and_total(module)
    before = alive() - 4 * total
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0}
        data = ExplanationData(rows, ROWS * ranks, 1, 0)
        make_trainer(ZeroConfig(stage=stage), hardware, Path(folder), False, [watch], **options).fit(module, data)
    seconds = (watch.end - watch.begin) / steps
    expected = state_bytes(trainable, total, stage, ranks, bf16=False)
    return {
        "cpu_s_a_step": round(seconds, 4),
        "communication": round(watch.communication / steps / seconds, 3),
        "mib": round((watch.bytes - before) / 2**20, 1),
        "mib_in_backward": round((watch.most - before) / 2**20, 1) if watch.most else None,
        "predicted_mib": round(expected / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rank-of", type=int)
    args = parser.parse_args()
    if args.rank_of is not None:
        found = one_rank(args.rank_of, args.steps)
        if world()[0] == 0:
            print(json.dumps(found))
        return
    found = {}
    for stage in range(4):
        for ranks in (1, 2):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            found[f"stage {stage}, {ranks}"] = run_json(
                [*command, __file__, "--rank-of", str(stage), "--steps", str(args.steps)]
            )
    print(json.dumps({"bench": "zero", "rows_a_rank": ROWS, **found}))


if __name__ == "__main__":
    main()
