"""The config of `launch/train.py`: every key of a run."""

from dataclasses import dataclass, field

from callbacks.checkpoints import CheckpointConfig
from datamodules.graph import GraphConfig
from datamodules.prompts import PromptConfig
from launch.hardware import HardwareConfig, ZeroConfig
from launch.llm2er_eqr import LLM2ER_EQR
from lightning_modules.ccr import CCRConfig
from lightning_modules.explanation import ExplanationConfig
from lightning_modules.hqar import HQARConfig
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.rating import RatingConfig
from metrics.errors import InputError

STAGES = (*LLM2ER_EQR.names, "result")


@dataclass(frozen=True)
class DataConfig:
    """The corpus of a run."""

    path: str = field(
        default="", metadata={"help": "corpus folder made by launch/prepare.py; empty makes the embedded synthetic one"}
    )
    workers: int = field(
        default=0, metadata={"help": "processes a rank that build batches ahead; 0: each rank builds its own"}
    )
    embedded_users: int = field(default=300, metadata={"help": "users of the embedded corpus"})
    embedded_items: int = field(default=120, metadata={"help": "items of the embedded corpus"})


@dataclass(frozen=True)
class ResultConfig:
    """How the finished systems are judged."""

    batch_size: int = field(default=64, metadata={"help": "prompts a rank generates for at a time"})
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples behind each interval"})
    examples: int = field(default=10, metadata={"help": "explanations printed at the end"})


@dataclass(frozen=True)
class TrainConfig:
    """A run of LLM2ER-EQR."""

    run_dir: str = field(default="runs/llm2er_eqr", metadata={"help": "folder of the run; a finished stage is skipped"})
    stage: str = field(default="all", metadata={"help": f"all, or one of {', '.join(STAGES)}"})
    seed: int = field(default=7, metadata={"help": "of everything random"})
    resume: str = field(
        default="auto",
        metadata={"help": "auto: unfinished stages go on from their newest checkpoint; none; or a checkpoint's folder"},
    )
    logger: str = field(default="csv", metadata={"help": "csv, wandb (and csv) or none"})
    wandb_project: str = field(default="llm2er", metadata={"help": "W&B project"})
    print_config: bool = field(default=False, metadata={"help": "print the merged config and its sources, and stop"})
    dry_run: bool = field(default=False, metadata={"help": "print parameters, memory and steps, and stop"})
    loss_spike: float = field(
        default=0.0,
        metadata={
            "help": "stop when a loss (PPO: a gradient's norm) is this many times the median of the last 50; 0: never"
        },
    )
    convert: str = field(
        default="", metadata={"help": "a checkpoint to write anew for world_size ranks into out; nothing is trained"}
    )
    world_size: int = field(default=0, metadata={"help": "ranks of the converted checkpoint"})
    out: str = field(default="", metadata={"help": "folder of the converted checkpoint"})
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    data: DataConfig = field(default_factory=DataConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    rating: RatingConfig = field(default_factory=RatingConfig)
    explanation: ExplanationConfig = field(default_factory=ExplanationConfig)
    ccr: CCRConfig = field(default_factory=CCRConfig)
    hqar: HQARConfig = field(default_factory=HQARConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    result: ResultConfig = field(default_factory=ResultConfig)

    def __post_init__(self) -> None:
        if self.stage not in ("all", *STAGES):
            raise InputError(f"stage={self.stage}: use all, {', '.join(STAGES)}")
        if self.loss_spike != 0 and self.loss_spike <= 1:
            raise InputError(f"loss_spike={self.loss_spike:g}: give 0 (never stop) or a number above 1, such as 10")
        if self.logger not in ("csv", "wandb", "none"):
            raise InputError(f"logger={self.logger}: use csv, wandb or none")
