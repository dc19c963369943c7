"""Where a run computes and what is sharded over its ranks; readable without DeepSpeed, which imports for seconds."""

from dataclasses import dataclass, field

from metrics.errors import InputError


@dataclass(frozen=True)
class ZeroConfig:
    """What DeepSpeed shards over the ranks."""

    stage: int = field(default=2, metadata={"help": "0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters"})
    offload_optimizer: bool = field(default=False, metadata={"help": "keep the optimizer state in host memory (GPU)"})
    offload_param: bool = field(default=False, metadata={"help": "keep parameters in host memory (GPU, stage 3)"})

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise InputError(f"zero.stage={self.stage}: use 0, 1, 2 or 3")
        if self.offload_param and self.stage != 3:
            raise InputError(f"zero.offload_param=true needs zero.stage=3, not zero.stage={self.stage}")
        if self.offload_optimizer and self.stage == 0:
            raise InputError("zero.offload_optimizer=true needs zero.stage=1, 2 or 3, not zero.stage=0")


@dataclass(frozen=True)
class HardwareConfig:
    """Where a run computes."""

    accelerator: str = field(default="auto", metadata={"help": "auto, cpu or gpu"})
    hang_timeout: float = field(
        default=1800.0,
        metadata={"help": "seconds without a batch after which a job ends, with every rank's stack; 0: never"},
    )
    precision: str = field(default="fp32", metadata={"help": "fp32, or bf16 (mixed: float32 master weights)"})

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise InputError(f"hardware.accelerator={self.accelerator}: use auto, cpu or gpu")
        if self.hang_timeout < 0:
            raise InputError(f"hardware.hang_timeout={self.hang_timeout:g}: must not be negative")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"hardware.precision={self.precision}: use fp32 or bf16")


def use_cpu(hardware: HardwareConfig) -> bool:
    """Whether the run computes on CPU."""
    import torch

    return hardware.accelerator == "cpu" or (hardware.accelerator == "auto" and not torch.cuda.is_available())
