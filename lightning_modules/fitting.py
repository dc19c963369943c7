"""What the stages share: how long, how fast and in which batches a network is fitted."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from metrics.errors import InputError


@dataclass(frozen=True)
class FitConfig:
    """The optimisation of one stage (AdamW, linear warm-up, then linear decay to a tenth)."""

    epochs: int = field(default=10, metadata={"help": "most epochs"})
    patience: int = field(default=5, metadata={"help": "stop after so many epochs without a better validation"})
    batch_size: int = field(default=128, metadata={"help": "records in an optimizer step, over all ranks"})
    accumulate: int = field(default=1, metadata={"help": "micro-batches an optimizer step is cut into"})
    lr: float = field(default=1e-3, metadata={"help": "highest learning rate"})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's decoupled weight decay"})
    warmup: float = field(default=0.05, metadata={"help": "share of the steps in which the rate rises"})
    clip: float = field(default=1.0, metadata={"help": "gradient norm limit; 0 for none"})

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup={self.warmup}: must be in [0, 1)")


def warm_then_linear(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: up from 0 over the warm-up, then down to 0.1."""
    rise = max(1, round(total_steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return max(0.1, 1.0 - 0.9 * (step - rise) / max(1, total_steps - rise))

    return factor


def adamw(groups: list[dict], factors: list[Callable[[int], float]], weight_decay: float) -> dict:
    """Optimizer and per-step schedule in Lightning's form; one optimizer, as DeepSpeed takes no more.

    Each group gives its highest rate as `lr`; `factors` holds the schedule of each.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def one_group(module: nn.Module, fit: FitConfig, total_steps: int) -> dict:
    """AdamW on all that learns in `module`, with warm-up and linear decay."""
    group = {"params": trainable(module), "lr": fit.lr}
    return adamw([group], [warm_then_linear(total_steps, fit.warmup)], fit.weight_decay)


@contextlib.contextmanager
def in_fixed_order() -> Iterator[None]:
    """For a backward pass: inside, attention on a GPU sums up in one order where deterministic algorithms are on.

    Its kernels do so only where an algorithm without an order is an error, which would refuse forward passes for less.
    """
    wished = torch.cuda.is_available() and torch.is_deterministic_algorithms_warn_only_enabled()
    if wished:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if wished:
            torch.use_deterministic_algorithms(True, warn_only=True)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for p in module.parameters() if p.requires_grad]
