"""The decoding loop against transformers' `generate`: new tokens a CPU second at one thread.

    python benchmarks/rollout_speed.py [--repeats 3]

64 responses of at most 20 tokens to prompts of 32, sampled at temperature 1 from the whole vocabulary, or by top-k 50
and top-p 0.95; all of full length, or ending with a chance of 7 % a token; one sample a prompt, or 8. Same weights,
and each side its own activations as users get them: torch's GELU here, transformers' own for `generate`, with its
dynamic or its static cache. Sides alternate in one process.
"""

import argparse

import torch
from measuring import END, GPU, PAD, VOCABULARY, alternate, clock, emit, random_gpt2
from torch import Tensor, nn

from models.generation import generate
from models.sampling import Sampling, uniforms

ROWS, PROMPT, NEW = 64, 32, 20


@torch.no_grad()
def with_ends(lm: nn.Module, chance: float, sampling: Sampling | None, prompt_RP: Tensor) -> None:
    """Moves the last norm's bias such that a token is the end with this chance among those kept; 0: takes it back."""
    bias_W, end_W = lm.transformer.ln_f.bias, lm.get_output_embeddings().weight[END]
    bias_W.zero_()
    if not chance:
        return
    hidden_RW, direction_W = lm.transformer(prompt_RP).last_hidden_state[:, -1], end_W / end_W.square().sum()

    def share(size: float) -> float:
        logits_RV = lm.get_output_embeddings()(hidden_RW + size * direction_W).float()
        is_end_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) == END
        kept_RV = logits_RV >= (logits_RV.topk(sampling.top_k).values[:, -1:] if sampling else logits_RV.amin())
        chance_RV = logits_RV.masked_fill(~kept_RV, float("-inf")).softmax(1)
        return float((chance_RV * is_end_RV).sum(1).mean())

    least, most = 0.0, 30.0
    while most - least > 1e-3:
        middle = (least + most) / 2
        least, most = (middle, most) if share(middle) < chance else (least, middle)
    bias_W.copy_(most * direction_W)


def measure(
    lms: list[nn.Module], sampling: Sampling | None, chance: float, group: int, repeats: int, samples: int = ROWS
) -> dict[str, list[float]]:
    """Tokens a second by side, of two models of the same weights: this project's and transformers' own."""
    device, seed = lms[0].device, [0]
    prompt = torch.randint(3, VOCABULARY, (samples // group, PROMPT), generator=torch.Generator().manual_seed(0))
    prompt = prompt.to(device)
    mask, rows = torch.ones_like(prompt), torch.arange(samples) // group
    for lm in lms:
        with_ends(lm, chance, sampling, prompt)

    def ours() -> float:
        begin = clock()
        seed[0] += 1
        uniform = uniforms(seed[0], 0, list(range(samples)), NEW)
        prompt_QPW, end = lms[0].get_input_embeddings()(prompt).detach(), END if chance else -1
        made = generate(lms[0], prompt_QPW, mask, end, PAD, NEW, uniform, rows, sampling)
        return int(made.mask_BT.sum()) / (clock() - begin)

    def theirs(cache: str) -> float:
        begin = clock()
        settings = {"top_k": sampling.top_k, "top_p": sampling.top_p} if sampling else {"top_k": 0}
        settings |= {"eos_token_id": END} if chance else {"eos_token_id": None, "min_new_tokens": NEW}
        whole = prompt.repeat_interleave(group, 0)
        # transformers compiles the static cache's step on a GPU, and on a CPU it is faster without.
        settings |= {"cache_implementation": "static", "disable_compile": not GPU} if cache == "static" else {}
        ids = lms[1].generate(
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
        alternate(sides, 2)  # what is compiled or recorded
        return alternate(sides, repeats)


def show(figures: dict[str, list[float]], sampling: Sampling | None, chance: float, group: int, **more: object) -> None:
    """The JSON line of one case."""
    name = "top-k 50, top-p 0.95" if sampling else "whole vocabulary"
    more |= {"sampling": name, "chance_of_end": chance, "samples": group}
    emit("rollout", "new tokens a second", figures, "llm2er", **more)


CASES = [(None, 0.0, 1), (None, 0.07, 1), (Sampling(50, 0.95), 0.0, 1), (Sampling(50, 0.95), 0.07, 1), (None, 0.07, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if GPU else "cpu"
    lms: list[nn.Module] = [random_gpt2(fused=fused, device=device).eval() for fused in (True, False)]
    for sampling, chance, group in CASES:
        show(measure(lms, sampling, chance, group, args.repeats), sampling, chance, group)


if __name__ == "__main__":
    main()
