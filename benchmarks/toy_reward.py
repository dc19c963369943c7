"""Reinforcement learning where the best possible reward is known, and where the guards must step in.

    python benchmarks/toy_reward.py [--seeds 1,2,3,4,5] [--precision bf16]

A small random GPT-2 is paid for the share of even words: at best 1. Prints one JSON line: for each algorithm and seed
the reward before and after, and the iterations until 0.95. Then it is paid for what a careless reward pays for (length,
one word again and again, the concepts listed): how far that went when a guard stopped it, and why.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from callbacks.guards import PPOGuards
from datamodules.prompts import PromptBatch
from launch.engine import make_trainer, start
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.ppo.config import GuardConfig, PPOConfig
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.rewards import Scores
from models.explainer import Explainer

END, PAD, VOCABULARY, LENGTH = 0, 1, 24, 10
CONCEPTS = torch.tensor([4, 9, 14])
ITERATIONS = 25  # the budget: of 64 samples each
ON_CPU = HardwareConfig(accelerator="cpu")
ALGORITHMS = {"ppo": 1, "grpo": 8, "rloo": 8}  # and samples a prompt


class Prompts:
    """Stands for RolloutPrompts: 40 prompts of uneven lengths."""

    def __init__(self, batch_size: int, samples: int) -> None:
        self.batch_size, self.samples = batch_size, samples

    def records(self, iteration: int, rank: int, world: int) -> tuple[list[int], list[int], np.ndarray]:
        """This rank's part of an iteration."""
        prompts = self.batch_size // self.samples
        rows = np.array_split(np.arange(self.batch_size), world)[rank]
        records = [(iteration * prompts + i // self.samples) % 40 for i in rows.tolist()]
        return records, (rows % self.samples).tolist(), np.ones(len(rows), dtype=np.float32)

    def batch(self, records: list[int]) -> PromptBatch:
        """Prompts alone."""
        lengths = [3 + record % 3 for record in records]
        width, rows = max(lengths), torch.tensor(records)
        ids = [[0] * (width - n) + [2 + (r + i) % 20 for i in range(n)] for r, n in zip(records, lengths, strict=True)]
        mask = [[0] * (width - n) + [1] * n for n in lengths]
        slots = torch.zeros(len(records), width, dtype=torch.long)
        nothing, state = torch.zeros(len(records), 0, dtype=torch.long), torch.zeros(len(records), 4)
        return PromptBatch(
            torch.tensor(ids),
            slots,
            torch.tensor(mask),
            nothing,
            nothing,
            state,
            state,
            rows % 3,
            rows,
            rows + 1.0,
            1.0,
        )

    def with_responses(self, record_M: torch.Tensor, response_MT: torch.Tensor, mask_MT: torch.Tensor) -> PromptBatch:
        """Prompts and responses."""
        batch = self.batch(record_M.tolist())
        batch.response_BT, batch.response_mask_BT = response_MT, mask_MT
        return batch

    def candidate_names(self, records: list[int]) -> list[list[str]]:
        """One name, which no reward here looks at."""
        return [["sound"] for _ in records]


def even(response_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Share of even words among those before the end."""
    word_BT = mask_BT * (response_BT != END)
    return (word_BT * (response_BT % 2 == 0)).sum(1) / word_BT.sum(1).clamp(min=1)


def length(response_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Pays for every word."""
    return mask_BT.sum(1) / LENGTH


def one_word(response_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Pays for word 7 again and again."""
    return ((response_BT == 7) * mask_BT).sum(1) / mask_BT.sum(1)


def listing(response_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Pays for the share of words that are concepts, as a consistency reward without a fluency reward does."""
    return (torch.isin(response_BT, CONCEPTS) * mask_BT).sum(1) / mask_BT.sum(1)


class Rewards:
    """Stands for a Scorer: one of the functions above."""

    reduce = "mean"

    def __init__(self, reward) -> None:  # noqa: ANN001
        self.reward = reward

    def to(self, device: torch.device) -> None:
        """Has nothing to move."""

    def score(self, response_BT: torch.Tensor, mask_BT: torch.Tensor, names: list) -> Scores:
        """The reward of each response."""
        none_B = torch.zeros(len(mask_BT))
        return Scores(self.reward(response_BT, mask_BT).float(), none_B, torch.zeros(mask_BT.shape))


class Curve(pl.Callback):
    """The figures of each rollout."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPOModule) -> None:
        """Keeps them."""
        names = ("reward/ccr", "kl", "distinct_1", "end_rate", "length")
        self.rows.append({name: float(trainer.callback_metrics[f"ppo/{name}"]) for name in names})


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w1", eos_token="w0")


def policy(seed: int) -> Explainer:
    """A small random GPT-2."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return Explainer(GPT2LMHeadModel(config), 4)


def train(
    seed: int,
    reward,  # noqa: ANN001
    algorithm: str,
    guards: PPOGuards | None = None,
    hardware: HardwareConfig = ON_CPU,
    **options,  # noqa: ANN003
) -> list[dict]:
    """Figures of each rollout."""
    samples = ALGORITHMS[algorithm]
    given = {"lr": 3e-3, "value_lr": 1e-2, "kl_coef": 0.01, "kl_target": 0.0, "missing_end_penalty": 0.0, "epochs": 4}
    given |= {"iterations": ITERATIONS, "rollout_batch_size": 64, "mini_batch_size": 64, "lambda_hqar": 0.0}
    config = PPOConfig(algorithm=algorithm, samples_per_prompt=samples, **(given | options))
    prompts = Prompts(config.rollout_batch_size, samples)
    module = PPOModule(config, policy(seed), tokenizer(), Rewards(reward), prompts, LENGTH, seed)
    curve = Curve()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [curve] + ([guards] if guards is not None else [])
        settings = {"max_epochs": config.iterations, "gradient_clip_val": 1.0}
        make_trainer(ZeroConfig(stage=0), hardware, Path(folder), False, callbacks, **settings).fit(module)
    return curve.rows


def learned(seed: int, algorithm: str, hardware: HardwareConfig = ON_CPU) -> dict:
    """Reward before and after, and the iterations until 0.95 of the optimum."""
    rewards = [row["reward/ccr"] for row in train(seed, even, algorithm, hardware=hardware)]
    reached = next((i for i, value in enumerate(rewards) if value >= 0.95), None)
    return {"before": round(rewards[0], 3), "after": round(float(np.mean(rewards[-3:])), 3), "reached": reached}


def hacked(seed: int, reward, hardware: HardwareConfig = ON_CPU) -> dict:  # noqa: ANN001
    """Where a guard stopped a policy that was paid for the wrong thing."""
    guards = PPOGuards(GuardConfig())
    # Texts that do not end are punished, as by default, except where length itself is paid for.
    penalty = 0.0 if reward is length else 1.0
    rows = train(seed, reward, "ppo", guards, hardware, missing_end_penalty=penalty, iterations=60)
    first, last = rows[0], rows[-1]
    return {"iterations": len(rows), "first": first, "last": last, "reason": guards.reason}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    hardware = HardwareConfig(accelerator="cpu", precision=args.precision)
    start(hardware)
    budget = f"{ITERATIONS} rollouts of 64 samples"
    found: dict = {"bench": "toy reward", "precision": args.precision, "optimum": 1.0, "budget": budget}
    found |= {name: {seed: learned(seed, name, hardware) for seed in seeds} for name in ALGORITHMS}
    found["hacking"] = {reward.__name__: hacked(seeds[0], reward, hardware) for reward in (length, one_word, listing)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
