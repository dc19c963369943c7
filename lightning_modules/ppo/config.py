"""The settings of the reinforcement learning stage (methods A.5.7)."""

from dataclasses import dataclass, field

from metrics.errors import InputError


@dataclass(frozen=True)
class GuardConfig:
    """When PPO stops because it is going wrong."""

    max_kl: float = field(default=10.0, metadata={"help": "stop above this KL to the reference, a sequence"})
    max_distinct_1_drop: float = field(
        default=0.35, metadata={"help": "stop when Distinct-1 of the rollouts has fallen by this share (collapse)"}
    )
    min_end_rate: float = field(
        default=0.1, metadata={"help": "stop when fewer rollouts than this share end by themselves"}
    )


@dataclass(frozen=True)
class PPOConfig:
    """The reinforcement learning stage."""

    algorithm: str = field(
        default="ppo", metadata={"help": "ppo (value head), grpo or rloo (compare the samples of a prompt)"}
    )
    samples_per_prompt: int = field(default=1, metadata={"help": "responses sampled for each prompt of a rollout"})
    iterations: int = field(default=60, metadata={"help": "rollouts, each followed by its updates"})
    rollout_batch_size: int = field(default=128, metadata={"help": "samples a rollout, over all ranks"})
    epochs: int = field(default=4, metadata={"help": "passes over each rollout"})
    mini_batch_size: int = field(default=64, metadata={"help": "samples an optimizer step, over all ranks"})
    accumulate: int = field(default=1, metadata={"help": "micro-batches an optimizer step is cut into"})
    lr: float = field(default=1e-4, metadata={"help": "highest learning rate of the policy"})
    value_lr: float = field(default=1e-3, metadata={"help": "highest learning rate of the value head"})
    warmup: float = field(default=0.02, metadata={"help": "share of the steps in which the rate rises"})
    clip: float = field(default=1.0, metadata={"help": "gradient norm limit; 0 for none"})
    lambda_ccr: float = field(default=1.0, metadata={"help": "weight of the standardised concept-consistency reward"})
    lambda_hqar: float = field(default=1.0, metadata={"help": "weight of the standardised high-quality reward"})
    hqar_credit: str = field(default="sequence", metadata={"help": "sequence: paid at the end; token: at each token"})
    missing_end_penalty: float = field(
        default=1.0, metadata={"help": "taken off the reward of a text that does not end by itself"}
    )
    gamma: float = field(default=1.0, metadata={"help": "discount a token"})
    gae_lambda: float = field(default=0.95, metadata={"help": "lambda of generalised advantage estimation"})
    ratio_clip: float = field(default=0.2, metadata={"help": "the ratio is clipped to 1 +- this"})
    value_clip: float = field(default=0.2, metadata={"help": "new values stay within this of the rollout's"})
    value_coef: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    entropy_coef: float = field(default=0.0, metadata={"help": "weight of the entropy bonus"})
    sft_coef: float = field(
        default=0.0, metadata={"help": "weight of the cross-entropy of train explanations mixed in"}
    )
    kl_coef: float = field(default=0.2, metadata={"help": "first weight of the KL penalty to the reference"})
    kl_target: float = field(
        default=6.0, metadata={"help": "KL a sequence that the controller steers to; 0 keeps kl_coef"}
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "samples in which the controller corrects an error"})
    discriminator_every: int = field(
        default=1, metadata={"help": "update the discriminator each so many iterations; 0 keeps it as it is"}
    )
    discriminator_lr: float = field(default=2e-5, metadata={"help": "its learning rate"})
    eval_every: int = field(default=10, metadata={"help": "iterations between evaluations on held-out prompts"})
    eval_prompts: int = field(default=256, metadata={"help": "validation prompts evaluated"})
    max_distinct_2_drop: float = field(
        default=0.05, metadata={"help": "a policy whose held-out Distinct-2 fell by more than this share is not kept"}
    )
    guards: GuardConfig = field(default_factory=GuardConfig)
    init_from: str = field(default="", metadata={"help": "folder of a finished ppo stage to use instead of training"})

    def __post_init__(self) -> None:
        if self.mini_batch_size > self.rollout_batch_size or self.rollout_batch_size % self.mini_batch_size:
            raise InputError(
                f"ppo.mini_batch_size={self.mini_batch_size} does not divide "
                f"ppo.rollout_batch_size={self.rollout_batch_size}; choose a divisor"
            )
        if self.hqar_credit not in ("sequence", "token"):
            raise InputError(f"ppo.hqar_credit={self.hqar_credit}: use sequence or token")
        if self.lambda_ccr == 0 and self.lambda_hqar == 0:
            raise InputError("ppo.lambda_ccr=0 and ppo.lambda_hqar=0 leave no reward; set one of them above 0")
        for name in ("iterations", "samples_per_prompt", "epochs", "eval_every", "eval_prompts", "kl_horizon"):
            if getattr(self, name) < 1:
                raise InputError(f"ppo.{name}={getattr(self, name)}: must be at least 1")
        if self.algorithm not in ("ppo", "grpo", "rloo"):
            raise InputError(f"ppo.algorithm={self.algorithm}: use ppo, grpo or rloo")
        if self.algorithm != "ppo" and self.samples_per_prompt < 2:
            raise InputError(
                f"ppo.algorithm={self.algorithm} compares the samples of a prompt; "
                "set ppo.samples_per_prompt to 2 or more"
            )
        if self.algorithm != "ppo" and self.hqar_credit == "token":
            raise InputError(
                f"ppo.hqar_credit=token needs ppo.algorithm=ppo; {self.algorithm} pays whole sequences, "
                "use ppo.hqar_credit=sequence"
            )
        if self.rollout_batch_size % self.samples_per_prompt:
            raise InputError(
                f"ppo.samples_per_prompt={self.samples_per_prompt} does not divide "
                f"ppo.rollout_batch_size={self.rollout_batch_size}; choose a divisor"
            )
