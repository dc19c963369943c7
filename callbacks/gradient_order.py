"""Notices gradients that come in another order on another rank, before they are applied."""

import zlib
from array import array
from itertools import zip_longest

import pytorch_lightning as pl
import torch

from callbacks.guards import HarmfulUpdateError
from lightning_modules.collectives import gather_objects, max_over_ranks


class SameGradientOrder(pl.Callback):
    """Raises on every rank, before the update, when gradients came in another order on one rank than on another.

    ZeRO 1 and 2 fill their buckets with gradients as they come and add up the buckets: where a layer takes another way
    for a long batch than for a short one, a weight's gradient is added to a bias's without a word. ZeRO 3 sorts each
    bucket, but not what goes into the next one.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._came: list[int] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Watches every parameter that is trained."""
        trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._names = [name for name, _ in trained]
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, place=place: self._came.append(place))
            for place, (_, parameter) in enumerate(trained)
        ]

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: object) -> None:
        """One small exchange a backward pass."""
        came, self._came = self._came, []
        own = checksum(came)
        # The maxima over ranks are each other's opposites if all ranks have the same.
        both = torch.tensor([own, -own], dtype=torch.float64, device=module.device)
        most, least = max_over_ranks(both).tolist()
        if most != -least:
            raise HarmfulUpdateError(
                f"at step {trainer.global_step} {self._difference(came)}: unlike gradients were added up. Nothing was "
                "updated. Use zero.stage=0, which goes by name"
            )

    def _difference(self, came: list[int]) -> str:
        """The first one, in words; collective."""
        first, *others = gather_objects(came)
        for rank, other in enumerate(others, start=1):
            for ours, theirs in zip_longest(first, other):
                if ours != theirs:
                    here, there = ("none" if place is None else self._names[place] for place in (ours, theirs))
                    return f"rank {rank} has the gradient of {there} where rank 0 has that of {here}"
        raise AssertionError("checksums differ and the orders do not")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lets go of the parameters."""
        for hook in self._hooks:
            hook.remove()


def checksum(came: list[int]) -> int:
    """Of the parameters' numbers in the order in which their gradients came."""
    return zlib.crc32(array("i", came).tobytes())
