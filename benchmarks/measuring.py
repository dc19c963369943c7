"""What the speed benchmarks share: a small random GPT-2, batches of given tokens, clocks, and peers in processes apart.

CPU seconds at one thread are compared, because machines are shared; on a GPU, seconds. Sides alternate (A B A B), each
measurement in a process of its own, and the best of each side counts.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from datamodules.prompts import ROWS_A_PART, TEXT, PromptBatch
from models.explainer import Explainer
from models.kernels import with_faster_kernels

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("LLM2ER_BENCH", ROOT.parent / "shared/bench"))  # the peers' scripts
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)  # of an environment with trl, transformers, torch_geometric
PAD, END, VOCABULARY = 0, 1, 8192
GPU = torch.cuda.is_available()


SIZES = {  # layers, width, heads, vocabulary
    "tiny": (4, 256, 4, VOCABULARY),  # the model of the peers' scripts
    "0.1b": (12, 768, 12, 50_257),
    "1b": (24, 2048, 16, 50_257),
}


def random_gpt2(size: str = "tiny", fused: bool = True, device: str = "cpu") -> GPT2LMHeadModel:
    """Without dropout; `fused` with this project's kernels."""
    layers, width, heads, vocabulary = SIZES[size]
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=256,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    with torch.device(device):
        lm = GPT2LMHeadModel(config)
    return with_faster_kernels(lm) if fused else lm


def tiny_explainer() -> Explainer:
    """An explainer on the smallest of them."""
    return Explainer(random_gpt2(), node_width=4)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: w2, w3, ..."""
    vocabulary = {"<pad>": PAD, "<eos>": END} | {f"w{i}": i for i in range(2, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def token_batch(prompts: list[list[int]], responses: list[list[int]], records: list[int], draw=None) -> PromptBatch:  # noqa: ANN001
    """A batch of given tokens, none of them soft."""
    width, length, rows = max(map(len, prompts)), max(map(len, responses)), len(prompts)
    return PromptBatch(
        prompt_BP=torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        slot_BP=torch.full((rows, width), TEXT),
        prompt_mask_BP=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        response_BT=torch.tensor([r + [PAD] * (length - len(r)) for r in responses], dtype=torch.long),
        response_mask_BT=torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in responses]),
        user_BD=torch.zeros(rows, 4),
        item_BD=torch.zeros(rows, 4),
        sentiment_B=torch.zeros(rows, dtype=torch.long),
        record_B=torch.tensor(records),
        weight_B=torch.ones(rows) if draw is None else torch.from_numpy(draw.weight_B),
        scale=1.0 if draw is None else draw.scale,
        parts=max(1, (rows if draw is None else draw.least) // ROWS_A_PART),
    )


def clock() -> float:
    """CPU seconds of this process, or seconds once the GPU is idle."""
    if GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def run_json(command: list[str], **environment: str) -> dict:
    """Runs a script and reads the JSON object that is the last line it prints."""
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer(script: str, *arguments: str, first_path: str = "", precision: str = "fp32") -> dict:
    """Runs a peer's script of `PEERS` with one thread."""
    environment = {"PYTHONPATH": first_path} if first_path else {}
    if precision == "bf16":  # as `accelerate launch --mixed_precision bf16` says it
        environment["ACCELERATE_MIXED_PRECISION"] = "bf16"
    return run_json([PEER_PYTHON, str(PEERS / script), "--threads", "1", *arguments], **environment)


def alternate(sides: dict, repeats: int) -> dict[str, list[float]]:
    """Calls each side's function in turn, `repeats` times; the figures of each."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            figures[name].append(measure())
    return figures


def emit(bench: str, unit: str, figures: dict[str, list[float]], ours: str, **more: object) -> None:
    """Prints the JSON line: all figures (more is better) and the ratios of our best to the best of each peer."""
    best = max(figures[ours])
    ratios = {name: round(best / max(values), 2) for name, values in figures.items() if name != ours and values}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "deepspeed")}
    device = torch.cuda.get_device_name() if GPU else "cpu, 1 thread"
    rounded = {name: [round(v, 3) for v in values] for name, values in figures.items()}
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps(
            {"bench": bench, "unit": unit, **rounded, "ratio": ratios, "device": device, "load": load}
            | {"versions": versions}
            | more
        )
    )
