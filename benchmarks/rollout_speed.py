"""The decoding loop against transformers' `generate`: new tokens a CPU second at one thread.

    python benchmarks/rollout_speed.py [--repeats 3]

64 responses of at most 20 tokens to prompts of 32, sampled at temperature 1 from the whole vocabulary, or by top-k 50
and top-p 0.95; all of full length, or ending with a chance of 7 % a token; one sample a prompt, or 8. Same weights,
and each side its own activations as users get them: torch's GELU here, transformers' own for `generate`, with its
dynamic or its static cache. Sides alternate in one process.
"""

import argparse
import math

import torch
from measuring import END, GPU, PAD, VOCABULARY, alternate, clock, emit, random_gpt2

from models.generation import generate
from models.sampling import Sampling, uniforms

ROWS, PROMPT, NEW = 64, 32, 20


def with_ends(lm: torch.nn.Module, chance: float) -> None:
    """Moves the last norm's bias such that each token is the end with about this chance; 0: takes it back."""
    end_W = lm.get_output_embeddings().weight[END].detach()
    if not chance:
        lm.transformer.ln_f.bias.data.zero_()
        return
    wanted = math.log(chance * lm.config.vocab_size / (1 - chance))
    lm.transformer.ln_f.bias.data.copy_(wanted * end_W / end_W.square().sum())


def measure(sampling: Sampling | None, chance: float, group: int, repeats: int) -> dict:
    """Tokens a second by side."""
    device = "cuda" if GPU else "cpu"
    lm, plain = random_gpt2().eval().to(device), random_gpt2(fused=False).eval().to(device)
    if chance:
        with_ends(lm, chance)
        with_ends(plain, chance)
    end = END if chance else -1
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, VOCABULARY, (ROWS // group, PROMPT), generator=draw).to(device)
    mask = torch.ones_like(prompt)
    count = {"seed": 0}

    def ours() -> float:
        begin = clock()
        count["seed"] += 1
        uniform = uniforms(count["seed"], 0, list(range(ROWS)), NEW)
        rows = torch.arange(ROWS) // group
        prompt_QPW = lm.get_input_embeddings()(prompt).detach()
        made = generate(lm, prompt_QPW, mask, end, PAD, NEW, uniform, rows, sampling)
        return int(made.mask_BT.sum()) / (clock() - begin)

    def theirs(cache: str) -> float:
        begin = clock()
        settings = {"top_k": sampling.top_k, "top_p": sampling.top_p} if sampling else {"top_k": 0}
        settings |= {"eos_token_id": END} if chance else {"eos_token_id": None, "min_new_tokens": NEW}
        whole = prompt.repeat_interleave(group, 0)
        settings |= {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
        ids = plain.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=NEW,
            do_sample=True,
            temperature=1.0,
            pad_token_id=PAD,
            **settings,
        )[:, PROMPT:]
        return int((ids != PAD).sum()) / (clock() - begin)

    sides = {"llm2er": ours, "dynamic cache": lambda: theirs("dynamic"), "static cache": lambda: theirs("static")}
    with torch.inference_mode():
        for side in sides.values():
            side()
        return alternate(sides, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(None, 0.0, 1), (None, 0.07, 1), (Sampling(50, 0.95), 0.0, 1), (Sampling(50, 0.95), 0.07, 1)]
    for sampling, chance, group in [*cases, (None, 0.07, 8)]:
        figures = measure(sampling, chance, group, args.repeats)
        name = "top-k 50, top-p 0.95" if sampling else "whole vocabulary"
        emit("rollout", "new tokens a second", figures, "llm2er", sampling=name, chance_of_end=chance, samples=group)


if __name__ == "__main__":
    main()
