"""From predictions to measures: both suites, what needs a model too, sharded over the ranks."""

# N records · R resamples

from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from launch import dealing
from metrics import paper
from metrics.columns import Predictions
from metrics.diversity import corpus_words
from metrics.errors import InputError
from metrics.families import Family, Sums, means
from metrics.mauve import mauve_interval
from metrics.measures import ConceptKnowledge, Counts, Measures
from metrics.self_bleu import self_bleu
from metrics.text_counts import pairs_of
from metrics.texts import CHUNK, strings

SUITES = ("paper", "standard", "all")


@dataclass(frozen=True)
class StandardConfig:
    """What the standard suite needs beside the texts. Models are Hugging Face folders or names; none is fetched for
    you, and metrics whose model is not given are left out.
    """

    stem: bool = field(default=False, metadata={"help": "rouge-score with its Porter stemmer"})
    encoder: str = field(default="", metadata={"help": "encoder folder: BERTScore and sentence similarity"})
    layer: int = field(default=-1, metadata={"help": "hidden layer of the encoder for BERTScore; -1: the last"})
    lm: str = field(default="", metadata={"help": "causal language model folder: perplexity"})
    bart: str = field(default="", metadata={"help": "sequence-to-sequence model folder: BARTScore"})
    mauve: bool = field(default=False, metadata={"help": "MAUVE on vectors of `lm`; needs pip install mauve-text"})
    batch_size: int = field(default=32, metadata={"help": "texts at a time for models"})

    def __post_init__(self) -> None:
        """Batches hold something, and MAUVE has a model."""
        if self.batch_size < 1:
            raise InputError(f"standard.batch_size={self.batch_size} must be at least 1")
        if self.mauve and not self.lm:
            raise InputError("standard.mauve=true needs a language model: give standard.lm=FOLDER")


def measure(records: Predictions, knowledge: ConceptKnowledge | None, suite: str, config: StandardConfig) -> Measures:
    """Measures of predictions in their order. Collective: every rank must call it and gets the same."""
    parts = []
    if suite in ("paper", "all"):
        parts.append(paper.measure(records, knowledge, _counts(records)))
    if suite in ("standard", "all"):
        parts.append(_library(records, config))
        parts += [part for part in (_encoder(records, config), _lm(records, config), _bart(records, config)) if part]
    return Measures(
        len(records),
        [family for part in parts for family in part.families],
        [jackknife for part in parts for jackknife in part.jackknives],
        {name: value for part in parts for name, value in part.plain.items()},
        {name: value for part in parts for name, value in part.signatures.items()},
        [line for part in parts for line in part.skipped],
        bounds={name: bounds for part in parts for name, bounds in part.bounds.items()},
    )


def _texts(records: Predictions) -> tuple[list[str], list[str]]:
    return strings(records.explanations), strings(records.references)


def _counts(records: Predictions) -> Counts:
    pairs = pairs_of(records.explanations, records.references)
    return Counts(pairs, dealing.rows(lambda part: pairs.counts(part[0], part[-1] + 1), range(len(records)), CHUNK))


def _library(records: Predictions, config: StandardConfig) -> Measures:
    from metrics.standard import library_rows, measure_library  # late: sacreBLEU is slow to import

    measures = measure_library(
        dealing.rows(lambda part: library_rows(*_texts(part), config.stem), records, CHUNK), config.stem
    )
    if found := self_bleu(corpus_words(records.explanations)):
        measures.jackknives.append(found)
    needs = {
        "bert_score, sentence_cosine": ("standard.encoder", config.encoder),
        "perplexity": ("standard.lm", config.lm),
        "bart_score": ("standard.bart", config.bart),
    }
    measures.skipped.extend(f"{names}: give {key}=FOLDER" for names, (key, given) in needs.items() if not given)
    return measures


def _encoder(records: Predictions, config: StandardConfig) -> Measures | None:
    if not config.encoder:
        return None
    from models.text_scores import encoder_scores, load, signature

    model, tokenizer = load("encoder", config.encoder)
    depth = model.config.num_hidden_layers
    if not -depth - 1 <= config.layer <= depth:
        raise InputError(
            f"standard.layer={config.layer}: {config.encoder} has layers 0 to {depth}, or -1 for the last."
        )
    rows_N5 = dealing.rows(
        lambda part: np.array(encoder_scores(model, tokenizer, *_texts(part), config.layer)), records, config.batch_size
    )
    names = ("bert_score_f", "bert_score_r", "bert_score_p", "sentence_cosine")
    told = f"{signature(config.encoder)}|layer:{config.layer}|idf:no|rescaled:no"
    return _of_model(means(dict(zip(names, rows_N5.T, strict=False)), "record"), "encoder", told, rows_N5[:, -1])


def _lm(records: Predictions, config: StandardConfig) -> Measures | None:
    if not config.lm:
        return None
    from models.text_scores import last_states, load, log_likelihoods, signature

    model, tokenizer = load("lm", config.lm)

    def rows_of(part: Predictions) -> np.ndarray:
        ours, theirs = (np.array(log_likelihoods(model, tokenizer, side)) for side in _texts(part))
        return np.column_stack([ours[:, :2], theirs[:, :2], ours[:, 2] + theirs[:, 2]])

    rows_N5 = dealing.rows(rows_of, records, config.batch_size)

    def finish(sums_RS: np.ndarray) -> np.ndarray:
        return np.exp(sums_RS[..., [0, 2]] / sums_RS[..., [1, 3]])

    family = Sums(["perplexity", "perplexity_reference"], "record", rows_N5[:, :4], finish)
    measures = _of_model(family, "lm", signature(config.lm), rows_N5[:, -1])
    if config.mauve:
        texts, references = (
            dealing.rows(lambda part: np.array(last_states(model, tokenizer, part)), side, config.batch_size)
            for side in _texts(records)
        )
        measures.plain["mauve"], bounds = _mauve(references, texts)
        if bounds:
            measures.bounds["mauve"] = bounds
        measures.signatures["mauve_signature"] = f"mauve-text:{version('mauve-text')}|{signature(config.lm)}"
    return measures


def _mauve(references_ND: np.ndarray, texts_ND: np.ndarray) -> tuple[float, list[float] | None]:
    """MAUVE by its package, with its default number of clusters and a fixed seed, and its interval."""
    try:
        from mauve.compute_mauve import compute_mauve  # optional: brings faiss and scikit-learn
    except ImportError:
        raise InputError("standard.mauve=true needs the package mauve-text: pip install 'llm2er[mauve]'.") from None
    found = compute_mauve(p_features=references_ND, q_features=texts_ND, verbose=False)
    counts = (np.rint(len(references_ND) * share) for share in (found.p_hist, found.q_hist))
    return float(found.mauve), mauve_interval(*counts)


def _bart(records: Predictions, config: StandardConfig) -> Measures | None:
    if not config.bart:
        return None
    from models.text_scores import bart_scores, load, signature

    model, tokenizer = load("bart", config.bart)
    rows_N3 = dealing.rows(
        lambda part: np.array(bart_scores(model, tokenizer, *_texts(part))), records, config.batch_size
    )
    family = means({"bart_score": rows_N3[:, 0], "bart_score_p": rows_N3[:, 1]}, "record")
    return _of_model(family, "bart", signature(config.bart), rows_N3[:, -1])


def _of_model(family: Family, kind: str, signature: str, cut_N: np.ndarray) -> Measures:
    cut = int((cut_N > 0).sum())
    note = [f"the end of texts of {cut} records, which are too long for standard.{kind}"] if cut else []
    return Measures(len(cut_N), [family], signatures={f"{kind}_signature": signature}, skipped=note)
