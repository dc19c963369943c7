"""Rollouts and updates of a small policy under ZeRO, printed as JSON; started by torchrun, or alone on a GPU.

    ppo_probe.py OUT ZERO_STAGE [ZERO_STAGE ...]

The end of each text is scripted: those of the first half of the samples end at once and the others never do, so that of
two ranks one is finished while the other has all its steps before it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from toy_reward import LENGTH, Prompts, Rewards, even, policy, tokenizer  # noqa: E402

from launch.engine import make_trainer, start  # noqa: E402
from launch.hardware import HardwareConfig, ZeroConfig  # noqa: E402
from lightning_modules.collectives import part, sum_over_ranks, world  # noqa: E402
from lightning_modules.ppo import module as ppo_module  # noqa: E402
from lightning_modules.ppo.config import PPOConfig  # noqa: E402
from models.language_model import LoraConfig, with_adapters  # noqa: E402

SAMPLES = 8
HARDWARE = HardwareConfig(accelerator=os.environ.get("PROBE_ACCELERATOR", "cpu"))
CASES = {"ppo": ("ppo", 1, 0), "grpo": ("grpo", 4, 0), "rloo": ("rloo", 4, 0), "adapters": ("ppo", 2, 2)}


def scripted(seed, iteration, records, length, samples=None):  # noqa: ANN001, ANN201
    """At 0 the first entry of the vocabulary is chosen, which is the end token."""
    drawn = ORIGINAL(seed, iteration, records, length, samples).clamp(min=0.3)
    half = SAMPLES // 2 // (1 + max(samples))  # records in the first half
    drawn[[record < half for record in records], 0] = 0.0
    return drawn


ORIGINAL = ppo_module.uniforms


class Watch(pl.Callback):
    """Losses over all ranks, and how far the first update's log-probabilities are from the rollout's."""

    def __init__(self, module: ppo_module.PPOModule) -> None:
        self.losses, self.gap, self.texts = [], 0.0, None
        inner = module.rollout

        def rollout(iteration):  # noqa: ANN001, ANN202
            made = inner(iteration)
            self.texts = self.texts or made.response_BT.tolist()
            self.lengths = made.mask_BT.sum(1).tolist()
            return made

        module.rollout = rollout

    def on_train_batch_start(self, trainer, module, batch, index) -> None:  # noqa: ANN001
        """Every rank takes part in the reading; only the policy that sampled is compared."""
        with torch.no_grad():
            reading, _ = module(batch.prompts)
        if batch.first:
            gap_MT = (reading.log_prob_BT - batch.old_log_prob_MT) * batch.prompts.response_mask_BT
            self.gap = max(self.gap, float(gap_MT.abs().max()))

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # noqa: ANN001
        """Mean over ranks."""
        self.losses.append(float(sum_over_ranks(outputs["loss"].double()) / world()[1]))


def run(stage: int, algorithm: str, samples: int, rank: int) -> dict:
    """Three iterations, two passes each."""
    options = {"iterations": 3, "rollout_batch_size": SAMPLES, "mini_batch_size": 4, "epochs": 2, "lr": 1e-3}
    config = PPOConfig(algorithm=algorithm, samples_per_prompt=samples, kl_target=0.0, **options)
    explainer = policy(seed=3)
    torch.manual_seed(4)
    explainer.lm = with_adapters(explainer.lm, LoraConfig(rank=rank, dropout=0.0))
    parts = (tokenizer(), Rewards(even), Prompts(SAMPLES, samples))
    module = ppo_module.PPOModule(config, explainer, *parts, LENGTH, seed=5)
    watch = Watch(module)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(ZeroConfig(stage=stage), HARDWARE, Path(folder), False, [watch], max_epochs=3).fit(module)
    return {"losses": watch.losses, "gap": watch.gap, "texts": watch.texts, "lengths": watch.lengths}


def main() -> None:
    out, *stages = sys.argv[1:]
    start(HARDWARE)
    ppo_module.uniforms = scripted
    found = {stage: {name: run(int(stage), *case) for name, case in CASES.items()} for stage in stages}
    Path(out, f"{world()[0]}.json").write_text(json.dumps(found))
    part()


if __name__ == "__main__":
    main()
