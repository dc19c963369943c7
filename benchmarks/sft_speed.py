"""Fine-tuning against the Hugging Face Trainer and TRL: target tokens a CPU second at one thread.

    PEER_PYTHON=/path/to/python python benchmarks/sft_speed.py EXPLANATIONS.jsonl.gz [--repeats 2] [--steps 20]
                                                               [--precision bf16]

Lengths are those of real explanations (JSON lines with `sentence`), one token a word, behind
prompts of an instruction, three soft vectors and up to five concepts. Batches of 64 in random order, the same for all.
Beside it the peak of memory of each side. With `--ours` it measures this side alone.
"""

import argparse
import functools
import gzip
import json
import random
import resource
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytorch_lightning as pl
from measuring import END, PEER_PYTHON, VOCABULARY, alternate, clock, emit, run_json, tiny_explainer, tiny_tokenizer
from measuring import token_batch as batch_of

from datamodules.explanation import ExplanationData
from launch.engine import make_trainer, start
from launch.hardware import HardwareConfig, ZeroConfig
from lightning_modules.explanation import ExplanationConfig, ExplanationModule
from lightning_modules.fitting import FitConfig

BATCH, WARM_UP = 64, 5


def token_rows(file: str, count: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, response with end token) of explanations in random order; a word is a number."""
    draw, known = random.Random(0), {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["sentence"].split() for line in lines]
    draw.shuffle(texts)

    def number(word: str) -> int:
        return known.setdefault(word, 2 + len(known) % (VOCABULARY - 2))

    rows = []
    for words in (texts * (1 + count // len(texts)))[:count]:
        concepts = draw.randrange(3, 10)  # tokens of up to five candidate concepts with their commas
        prompt = [number(word) for word in ("explain", "the", "rating", ":", "user", "item", "sentiment")]
        rows.append((prompt + [draw.randrange(2, VOCABULARY) for _ in range(concepts)], [*map(number, words), END]))
    return rows


class Rows:
    """Stands for a PromptBuilder of given token lists."""

    def __init__(self, rows: list[tuple[list[int], list[int]]]) -> None:
        self.rows = rows
        split = np.arange(len(rows))
        self.corpus = SimpleNamespace(rows=lambda _: split, explanations=[""] * len(rows))

    def batch(self, records: list[int], texts: list[str], draw):  # noqa: ANN001, ANN201
        """The batch of rows."""
        return batch_of([self.rows[r][0] for r in records], [self.rows[r][1] for r in records], records, draw)


class Clock(pl.Callback):
    """Seconds behind the warm-up."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, out, batch, index: int) -> None:  # noqa: ANN001
        """Starts and stops."""
        if index == WARM_UP - 1:
            self.begin = clock()
        self.end = clock()


def ours(rows: list[tuple[list[int], list[int]]], steps: int, precision: str) -> dict:
    """Target tokens a second of this project's own module, data and engine."""
    hardware = HardwareConfig(precision=precision)
    start(hardware)
    config = ExplanationConfig(connector_epochs=0, fit=FitConfig(epochs=1, batch_size=BATCH))
    module = ExplanationModule(config, tiny_explainer(), tiny_tokenizer())
    watch, data = Clock(), ExplanationData(Rows(rows), BATCH, 1, 0)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_epochs": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0}
        make_trainer(ZeroConfig(stage=0), hardware, Path(folder), False, [watch], **options).fit(module, data)
    mean = sum(len(response) for _, response in rows) / len(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"target_tokens_per_cpu_s": mean * BATCH * steps / (watch.end - watch.begin), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("explanations")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--ours", action="store_true")
    args = parser.parse_args()
    rows = token_rows(args.explanations, (args.steps + WARM_UP) * BATCH)
    if args.ours:
        print(json.dumps(ours(rows, args.steps, args.precision)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(rows))
        options = ["--steps", str(args.steps), "--precision", args.precision, "--ours"]
        script = str(Path(__file__).with_name("sft_peer.py"))

        memory: dict[str, int] = {}

        def mine() -> float:
            found = run_json([sys.executable, __file__, args.explanations, *options])
            memory["llm2er"] = found["peak_mib"]
            return found["target_tokens_per_cpu_s"]

        def theirs(kind: str) -> float:
            found = run_json([PEER_PYTHON, script, str(file), kind, str(args.steps), str(BATCH), args.precision])
            memory[kind] = found["peak_mib"]
            return found["target_tokens_per_cpu_s"]

        peers = {kind: functools.partial(theirs, kind) for kind in ("hugging face", "trl")}
        figures = alternate({"llm2er": mine, **peers}, args.repeats)
    lengths = np.array([len(response) for _, response in rows])
    quantiles = dict(zip(("p10", "p50", "p90", "max"), np.quantile(lengths, [0.1, 0.5, 0.9, 1]).tolist(), strict=True))
    more = {"batch": BATCH, "precision": args.precision, "target_lengths": quantiles, "peak_mib": memory}
    emit("sft", "target tokens a CPU second", figures, "llm2er", **more)


if __name__ == "__main__":
    main()
