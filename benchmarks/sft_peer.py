"""Fine-tuning as the Hugging Face Trainer and TRL's SFTTrainer do it, on given token lists; run by sft_speed.py.

    PEER_PYTHON benchmarks/sft_peer.py ROWS.json "hugging face"|trl STEPS BATCH fp32|bf16

ROWS.json holds [[prompt ids, response ids], ...]. Prints CPU seconds, on a GPU seconds, behind five steps of warm-up.
Imports nothing of this project, so that it runs in the peers' environment.
"""

import json
import os
import resource
import sys
import tempfile
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback

WARM_UP = 5
GPU = torch.cuda.is_available()


def now() -> float:
    """CPU seconds of this process, or seconds once the GPU is idle."""
    if GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(TrainerCallback):
    """Seconds behind the warm-up."""

    def on_step_end(self, args, state, control, **_) -> None:  # noqa: ANN001, ANN003
        """Starts and stops."""
        if state.global_step == WARM_UP:
            self.begin = now()
        self.end = now()


def main() -> None:
    file, kind, steps, batch, precision = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with open(file) as lines:
        rows = json.load(lines)[: (steps + WARM_UP) * batch]
    sizes = {"vocab_size": 8192, "n_positions": 256, "n_embd": 256, "n_layer": 4, "n_head": 4}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 0, "eos_token_id": 1}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **none))
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, 8192)}, unk_token="w2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
    data = {"input_ids": [prompt + response for prompt, response in rows]}
    shared = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps + WARM_UP,
        "per_device_train_batch_size": batch,
        "use_cpu": not GPU,
        "bf16": precision == "bf16",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    clock = Clock()
    if kind == "hugging face":
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        data["labels"] = [[-100] * len(prompt) + response for prompt, response in rows]
        collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
        arguments = TrainingArguments(**shared)
        rows_of = Dataset.from_dict(data)
        trainer = Trainer(model, arguments, train_dataset=rows_of, data_collator=collator, callbacks=[clock])
    else:
        from trl import SFTConfig, SFTTrainer

        data["completion_mask"] = [[0] * len(prompt) + [1] * len(response) for prompt, response in rows]
        arguments = SFTConfig(max_length=256, packing=False, completion_only_loss=True, **shared)
        rows_of = Dataset.from_dict(data)
        trainer = SFTTrainer(model, arguments, train_dataset=rows_of, processing_class=tokenizer, callbacks=[clock])
    trainer.train()
    mean = sum(len(response) for _, response in rows) / len(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = mean * batch * steps / (clock.end - clock.begin)
    print(json.dumps({"target_tokens_per_cpu_s": rate, "peak_mib": round(peak)}))


if __name__ == "__main__":
    main()
