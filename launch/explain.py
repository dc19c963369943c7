"""Explain (user, item) pairs with a finished run: text, predicted rating, concepts with the paths behind them.

python launch/explain.py run=runs/mine user=A195EZSQDW3E21 item=B000068NW5
python launch/explain.py run=runs/mine pairs=pairs.jsonl json=true > explained.jsonl
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers

from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.graph import build_graph
from datamodules.predictions import predictions
from datamodules.prompts import PromptBuilder
from launch.config import command, load
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from lightning_modules.rating import infer_evidence, load_rating_model
from metrics.errors import InputError
from models.explainer import load_explainer
from models.generation import generate
from models.language_model import load_tokenizer

BATCH = 64


@dataclass(frozen=True)
class ExplainConfig:
    """What to explain, and by which run."""

    run: str = field(default="???", metadata={"help": "folder of a finished run"})
    user: str = field(default="", metadata={"help": "original user id"})
    item: str = field(default="", metadata={"help": "original item id"})
    pairs: str = field(default="", metadata={"help": "JSON lines of {user, item} to explain instead"})
    stage: str = field(default="ppo", metadata={"help": "ppo explains by LLM2ER-EQR, explanation by LLM2ER"})
    json: bool = field(default=False, metadata={"help": "print one JSON object a pair"})

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.user or self.item) or bool(self.user) != bool(self.item):
            raise InputError("give user=ID and item=ID, or pairs=FILE")
        if self.stage not in ("ppo", "explanation"):
            raise InputError(f"stage={self.stage}: use ppo or explanation")


def main(config: ExplainConfig) -> None:
    """Explains and prints."""
    transformers.utils.logging.disable_progress_bar()
    for row in explain(Path(config.run), wanted_pairs(config), config.stage):
        print(json.dumps(row, ensure_ascii=False) if config.json else as_text(row))


def wanted_pairs(config: ExplainConfig) -> list[tuple[str, str]]:
    """The (user, item) pairs that are asked for, as original ids."""
    if not config.pairs:
        return [(config.user, config.item)]
    if not Path(config.pairs).is_file():
        raise InputError(f"pairs={config.pairs}: no such file")
    pairs = []
    for number, line in enumerate(Path(config.pairs).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            pairs.append((str(row["user"]), str(row["item"])))
        except (ValueError, KeyError, TypeError):
            raise InputError(f'{config.pairs}:{number}: expected {{"user": ..., "item": ...}}') from None
    return pairs


def explain(run: Path, pairs: list[tuple[str, str]], stage: str) -> list[dict]:
    """Prediction records of pairs; `rating` and `reference` are those of the corpus where it knows the pair.

    A pair that is a train record is explained from the graph without its own fold, as in training.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(f"run={run}: no config.yaml there; give the folder of a run of launch/train.py")
    config, _ = load(TrainConfig, [str(run / "config.yaml"), f"run_dir={run}"])
    corpus = Corpus.load(config.data.path or run / "data")
    folder = RunFolder(config)
    folder.corpus = corpus.manifest["files"]["records.parquet"]
    asked, evidence = _evidence_of(config, corpus, folder, pairs, stage)
    source = folder.need(stage, "explain")
    tokenizer, explainer = load_tokenizer(str(source / "lm")), load_explainer(source).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    explainer.to(device)
    builder, texts = PromptBuilder(asked, evidence, tokenizer, config.prompt), {}
    for start in range(0, len(pairs), BATCH):
        batch = builder.batch(list(range(start, min(start + BATCH, len(pairs)))), None)
        parts = (batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B)
        with torch.no_grad():
            prompt_BPW = explainer.embed_prompt(*(part.to(device) for part in parts))
        end, fill = tokenizer.eos_token_id, tokenizer.pad_token_id
        mask_BP, length = batch.prompt_mask_BP.to(device), config.prompt.max_new_tokens
        response_BT, _ = generate(explainer.lm, prompt_BPW, mask_BP, end, fill, length, None)
        decoded = tokenizer.batch_decode(response_BT, skip_special_tokens=True)
        texts |= {row: " ".join(text.split()) for row, text in zip(batch.record_B.tolist(), decoded, strict=True)}
    return predictions(asked, evidence, texts)


def _evidence_of(
    config: TrainConfig, corpus: Corpus, folder: RunFolder, pairs: list[tuple[str, str]], stage: str
) -> tuple[Corpus, Evidence]:
    """A corpus whose records are the asked pairs, and the evidence for them."""
    users = _indices([user for user, _ in pairs], corpus.users, "user", corpus.path)
    items = _indices([item for _, item in pairs], corpus.items, "item", corpus.path)
    rating = folder.need("rating", stage)
    graph = build_graph(corpus, config.graph)
    model = load_rating_model(rating, graph)
    known = {(int(u), int(v)): r for r, (u, v) in enumerate(zip(corpus.user_R, corpus.item_R, strict=True))}
    rows = [known.get(pair) for pair in zip(users.tolist(), items.tolist(), strict=True)]
    asked = replace(
        corpus,
        user_R=users,
        item_R=items,
        rating_R=np.array([np.nan if r is None else corpus.rating_R[r] for r in rows], dtype=np.float32),
        split_R=np.full(len(pairs), 2, dtype=np.int8),
        explanations=["" if r is None else corpus.explanations[r] for r in rows],
        mentions=[[] if r is None else corpus.mentions[r] for r in rows],
    )
    fresh = infer_evidence(model, graph, asked, np.zeros(len(pairs), dtype=np.int16), config.graph, config.seed)
    return asked, fresh.with_rows_of(Evidence.load(rating / "evidence.safetensors"), rows)


def _indices(ids: list[str], known: list[str], kind: str, path: Path) -> np.ndarray:
    index = {original: i for i, original in enumerate(known)}
    unknown = [original for original in ids if original not in index]
    if unknown:
        raise InputError(
            f"{kind} {unknown[0]!r} is not in {path}; the model knows only the users and items of its own corpus"
        )
    return np.array([index[original] for original in ids], dtype=np.int32)


def as_text(row: dict) -> str:
    """A prediction for a person."""
    lines = [f"user {row['user']}, item {row['item']}", f"  {row['explanation']}"]
    lines.append(f"  predicted rating {row['predicted_rating']:.2f}")
    for concept in row["concepts"]:
        sign = {1: "+", -1: "-", 0: " "}[concept["polarity"]]
        path = " - ".join(concept["path"])
        lines.append(f"  {sign} {concept['concept']:<20} {concept['score']:.4f}  {concept['kind']:<9} {path}")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main, ExplainConfig, __doc__)
