"""Keeps the discriminator up to date during PPO, as in a GAN (methods A.5.6).

It has its own optimizer and its own all-reduce, because DeepSpeed takes one optimizer an engine. B samples, T tokens.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.quality import pad
from lightning_modules.collectives import sum_over_ranks, world
from lightning_modules.fitting import in_fixed_order
from lightning_modules.ppo.rollout import Rollout
from models.discriminator import Discriminator, discriminator_loss

TOO_GOOD = 0.9  # token accuracy above which the discriminator rests: it would leave the policy no gradient


class Adversary:
    """One discriminator step on a rollout against as many texts of the high-quality set."""

    def __init__(
        self, discriminator: Discriminator, real: list[list[int]], fill: int, smoothing: float, lr: float, seed: int
    ) -> None:
        self.discriminator, self.real, self.fill = discriminator, real, fill
        self.smoothing, self.seed = smoothing, seed
        self.optimizer = torch.optim.AdamW(discriminator.parameters(), lr=lr, weight_decay=0.0)

    def state(self) -> dict:
        """For a checkpoint: weights and optimizer, which are the same on every rank."""
        return {"weights": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        """The inverse of `state`; the discriminator must be on its device already."""
        self.discriminator.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    def update(self, rollout: Rollout, iteration: int) -> dict[str, float]:
        """Learns from this rank's share of the rollout; returns loss and token accuracy over all ranks."""
        rank, ranks = world()
        device = next(self.discriminator.parameters()).device
        drawn = np.random.Generator(np.random.Philox(key=[self.seed, iteration], counter=[0, 0, 1, 0]))
        real_BT, real_mask_BT = pad(
            [self.real[i] for i in drawn.integers(len(self.real), size=len(rollout))], self.fill
        )
        share = torch.arange(len(rollout)).tensor_split(ranks)[rank]
        loss, right, tokens = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for texts, masks, label in ((real_BT, real_mask_BT, 1.0), (rollout.response_BT, rollout.mask_BT, 0.0)):
            text_MT, mask_MT = texts[share].to(device), masks[share].to(device)
            logits_MT = self.discriminator(text_MT, mask_MT)
            label_M = torch.full((len(share),), label, device=device)
            loss = loss + discriminator_loss(logits_MT, mask_MT, label_M, self.smoothing).sum() / (2 * len(rollout))
            right = right + (((logits_MT > 0) == (label > 0.5)) * mask_MT).sum()
            tokens = tokens + mask_MT.sum()
        return self._step_if_needed(loss, torch.stack([loss.detach(), right, tokens]))

    def _step_if_needed(self, loss: Tensor, sums: Tensor) -> dict[str, float]:
        total, right, tokens = sum_over_ranks(sums.float()).tolist()
        accuracy = right / max(tokens, 1)
        if accuracy <= TOO_GOOD:
            self.optimizer.zero_grad()
            with in_fixed_order():
                loss.backward()
            for parameter in self.discriminator.parameters():
                if world()[1] > 1 and parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
            self.optimizer.step()
        return {"discriminator/loss": total, "discriminator/token_accuracy": accuracy}
