"""Score a predictions file.

    python launch/evaluate.py predictions=runs/NAME/predictions.jsonl [data.path=CORPUS] [json=true]

Prints a table, or with json=true one flat JSON object. The corpus, from whose train split the concept metrics know the
concepts of users and items, is the one of the run that the file lies in, unless data.path names another.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from datamodules.corpus import Corpus
from launch.config import command
from metrics.errors import InputError
from metrics.suite import ConceptKnowledge, evaluate, format_table, read_predictions


@dataclass(frozen=True)
class DataConfig:
    """Where the corpus lies."""

    path: str = field(default="", metadata={"help": "corpus folder; empty: that of the run the predictions lie in"})


@dataclass(frozen=True)
class EvaluateConfig:
    """What to score and how to print it."""

    predictions: str = field(default=MISSING, metadata={"help": "predictions file (JSON lines) to score"})
    data: DataConfig = field(default_factory=DataConfig)
    json: bool = field(default=False, metadata={"help": "print one flat JSON object instead of a table"})
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples; 0: no intervals"})
    seed: int = field(default=0, metadata={"help": "seed of the bootstrap"})

    def __post_init__(self) -> None:
        """A count and a seed cannot be negative."""
        for name, value in (("resamples", self.resamples), ("seed", self.seed)):
            if value < 0:
                raise InputError(f"{name}={value} must not be negative")


def train_knowledge(corpus: Corpus) -> ConceptKnowledge:
    """The concepts that train records mention, of each user and item; nothing of valid or test enters."""
    rows = corpus.rows("train").tolist()
    seen = sorted({mention.concept for row in rows for mention in corpus.mentions[row]})
    index = {concept: position for position, concept in enumerate(seen)}
    user_concepts: list[set[int]] = [set() for _ in corpus.users]
    item_concepts: list[set[int]] = [set() for _ in corpus.items]
    for row in rows:
        concepts = {index[mention.concept] for mention in corpus.mentions[row]}
        user_concepts[corpus.user_R[row]] |= concepts
        item_concepts[corpus.item_R[row]] |= concepts
    names = [corpus.concepts[concept] for concept in seen]
    return ConceptKnowledge(names, user_concepts, item_concepts, corpus.rating_min, corpus.rating_max)


def corpus_of_run(predictions: Path) -> Path | None:
    """`data.path` of the nearest config.yaml above a predictions file; None where there is none.

    A run that names no corpus has made the embedded one in its own folder `data`.
    """
    config = next((file for up in predictions.resolve().parents if (file := up / "config.yaml").is_file()), None)
    if config is None:
        return None
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{config} cannot be read ({reason}); mend it or give data.path=CORPUS.") from None
    data = tree.get("data") if isinstance(tree, Mapping) else None
    path = data.get("path") if isinstance(data, Mapping) else None
    if not path:
        embedded = config.parent / "data"
        return embedded if embedded.is_dir() else None
    if not Path(path).is_dir():
        raise InputError(f"{config}: data.path={path} is no folder seen from here; give data.path=CORPUS.")
    return Path(path)


def with_indices(predictions: list[dict[str, Any]], corpus: Corpus) -> list[dict[str, Any]]:
    """The predictions with `user_index` and `item_index` looked up from their original ids."""
    indices = {
        key: {original: index for index, original in enumerate(ids)}
        for key, ids in (("user", corpus.users), ("item", corpus.items))
    }
    completed = []
    for place, prediction in enumerate(predictions):
        found = {}
        for key, index in indices.items():
            original = prediction.get(key)
            if original is not None and str(original) not in index:
                raise InputError(
                    f"{key} {original!r} of prediction {prediction.get('record', place)} is not in {corpus.path}; "
                    "give the corpus of the run with data.path=CORPUS."
                )
            if original is not None:
                found[f"{key}_index"] = index[str(original)]
        completed.append(prediction | found)
    return completed


def main(cfg: EvaluateConfig) -> None:
    """Reads, scores, prints."""
    predictions = read_predictions(cfg.predictions)
    path = Path(cfg.data.path) if cfg.data.path else corpus_of_run(Path(cfg.predictions))
    knowledge = None
    if path is not None:
        corpus = Corpus.load(path)
        predictions, knowledge = with_indices(predictions, corpus), train_knowledge(corpus)
    scores = evaluate(predictions, knowledge, cfg.resamples, cfg.seed)
    if cfg.json:
        print(json.dumps(scores))
        return
    print(format_table({cfg.predictions: scores}))
    for reason in scores["skipped"]:
        print(f"skipped {reason}")


if __name__ == "__main__":
    command(main, EvaluateConfig, __doc__)
