"""ZeRO 0 to 3 on one and two ranks: memory of states against the formula, clock time a step, share of communication.

    python benchmarks/zero_scaling.py [--repeats 3] [--steps 12]          # needs two cores that nobody else uses

Fine-tuning of the small GPT-2, 32 rows of 13 + 17 tokens a rank (weak scaling), one thread a rank. Efficiency is the
clock time of a step on one rank without sharding by that on two; `apart` is the same for two processes that know
nothing of each other, which share the machine's memory all the same. Communication is the time in which rank 0 calls
collective operations or waits for them, and for the other rank. CPU seconds of rank 0 stand beside: where others use
the machine they alone mean something.

Memory is that of all tensors alive: at rest, when a backward pass is done, and the most when a collective operation
begins in it, with DeepSpeed's buckets; of large storages the pages in use. It is measured in runs of their own, of a
model of 7.8 million parameters, with buckets as they are (200 million elements) and of 600,000, the largest tensor's
size. Started by torchrun with `--rank-of` it is one rank.
"""

import argparse
import ctypes
import gc
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from measuring import END, run_json, tiny_explainer, tiny_tokenizer
from sft_speed import Rows
from transformers import GPT2Config, GPT2LMHeadModel

from callbacks.freed_memory import MMAP_MAX
from datamodules.explanation import ExplanationData
from launch.engine import make_trainer, start
from launch.footprint import BUCKET, reducing_bytes, state_bytes
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.collectives import part, trainable_and_total, world
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig
from models.explainer import Explainer
from models.kernels import with_faster_kernels

ROWS, WARM_UP, SMALL_BUCKET = 32, 3, 600_000
MEMORY = [
    *[(stage, 2, BUCKET, 1) for stage in range(4)],
    *[(stage, 2, SMALL_BUCKET, accumulate) for stage in (1, 2, 3) for accumulate in (1, 2)],
]
COLLECTIVES = ["all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor"]
COLLECTIVES += ["reduce", "broadcast", "all_to_all_single", "barrier"]


def in_use(address: int, size: int) -> int:
    """Bytes of the pages of a storage that were ever written; all of a small one."""
    if size < 2**20:
        return size
    page = mmap.PAGESIZE
    first, pages = address // page * page, -(-(address % page + size) // page)
    resident = (ctypes.c_ubyte * pages)()
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(pages * page), resident):
        raise OSError("mincore failed")
    return int((np.frombuffer(resident, dtype=np.uint8) & 1).sum()) * page


def alive(bucket: int, buckets_too: bool) -> int:
    """Bytes of all tensors, each storage once; a storage of `bucket` float32 numbers is one of DeepSpeed's buckets."""
    sizes, things = {}, gc.get_objects()  # held, or memory could be gone before it is looked at
    for thing in things:
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            for tensor in (thing, thing.grad if thing.is_leaf else None):  # Python may not know a gradient
                if tensor is not None:
                    sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    kept = {address: size for address, size in sizes.items() if size and (buckets_too or size != 4 * bucket)}
    return sum(in_use(*one) for one in kept.items())


def clocks() -> np.ndarray:
    """Seconds by the clock, and of this process on a processor."""
    return np.array([time.perf_counter(), time.process_time()])


class Watch(pl.Callback):
    """Clock time of steps and of collective operations; or memory, which takes time to look up. Make it before `start`:
    DeepSpeed keeps some of the functions that it finds.
    """

    def __init__(self, memory: bool, bucket: int) -> None:
        self.memory, self.bucket, self.measured, self.inside = memory, bucket, False, False
        self.begin = self.end = self.communication = np.zeros(2)  # seconds by the clock, and of this rank's processor
        self.rest = self.most = 0
        for name in COLLECTIVES:
            self._watch(name)

    def _watch(self, name: str) -> None:
        inner = getattr(dist, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.measured and not self.inside:
                self.most = max(self.most, alive(self.bucket, buckets_too=True))
            result = self.timed(inner, *args, **kwargs)
            return result if result is None else Handle(result, self)

        setattr(dist, name, timed)

    def timed(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls and adds up the time; one operation may call another."""
        if self.inside:
            return call(*args, **kwargs)
        self.inside, begin = True, clocks()
        try:
            return call(*args, **kwargs)
        finally:
            self.communication = self.communication + clocks() - begin
            self.inside = False

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor) -> None:
        """From here to its end."""
        self.measured = self.memory and trainer.global_step == WARM_UP

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Where gradients are there and activations are not."""
        self.measured = False
        if self.memory and trainer.global_step == WARM_UP:
            self.rest = max(self.rest, alive(self.bucket, buckets_too=False))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        """Starts and stops."""
        if index == WARM_UP:
            self.begin, self.communication = clocks(), np.zeros(2)
        self.end = clocks()


class Handle:
    """What an operation returns that goes on by itself: waiting for it counts."""

    def __init__(self, work: Any, watch: Watch) -> None:
        self.work, self.watch = work, watch

    def wait(self, *args: Any) -> Any:
        """As the handle's own."""
        return self.watch.timed(self.work.wait, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work, name)


def small_words() -> Explainer:
    """4 layers, 384 wide, 1024 words: no tensor is much of the whole."""
    sizes = {"vocab_size": 1024, "n_positions": 64, "n_embd": 384, "n_layer": 4, "n_head": 6}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return Explainer(with_faster_kernels(GPT2LMHeadModel(config)), node_width=4)


def one_rank(stage: int, steps: int, memory: bool, bucket: int, accumulate: int) -> dict:
    """What this rank measured."""
    hardware, watch = HardwareConfig(accelerator="cpu"), Watch(memory, bucket)
    start(hardware)
    if memory:  # a large storage gets pages of its own again: others' old ones would count as if it used them
        ctypes.CDLL(None).mallopt(MMAP_MAX, 2**16)
    _, ranks = world()
    # one short row: activations, which are alive too while the first gradients are reduced, are next to nothing
    batch = (1 if memory else ROWS) * ranks * accumulate
    count = batch * (steps + WARM_UP + 1)
    prompt, response = list(range(2, 15)), [*range(20, 36), END]
    if memory:
        prompt, response = [2], [END]
    rows = Rows([(prompt, response)] * count)
    config = ExplanationConfig(connector_epochs=0, fit=FitConfig(epochs=1, batch_size=batch, accumulate=accumulate))
    module = ExplanationModule(config, small_words() if memory else tiny_explainer(), tiny_tokenizer())
    trainable, total = trainable_and_total(module)
    before = alive(bucket, buckets_too=False) - 4 * total
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0}
        options["accumulate_grad_batches"] = accumulate
        data = ExplanationData(rows, batch, accumulate, 0)
        trainer = make_trainer(ZeroConfig(stage=stage), hardware, Path(folder), False, [watch], **options)
        trainer.strategy.config["zero_optimization"]["reduce_bucket_size"] = bucket
        trainer.fit(module, data)
    if memory:
        rest = state_bytes(trainable, total, stage, ranks, False, accumulate)
        peak = rest + reducing_bytes(trainable, total, stage, ranks, False, accumulate, bucket)
        found = {"rest": watch.rest - before, "rest_predicted": rest, "peak": max(watch.most, watch.rest) - before}
        return {name: round(value / 2**20, 1) for name, value in (found | {"peak_predicted": peak}).items()}
    seconds = (watch.end - watch.begin) / steps
    share = watch.communication / steps / seconds
    return {
        "s_a_step": round(seconds[0], 4),
        "communication": round(share[0], 3),
        "cpu_s_a_step": round(seconds[1], 4),
        "cpu_communication": round(share[1], 3),
    }


def run(stage: int, ranks: int, *options: str) -> dict:
    """One measurement in processes of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return run_json([*command, __file__, "--rank-of", str(stage), *options])


def apart(steps: str) -> float:
    """Seconds a step of two processes of one rank each at the same time; the mean of both."""
    command = [sys.executable, __file__, "--rank-of", "0", "--steps", steps]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    return sum(json.loads(text.strip().splitlines()[-1])["s_a_step"] for text in printed) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank-of", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--bucket", type=int, default=BUCKET)
    parser.add_argument("--accumulate", type=int, default=1)
    args = parser.parse_args()
    if args.rank_of is not None:
        found = one_rank(args.rank_of, args.steps, args.memory, args.bucket, args.accumulate)
        if world()[0] == 0:
            print(json.dumps(found))
        part()
        return
    mib = {}
    for stage, ranks, bucket, accumulate in MEMORY:
        options = ["--memory", "--steps", "2", "--bucket", str(bucket), "--accumulate", str(accumulate)]
        mib[f"stage {stage}, {ranks} ranks, bucket {bucket}, {accumulate} micro-batches"] = run(stage, ranks, *options)
    times: dict[str, list[dict]] = {}
    alone = []
    for _ in range(args.repeats):
        alone.append(apart(str(args.steps)))
        for stage in range(4):
            for ranks in (1, 2):
                times.setdefault(f"stage {stage}, {ranks}", []).append(run(stage, ranks, "--steps", str(args.steps)))
    best = {name: min(found, key=lambda one: one["s_a_step"]) for name, found in times.items()}
    one = best["stage 0, 1"]["s_a_step"]
    efficiency = {name: round(one / found["s_a_step"], 3) for name, found in best.items() if name.endswith("2")}
    efficiency["apart"] = round(one / min(alone), 3)
    line = {"bench": "zero", "rows_a_rank": ROWS, "mib": mib, "best": best, "efficiency": efficiency, "apart": alone}
    print(json.dumps(line | {"all": times, "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
