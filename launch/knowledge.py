"""What the metrics know beside the predictions: what the train split of a corpus says, or a list of concepts."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from datamodules.corpus import Corpus
from metrics.columns import ABSENT_INDEX, Predictions
from metrics.errors import InputError
from metrics.measures import ConceptKnowledge
from metrics.rating import fit_bias
from metrics.sentiment import fit_polarity

BIAS_REG = 5.0  # records by which a user's or item's bias is drawn to 0


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


def full_knowledge(corpus: Corpus) -> ConceptKnowledge:
    """The same, with all that only a final evaluation asks for: baselines, polarity of words, counts, all concepts."""
    rows, rating_R = corpus.rows("train"), corpus.rating_R.astype(np.float64)
    rated = rows[np.isfinite(rating_R[rows])]
    sizes = len(corpus.users), len(corpus.items)
    middle = (corpus.rating_min + corpus.rating_max) / 2
    texts = [corpus.explanations[row] for row in rated.tolist()]
    return replace(
        train_knowledge(corpus),
        all_concepts=list(corpus.concepts),
        bias=fit_bias(corpus.user_R[rated], corpus.item_R[rated], rating_R[rated], *sizes, BIAS_REG)
        if len(rated)
        else None,
        polarity=fit_polarity(texts, rating_R[rated].tolist(), middle),
        user_records=np.bincount(corpus.user_R[rows], minlength=sizes[0]),
        item_records=np.bincount(corpus.item_R[rows], minlength=sizes[1]),
    )


def listed_knowledge(vocabulary: str, rating_range: list[float]) -> ConceptKnowledge:
    """Without a corpus: the concepts of a file, one a line, and a range of ratings."""
    concepts: list[str] = []
    if vocabulary:
        try:
            lines = Path(vocabulary).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"vocabulary={vocabulary} cannot be read ({error}); give a text file, one concept a line."
            ) from None
        concepts = sorted({line.strip() for line in lines if line.strip()})
        if not concepts:
            raise InputError(f"vocabulary={vocabulary} holds no concepts; write one a line.")
    low, high = rating_range
    return ConceptKnowledge(concepts, None, None, low, high, all_concepts=concepts or None)


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


def with_indices(predictions: Predictions, corpus: Corpus) -> Predictions:
    """The predictions with `user_index` and `item_index` looked up from their original ids, where these are given."""
    numbers = dict(predictions.numbers)
    for key, known in (("user", corpus.users), ("item", corpus.items)):
        ids, index = predictions.ids[key], {original: index for index, original in enumerate(known)}
        index_V = np.array([index.get(str(original), ABSENT_INDEX) for original in ids.values], dtype=np.int64)
        given_N = ids.place_N >= 0
        found_N = index_V[ids.place_N[given_N]]
        if (unknown := np.flatnonzero(found_N == ABSENT_INDEX)).size:
            place = int(np.flatnonzero(given_N)[unknown[0]])
            record = next(islice(predictions.ids["record"].told(), place, None))
            raise InputError(
                f"{key} {ids.values[ids.place_N[place]]!r} of prediction {place if record is None else record} is not "
                f"in {corpus.path}; give the corpus of the run with data.path=CORPUS."
            )
        numbers[f"{key}_index"] = numbers[f"{key}_index"].copy()
        numbers[f"{key}_index"][given_N] = found_N
    return replace(predictions, numbers=numbers)
