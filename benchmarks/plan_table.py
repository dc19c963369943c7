"""Predicted memory and hours of models of 0.1B, 1B and 8B on 1, 8 and 64 GPUs, by the formulas of launch/footprint.py.

    python benchmarks/plan_table.py [TFLOPS]          # default 400: what a GPU is assumed to reach in reading

Prints a table in Markdown. bf16 with float32 master weights, ZeRO 3, all weights trained; PPO with a frozen copy as
reference. 8 rows a GPU of 40 prompt and 32 new tokens; hours for 1 million records fine-tuned once, and for 100,000
samples of PPO with four passes, at the assumed rate, an eighth of it in sampling, without communication.
"""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from launch.footprint import Shape, activation_bytes, reading_flops, state_bytes

ROWS, PROMPT, NEW = 8, 40, 32
MODELS = {
    "GPT-2": ("gpt2", {}),
    "1B": (
        "llama",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True},
    ),
    "8B": (
        "llama",
        {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "vocab_size": 128_256},
    ),
}


def main() -> None:
    rate = float(sys.argv[1] if len(sys.argv) > 1 else 400) * 1e12
    print("| model | GPUs | SFT states, GiB | PPO states, GiB | activations, GiB | SFT, hours | PPO, hours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (family, sizes) in MODELS.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
        shape, total = Shape.of(model), sum(p.numel() for p in model.parameters())
        kept = activation_bytes(shape, ROWS * (PROMPT + NEW), ROWS * NEW, bf16=True) / 2**30
        once = reading_flops(shape, PROMPT + NEW, NEW, backward=True)
        read = reading_flops(shape, PROMPT + NEW, NEW, backward=False)
        for ranks in (1, 8, 64):
            sft = state_bytes(total, total, 3, ranks, bf16=True) / 2**30
            ppo = state_bytes(total, 2 * total, 3, ranks, bf16=True) / 2**30
            hours = [1e6 * once / rate / ranks / 3600, 1e5 * (4 * once + read + 8 * read) / rate / ranks / 3600]
            figures = " | ".join(f"{value:.2f}" for value in (sft, ppo, kept, *hours))
            print(f"| {name} ({total / 1e9:.2f}B) | {ranks} | {figures} |")


if __name__ == "__main__":
    main()
