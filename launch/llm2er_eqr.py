"""LLM2ER-EQR (AAAI 2024): a concept graph rates, a language model explains, two reward models drive PPO."""

from launch.system import Stage, System

LLM2ER_EQR = System(
    "LLM2ER-EQR",
    (
        Stage("rating", keys=("graph",)),
        Stage("explanation", needs=("rating",), keys=("prompt",)),
        Stage("ccr", needs=("rating",)),
        Stage("hqar", needs=("explanation",), splits=("train",)),  # validates on texts of train that it keeps back
        Stage("ppo", needs=("explanation", "ccr", "hqar"), length=("iterations", "eval_every")),
    ),
)
