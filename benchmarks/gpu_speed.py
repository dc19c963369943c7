"""On one GPU: matrix products, fine-tuning, sampling and PPO of GPT-2s of 0.1 and 1 billion random weights in bf16.

    PEER_PYTHON=/path/to/python python benchmarks/gpu_speed.py matmul|sft|rollout|ppo [0.1b|1b] [--rows N] [--alone]

JSON lines: figures of both sides and their ratio; a peer for which the GPU has too little memory has none. The peers
are the Hugging Face Trainer, `generate` and TRL 1.12's PPO, with bf16 as their users get it. Fine-tuning also says what
share of the rate of the large product its operations come to: those of tokens that are not padding, of which the head
sees the answered ones (launch/footprint.py).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from forecast import rows_of
from measuring import PEER_PYTHON, clock, emit, random_gpt2, run_json, tiny_tokenizer
from ppo_speed import NEW, EvenWords, TokenPrompts
from ppo_speed import Clock as RolloutClock
from rollout_speed import CASES, measure, show
from rollout_speed import ROWS as ROWS_SAMPLED
from sft_speed import WARM_UP, Clock, Rows
from torch import nn

from datamodules.explanation import ExplanationData
from launch.engine import make_trainer, start
from launch.footprint import Shape, reading_flops
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.module import PPOModule
from models.explainer import Explainer

ROWS = {"0.1b": 1024, "1b": 512}  # of a batch in fine-tuning
STEPS, ROLLOUTS, SAMPLES, REPEATS = 12, 4, 256, 5
WORKERS = 4  # processes that build batches, on both sides
PEER = str(Path(__file__).with_name("gpu_peer.py"))
BF16 = HardwareConfig(precision="bf16")


def explainer(size: str) -> Explainer:
    """Of random weights, made on the GPU."""
    return Explainer(random_gpt2(size, device="cuda"), node_width=4)


def rate_of_products(size: int = 8192) -> tuple[float, float]:
    """(FLOP/s of a product of two bf16 matrices, bytes/s of a copy), medians of 20."""
    one, other = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    large = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    spent: dict[str, list[float]] = {"product": [], "copy": []}
    for turn in range(25):
        for name, call in (("product", lambda: one @ other), ("copy", large.clone)):
            begin = clock()
            call()
            if turn >= 5:
                spent[name].append(clock() - begin)
    product, copy = (sorted(seconds)[len(seconds) // 2] for seconds in spent.values())
    return 2 * size**3 / product, 2 * large.numel() / copy


def of_peer(alone: bool, figure: str, *arguments: str) -> list[float]:
    """The peer's figure, none where this side is timed alone or the GPU has too little memory for the peer."""
    if alone:
        return []
    try:
        return [run_json([PEER_PYTHON, PEER, *arguments])[figure]]
    except SystemExit as failure:
        if "OutOfMemoryError" not in str(failure):
            raise
        return []


def matmul(_: str, __: int, ___: bool) -> None:
    """The two ceilings."""
    flops, bytes_a_second = rate_of_products()
    figures = {"tflops": round(flops / 1e12, 1), "tb_a_second": round(bytes_a_second / 1e12, 2)}
    print(json.dumps({"bench": "ceilings"} | figures | {"device": torch.cuda.get_device_name()}))


def step_of_sft(size: str, rows: list[tuple[list[int], list[int]]], batch: int) -> tuple[float, Shape]:
    """(seconds of an optimizer step behind the warm-up, the model's shape)."""
    start(BF16)
    config = ExplanationConfig(connector_epochs=0, fit=FitConfig(epochs=1, batch_size=batch))
    module = ExplanationModule(config, explainer(size), tiny_tokenizer())
    shape, watch, data = Shape.of(module.explainer.lm), Clock(), ExplanationData(Rows(rows), batch, 1, 0)
    data.workers = WORKERS
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0}
        make_trainer(ZeroConfig(stage=2), BF16, Path(folder), False, [watch], **options).fit(module, data)
    return (watch.end - watch.begin) / STEPS, shape


def sft(size: str, batch: int, alone: bool) -> None:
    """Fine-tuning against the Hugging Face Trainer."""
    batch = batch or ROWS[size]
    rows = rows_of((STEPS + WARM_UP) * batch)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(rows))
        theirs = of_peer(alone, "target_tokens_a_second", "sft", size, str(batch), str(file))
    peak, _ = rate_of_products()
    seconds, shape = step_of_sft(size, rows, batch)
    answered = sum(len(response) for _, response in rows) / len(rows) * batch
    tokens = answered + sum(len(prompt) for prompt, _ in rows) / len(rows) * batch
    achieved = reading_flops(shape, tokens, answered, backward=True) / seconds
    figures = {"llm2er": [answered / seconds], "hugging face": theirs}
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    more = {"tflops": round(achieved / 1e12, 1), "of_the_product": round(achieved / peak, 3)}
    more |= {"s_a_step": round(seconds, 4), "tokens_a_step": round(tokens), "peak_gib": memory}
    emit("sft", "target tokens a second", figures, "llm2er", size=size, batch=batch, **more)


def rollout(size: str, samples: int, _: bool) -> None:
    """Sampling against `generate` with its dynamic and its compiled static cache."""
    lms: list[nn.Module] = [random_gpt2(size, fused, "cuda").bfloat16().eval() for fused in (True, False)]
    for sampling, chance, group in CASES if size == "0.1b" else CASES[:2]:
        figures = measure(lms, sampling, chance, group, REPEATS, samples or ROWS_SAMPLED)
        show(figures, sampling, chance, group, size=size, rows=samples or ROWS_SAMPLED)


def ppo(size: str, samples: int, alone: bool) -> None:
    """PPO with one pass against TRL's."""
    samples = samples or SAMPLES
    theirs = of_peer(alone, "samples_a_second", "ppo", size, str(samples), str(ROLLOUTS))
    start(BF16)
    config = PPOConfig(
        iterations=ROLLOUTS + 1,
        rollout_batch_size=samples,
        mini_batch_size=samples,
        epochs=1,
        lr=1e-5,
        kl_coef=0.05,
        kl_target=0.0,
    )
    prompts = TokenPrompts(1, samples)
    module = PPOModule(config, explainer(size), tiny_tokenizer(), EvenWords(), prompts, NEW, 0)
    watch = RolloutClock(module)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": ROLLOUTS + 1, "gradient_clip_val": 1.0}
        make_trainer(ZeroConfig(stage=2), BF16, Path(folder), False, [watch], **options).fit(module)
    figures = {"llm2er": [samples * ROLLOUTS / watch.total], "trl": theirs}
    parts = {name.strip("_"): round(value / ROLLOUTS, 4) for name, value in watch.spent.items()}
    parts["rest"] = round(watch.total / ROLLOUTS - sum(parts.values()), 4)
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    emit("ppo", "samples a second", figures, "llm2er", size=size, samples=samples, peak_gib=memory, s_a_rollout=parts)


WORK = {"matmul": matmul, "sft": sft, "rollout": rollout, "ppo": ppo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("size", nargs="?", choices=ROWS, default="0.1b")
    parser.add_argument("--rows", type=int, default=0, help="of a batch, or samples of a rollout")
    parser.add_argument("--alone", action="store_true", help="without the peers of fine-tuning and PPO")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; the other scripts here measure CPUs")
    WORK[args.work](args.size, args.rows, args.alone)


if __name__ == "__main__":
    main()
