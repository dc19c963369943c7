"""The peers of gpu_speed.py, each in a process of its own: the Hugging Face Trainer and TRL 1.12's PPO, in bf16.

gpu_speed.py runs it: `gpu_peer.py sft SIZE ROWS FILE` or `gpu_peer.py ppo SIZE SAMPLES ROLLOUTS`. The last line printed
is a JSON object.
"""

import json
import os
import random
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from measuring import random_gpt2, tiny_tokenizer
from sft_peer import WARM_UP, Clock, now
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

PROMPT, NEW, KL = 32, 20, 0.05
QUIET = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "bf16": True}


def sft(size: str, rows: int, file: str) -> dict:
    """Target tokens a second of the Hugging Face Trainer with its padding collator."""
    with open(file) as lines:
        given = json.load(lines)
    data = {
        "input_ids": [prompt + response for prompt, response in given],
        "labels": [[-100] * len(prompt) + response for prompt, response in given],
    }
    steps = len(given) // rows
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=rows,
        dataloader_num_workers=4,
        **QUIET,
    )
    clock, collator = Clock(), DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)
    model = random_gpt2(size, False, "cuda")
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict(data), data_collator=collator)
    trainer.add_callback(clock)
    trainer.train()
    tokens = sum(len(response) for _, response in given) / len(given) * rows * (steps - WARM_UP)
    return {"target_tokens_a_second": tokens / (clock.end - clock.begin)}


class Reward(torch.nn.Module):
    """TRL's reward model: the last token's evenness, which costs nothing."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Ids()

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """As a head would."""
        return hidden


class Ids(torch.nn.Module):
    """A trunk whose hidden states are the tokens' evenness."""

    def forward(self, input_ids, **_):  # noqa: ANN001, ANN003, ANN201
        """As transformers' models answer."""
        from types import SimpleNamespace

        return SimpleNamespace(hidden_states=[(input_ids % 2 == 0).float().unsqueeze(-1)])


def ppo(size: str, samples: int, rollouts: int) -> dict:
    """Samples a second of TRL's PPO behind the first rollout; its value model is of the policy's size."""
    from transformers import GPT2ForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    policy, reference = random_gpt2(size, False, "cuda"), random_gpt2(size, False, "cuda")
    policy.config.num_labels = 1
    with policy.device:
        value = GPT2ForSequenceClassification(policy.config)
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=samples,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=samples * (rollouts + 1),
        local_rollout_forward_batch_size=samples,
        response_length=NEW,
        num_sample_generations=0,
        kl_coef=KL,
        temperature=1.0,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        stop_token="eos",
        **QUIET,
    )
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 8192) for _ in range(PROMPT)] for _ in range(samples * (rollouts + 2))]
    trainer = PPOTrainer(
        args=config,
        processing_class=tiny_tokenizer(),
        model=policy,
        ref_model=reference,
        reward_model=Reward(),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )
    begins, sample = [], ppo_trainer.batch_generation

    def counted(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
        begins.append(now())
        return sample(*args, **kwargs)

    ppo_trainer.batch_generation = counted
    trainer.train()
    return {"samples_a_second": samples * (len(begins) - 1) / (now() - begins[1])}


if __name__ == "__main__":
    work, size, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.manual_seed(0)
    print(json.dumps(sft(size, rows, sys.argv[4]) if work == "sft" else ppo(size, rows, int(sys.argv[4]))))
