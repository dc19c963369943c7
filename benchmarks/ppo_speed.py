"""PPO and GRPO with a KL to a reference against TRL: samples a CPU second at one thread.

    PEER_PYTHON=/path/to/python TRL_PPO=/path/with/trl-1.12 python benchmarks/ppo_speed.py [--repeats 2] [--rollouts 8]

64 samples a rollout, prompts of 32 tokens, 20 new tokens, a trivial reward; the first rollout is not timed, and in the
next two memory still grows, so there are more of them. TRL 1.12 is the last version with PPO. `--precision bf16` has
both sides compute in bfloat16, with weights and moments in float32.
With `--ours ALGORITHM EPOCHS` it measures this side alone, and says where the time goes.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from measuring import END, GPU, VOCABULARY, alternate, clock, emit, peer, run_json, tiny_explainer, tiny_tokenizer
from measuring import token_batch as batch_of

from launch.engine import make_trainer, start
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.rewards import Scores

SAMPLES, PROMPT, NEW, GROUP = 64, 32, 20, 8


class TokenPrompts:
    """Stands for RolloutPrompts: random prompts of one length."""

    def __init__(self, samples: int, rollout: int = SAMPLES) -> None:
        draw = random.Random(0)
        self.samples, self.rollout = samples, rollout
        self.prompts = [[draw.randrange(3, VOCABULARY) for _ in range(PROMPT)] for _ in range(4096)]

    def records(self, iteration: int, rank: int, world: int) -> tuple[list[int], list[int], np.ndarray]:
        """The records of an iteration on one rank."""
        prompts = self.rollout // self.samples
        rows = [iteration * prompts + i // self.samples for i in range(self.rollout)]
        return rows, [i % self.samples for i in range(self.rollout)], np.ones(self.rollout)

    def batch(self, records: list[int]):  # noqa: ANN201
        """Prompts alone."""
        return batch_of([self.prompts[r] for r in records], [[] for _ in records], records)

    def with_responses(self, record_M, response_MT, mask_MT):  # noqa: ANN001, ANN201
        """Prompts and responses."""
        batch = self.batch(record_M.tolist())
        batch.response_BT, batch.response_mask_BT = response_MT, mask_MT
        return batch

    def candidate_names(self, records: list[int]) -> list[list[str]]:
        """One name, which the reward does not look at."""
        return [["w2"] for _ in records]


class EvenWords:
    """Stands for a Scorer: the share of even tokens."""

    reduce = "mean"

    def to(self, device: torch.device) -> None:
        """Has nothing to move."""

    def score(self, response_BT: torch.Tensor, mask_BT: torch.Tensor, names: list) -> Scores:
        """The reward of each response."""
        even_BT = (response_BT % 2 == 0) * mask_BT
        none_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
        return Scores(even_BT.sum(1) / mask_BT.sum(1), none_BT[:, 0], none_BT)


class Clock(pl.Callback):
    """Seconds of each part of the iterations behind the first."""

    def __init__(self, module: PPOModule) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        for name in ("_generate", "_reference_log_probs", "score", "advantages", "training_step"):
            self._watch(module, name)

    def _watch(self, module: PPOModule, name: str) -> None:
        inner = getattr(module, name)

        def timed(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
            begin = clock()
            result = inner(*args, **kwargs)
            self.spent[name] += clock() - begin
            return result

        setattr(module, name, timed)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: PPOModule) -> None:
        """Starts anew behind the warm-up."""
        if trainer.current_epoch == 1:
            self.spent.clear()
            self.begin, self.wall = clock(), time.perf_counter()

    def on_before_backward(self, *_: object) -> None:
        """Starts the backward pass."""
        self._backward = clock()

    def on_after_backward(self, *_: object) -> None:
        """Ends it; DeepSpeed's reduction is part of it."""
        self.spent["backward"] += clock() - self._backward

    def on_train_end(self, trainer: pl.Trainer, module: PPOModule) -> None:
        """The whole."""
        self.total, self.wall_total = clock() - self.begin, time.perf_counter() - self.wall


def ours(algorithm: str, epochs: int, rollouts: int, precision: str) -> dict:
    """Samples a second of this project's own module, engine and loop."""
    hardware = HardwareConfig(precision=precision)
    start(hardware)
    group = 1 if algorithm == "ppo" else GROUP
    config = PPOConfig(
        algorithm=algorithm,
        samples_per_prompt=group,
        iterations=rollouts + 1,
        rollout_batch_size=SAMPLES,
        mini_batch_size=SAMPLES,
        epochs=epochs,
        lr=1e-5,
        kl_coef=0.05,
        kl_target=0.0,
    )
    module = PPOModule(config, tiny_explainer(), tiny_tokenizer(), EvenWords(), TokenPrompts(group), NEW, 0)
    watch = Clock(module)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": rollouts + 1, "gradient_clip_val": 1.0}
        trainer = make_trainer(ZeroConfig(stage=0), hardware, Path(folder), False, [watch], **options)
        trainer.fit(module)
    rate = SAMPLES * rollouts / watch.total
    parts = {name.strip("_"): round(value / rollouts, 3) for name, value in watch.spent.items()}
    parts["rest"] = round((watch.total - sum(watch.spent.values())) / rollouts, 3)
    return {"samples_per_s": rate, "s_a_rollout": parts, "wall_s_a_rollout": round(watch.wall_total / rollouts, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--ours", nargs=2, metavar=("ALGORITHM", "EPOCHS"))
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.ours[0], int(args.ours[1]), args.rollouts, args.precision)))
        return
    rollouts, unit = str(args.rollouts), "samples a second" if GPU else "samples a CPU second"
    for algorithm, epochs in (("ppo", 1), ("ppo", 4), ("grpo", 1)):
        last: dict = {}

        def mine(algorithm: str = algorithm, epochs: int = epochs, last: dict = last) -> float:
            options = ["--rollouts", rollouts, "--precision", args.precision]
            last |= run_json([sys.executable, __file__, "--ours", algorithm, str(epochs), *options])
            return last["samples_per_s"]

        def theirs(algorithm: str = algorithm, epochs: int = epochs) -> float:
            path = os.environ.get("TRL_PPO", "") if algorithm == "ppo" else ""
            options = ["--algo", algorithm, "--epochs", str(epochs), "--rollouts", rollouts]
            return peer("rlhf.py", *options, first_path=path, precision=args.precision)["samples_per_cpu_s"]

        figures = alternate({"llm2er": mine, "trl": theirs}, args.repeats)
        more = {"epochs": epochs, "precision": args.precision, "s_a_rollout": last["s_a_rollout"], "end_token": END}
        emit(algorithm, unit, figures, "llm2er", **more)


if __name__ == "__main__":
    main()
