"""What `dry_run=true` says of hours against what training takes, in CPU seconds at one thread.

    python benchmarks/forecast.py [--repeats 2] [--precision bf16]

Forecast and run share a process, one behind the other. Fine-tuning: prompts of 10 to 16 tokens, explanations of 9 to
61; PPO and GRPO: 64 samples a rollout, all of full length. Prints for each workload the seconds of a step or rollout,
and forecast / measured.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import ppo_speed
import torch
from measuring import END, VOCABULARY, clock, random_gpt2, run_json, tiny_tokenizer
from ppo_speed import Clock as RolloutClock
from ppo_speed import EvenWords, TokenPrompts
from sft_speed import WARM_UP, Clock, Rows
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from datamodules.explanation import ExplanationData
from launch.engine import make_trainer, start
from launch.forecast import Forecast, Lengths, fitting_seconds, ppo_seconds
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.module import PPOModule
from models.explainer import Explainer
from models.kernels import with_faster_kernels
from models.language_model import LoraConfig

STEPS, ROLLOUTS = 12, 3


def gpt2(layers: int, width: int, heads: int) -> nn.Module:
    """Without dropout."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": 256, "n_layer": layers, "n_embd": width, "n_head": heads}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": END, "eos_token_id": END}
    return with_faster_kernels(GPT2LMHeadModel(GPT2Config(**sizes, **none)))


def llama(layers: int, width: int, inner: int, heads: int) -> nn.Module:
    """Half as many heads of keys and values."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
    return with_faster_kernels(LlamaForCausalLM(LlamaConfig(**sizes, **heads_of, bos_token_id=END, eos_token_id=END)))


def rows_of(count: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and responses with the lengths of real explanations: most of 10 to 25 tokens, some up to 61."""
    draw = random.Random(0)

    def words(n: int) -> list[int]:
        return [draw.randrange(2, VOCABULARY) for _ in range(n)]

    return [
        (words(draw.randrange(10, 17)), [*words(min(60, 8 + int(draw.expovariate(0.1)))), END]) for _ in range(count)
    ]


def sft(precision: str, lm: nn.Module, batch: int) -> tuple[float, float]:
    """(forecast, measured) seconds of a step."""
    rows = rows_of((STEPS + WARM_UP) * batch)
    prompt = round(sum(len(row[0]) for row in rows) / len(rows))
    lengths = Lengths(prompt, tuple(sorted(len(row[1]) for row in rows)))
    fit = FitConfig(epochs=1, batch_size=batch)
    forecast = Forecast(lm.config, LoraConfig(), "cpu", precision == "bf16")
    said = fitting_seconds(forecast, batch, fit, lengths, ranks=1)
    module = ExplanationModule(ExplanationConfig(connector_epochs=0, fit=fit), Explainer(lm, 4), tiny_tokenizer())
    hardware, watch, data = HardwareConfig(precision=precision), Clock(), ExplanationData(Rows(rows), batch, 1, 0)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0}
        make_trainer(ZeroConfig(stage=0), hardware, Path(folder), False, [watch], **options).fit(module, data)
    return said, (watch.end - watch.begin) / STEPS


def ppo(precision: str, lm: nn.Module, algorithm: str, passes: int, prompt: int, new: int) -> tuple[float, float]:
    """(forecast, measured) seconds of a rollout and its updates."""
    ppo_speed.PROMPT = prompt
    group = 1 if algorithm == "ppo" else ppo_speed.GROUP
    size = {"rollout_batch_size": ppo_speed.SAMPLES, "mini_batch_size": ppo_speed.SAMPLES, "epochs": passes}
    config = PPOConfig(algorithm=algorithm, samples_per_prompt=group, iterations=1, lr=1e-5, kl_target=0.0, **size)
    forecast = Forecast(lm.config, LoraConfig(), "cpu", precision == "bf16")
    said = ppo_seconds(forecast, config, Lengths(prompt, (new,)), ranks=1, bf16=precision == "bf16")
    module = PPOModule(config, Explainer(lm, 4), tiny_tokenizer(), EvenWords(), TokenPrompts(group), new, 0)
    hardware, watch = HardwareConfig(precision=precision), RolloutClock(module)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": ROLLOUTS + 1, "gradient_clip_val": 1.0}
        make_trainer(ZeroConfig(stage=0), hardware, Path(folder), False, [watch], **options).fit(module)
    return said, watch.total / ROLLOUTS


# name -> (measure, make the model, what else `measure` takes)
WORKLOADS: dict[str, tuple] = {
    "fine-tuning, GPT-2, 6 layers, 384 wide": (sft, lambda: gpt2(6, 384, 6), 64),
    "fine-tuning, GPT-2, 3 layers, 128 wide": (sft, lambda: gpt2(3, 128, 4), 64),
    "fine-tuning, Llama, 5 layers, 320 wide": (sft, lambda: llama(5, 320, 864, 10), 32),
    "PPO, GPT-2, 4 layers, 256 wide, 20 new tokens, 1 pass": (ppo, random_gpt2, "ppo", 1, 32, 20),
    "PPO, GPT-2, 4 layers, 256 wide, 40 new tokens, 2 passes": (ppo, random_gpt2, "ppo", 2, 32, 40),
    "PPO, Llama, 5 layers, 320 wide, 20 new tokens, 4 passes": (ppo, lambda: llama(5, 320, 864, 10), "ppo", 4, 24, 20),
    "GRPO, GPT-2, 6 layers, 384 wide, 30 new tokens, 1 pass": (ppo, lambda: gpt2(6, 384, 6), "grpo", 1, 48, 30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--one", choices=WORKLOADS)
    args = parser.parse_args()
    if args.one:
        start(HardwareConfig(accelerator="cpu"))
        torch.manual_seed(0)
        begin = clock()
        measure, model, *more = WORKLOADS[args.one]
        said, measured = measure(args.precision, model(), *more)
        print(json.dumps({"forecast": said, "measured": measured, "cpu_s": round(clock() - begin)}))
        return
    found = {}
    for name in WORKLOADS:
        command = [sys.executable, __file__, "--precision", args.precision, "--one", name]
        runs = [run_json(command) for _ in range(args.repeats)]
        ratios = [round(run["forecast"] / run["measured"], 3) for run in runs]
        found[name] = {
            "forecast": [round(run["forecast"], 3) for run in runs],
            "measured": [round(run["measured"], 3) for run in runs],
            "ratio": ratios,
        }
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    worst = max(abs(ratio - 1) for row in found.values() for ratio in row["ratio"])
    more = {"unit": "CPU seconds", "precision": args.precision, "worst": round(worst, 3), "workloads": found}
    print(json.dumps({"bench": "forecast", **more}))


if __name__ == "__main__":
    main()
