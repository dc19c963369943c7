"""The `paper` suite: every metric of the field, by its own definition, on one set of predictions.

BLEU, ROUGE and Distinct are in percent, all others are fractions or counts. Results do not depend on the order of the
predictions, to the last digit: they are sorted first, so a run on many ranks reports what a run on one does.
"""

# N records · I items · R resamples · K metrics

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from metrics.bleu import MAX_ORDER, STATISTICS, bleu_statistics, corpus_bleu
from metrics.bootstrap import bootstrap, interval
from metrics.concept import candidate_recall, cmr, cor, fcr, fmr, weighted_div
from metrics.diversity import distinct_corpus, distinct_sentence, unique_sentences
from metrics.errors import InputError
from metrics.phrases import PhraseMatcher, tokenize
from metrics.predictions import read_predictions
from metrics.rating import rating_errors
from metrics.rouge import rouge_l, rouge_n
from metrics.table import format_table

__all__ = ["ConceptKnowledge", "evaluate", "format_table", "read_predictions"]

Scores = dict[str, Any]
Columns = dict[str, np.ndarray]  # metric -> values_N, NaN where a record does not define it
Statistic = Callable[[np.ndarray], np.ndarray]  # weights_RN -> values_RK
Draw = Callable[[list[str], Statistic, int], Scores]  # metrics, what computes them, N -> values and intervals


@dataclass(frozen=True)
class ConceptKnowledge:
    """What the train split alone says of concepts, and the range of ratings."""

    concepts: list[str]
    user_concepts: list[set[int]]  # K_u by user index; indices into `concepts`
    item_concepts: list[set[int]]  # K_v by item index
    rating_min: float
    rating_max: float


def evaluate(
    predictions: list[dict[str, Any]],
    knowledge: ConceptKnowledge | None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """All metrics of one set of predictions, flat: name -> value, and name_ci -> [low, high] where one is valid.

    Intervals: 95 % percentile bootstrap over records, for COR over items; none for USR, USN, corpus Distinct and FCR
    (metrics/bootstrap.py says why), for a single record, or for `resamples=0`. Metrics that lack a field or are
    defined on no record are left out, and `skipped` lists "names: reason". Raises InputError for no predictions.
    """
    if not predictions:
        raise InputError("There are no predictions to evaluate; generate them first.")
    records = sorted(predictions, key=lambda record: json.dumps(record, sort_keys=True, default=str))
    data = _Data(records, knowledge)
    draw = partial(_with_intervals, resamples=resamples, seed=seed)
    columns = _text_columns(data)
    scores: Scores = {"n": len(records)} | _text_scores(data)
    skipped: dict[str, list[str]] = defaultdict(list)  # reason -> metrics
    for names, columns_of in _COLUMNS.items():
        try:
            columns |= columns_of(data)
        except _AbsentError as reason:
            skipped[str(reason)].append(names)
    for name in [name for name, values_N in columns.items() if np.isnan(values_N).all()]:
        del columns[name]
        skipped["defined on no prediction"].append(name)
    scores |= draw(*_record_statistic(data, columns), len(records))
    for names, scores_of in _SCORES.items():
        try:
            scores |= scores_of(data, draw)
        except _AbsentError as reason:
            skipped[str(reason)].append(names)
    return scores | {"skipped": [f"{', '.join(names)}: {reason}" for reason, names in skipped.items()]}


class _AbsentError(Exception):
    """Some metrics lack what they need; the message says what."""


@dataclass(frozen=True)
class _Data:
    records: list[dict[str, Any]]
    corpus: ConceptKnowledge | None

    @cached_property
    def texts(self) -> list[str]:
        return [record["explanation"] for record in self.records]

    @cached_property
    def references(self) -> list[str]:
        return [record["reference"] for record in self.records]

    @property
    def knowledge(self) -> ConceptKnowledge:
        if self.corpus is None:
            raise _AbsentError("no corpus was given or found")
        return self.corpus

    @cached_property
    def found(self) -> list[set[int]]:
        """K(e) of every explanation."""
        if not self.knowledge.concepts:
            raise _AbsentError("the train split of the corpus has no concepts")
        matcher = PhraseMatcher(self.knowledge.concepts)
        return [matcher.find(text) for text in self.texts]

    def field(self, key: str) -> list[Any]:
        values = [record.get(key) for record in self.records]
        if absent := sum(value is None for value in values):
            raise _AbsentError(f"`{key}` is absent from {absent} of {len(values)} predictions")
        return values

    def known_concepts(self, key: str, by_index: list[set[int]]) -> list[set[int]]:
        """The train concepts of each record's user or item."""
        indices = self.field(key)
        if outside := [index for index in indices if not 0 <= index < len(by_index)]:
            raise InputError(
                f"`{key}` {outside[0]} of a prediction is outside the {len(by_index)} of the corpus; "
                "give the corpus that the system was trained on."
            )
        return [by_index[index] for index in indices]


def _with_intervals(names: list[str], statistic: Statistic, n: int, resamples: int, seed: int) -> Scores:
    """The metrics `statistic` computes of n units, and the interval of each where it has one."""
    scores: Scores = dict(zip(names, statistic(np.ones((1, n)))[0].tolist(), strict=True))
    if n > 1 and resamples > 0:
        values_RK = bootstrap(statistic, n, resamples, seed)
        for name, values_R in zip(names, values_RK.T, strict=True):
            if bounds := interval(values_R):
                scores[f"{name}_ci"] = bounds
    return scores


def _record_statistic(data: _Data, columns: Columns) -> tuple[list[str], Statistic]:
    """Corpus BLEU and the means of `columns`: all that follows from weighted sums over records."""
    orders = range(1, MAX_ORDER + 1)
    values_NK = np.stack(list(columns.values()), axis=1)
    bleu_NS = bleu_statistics(data.texts, data.references)
    summands = np.concatenate([bleu_NS, np.nan_to_num(values_NK), ~np.isnan(values_NK)], axis=1)

    def statistic(weights_RN: np.ndarray) -> np.ndarray:
        bleu_RS, sums_RK, counts_RK = np.split(weights_RN @ summands, [STATISTICS, STATISTICS + len(columns)], axis=1)
        with np.errstate(invalid="ignore"):
            means_RK = sums_RK / counts_RK
        if "rmse" in columns:
            place = list(columns).index("rmse")
            means_RK[:, place] = np.sqrt(means_RK[:, place])
        return np.column_stack([*(corpus_bleu(bleu_RS, order) for order in orders), means_RK])

    return [*(f"bleu_{order}" for order in orders), *columns], statistic


def _text_scores(data: _Data) -> Scores:
    unique = unique_sentences(data.texts)
    distinct = {f"distinct_{order}": distinct_corpus(data.texts, order) for order in (1, 2)}
    return distinct | {"usr": unique / len(data.texts), "usn": unique}


def _text_columns(data: _Data) -> Columns:
    columns = {f"distinct_{order}_sentence": distinct_sentence(data.texts, order) for order in (1, 2)}
    for name, rouge in (
        ("rouge_1", rouge_n(data.texts, data.references, 1)),
        ("rouge_2", rouge_n(data.texts, data.references, 2)),
        ("rouge_l", rouge_l(data.texts, data.references)),
    ):
        columns |= {f"{name}_f": rouge.f_N, f"{name}_r": rouge.r_N, f"{name}_p": rouge.p_N}
    return columns | {"words": np.array([len(tokenize(text)) for text in data.texts], dtype=float)}


def _rating_columns(data: _Data) -> Columns:
    low, high = data.knowledge.rating_min, data.knowledge.rating_max
    errors_N = rating_errors(np.array(data.field("predicted_rating")), np.array(data.field("rating")), low, high)
    return {"rmse": errors_N**2, "mae": np.abs(errors_N)}  # the root is taken of the mean


def _gold_columns(data: _Data) -> Columns:
    return {"fmr": fmr(data.texts, [record.get("gold_concepts") or [] for record in data.records])}


def _rate_columns(data: _Data) -> Columns:
    return {"concept_rate": np.array([bool(concepts) for concepts in data.found], dtype=float)}


def _match_columns(data: _Data) -> Columns:
    users = data.known_concepts("user_index", data.knowledge.user_concepts)
    items = data.known_concepts("item_index", data.knowledge.item_concepts)
    either = [user | item for user, item in zip(users, items, strict=True)]
    both = [user & item for user, item in zip(users, items, strict=True)]
    return {"cmr": cmr(data.found, either), "cmr_both": cmr(data.found, both)}


def _candidate_columns(data: _Data) -> Columns:
    names = [[entry["concept"] for entry in concepts] for concepts in data.field("concepts")]
    if not any(names):
        raise _AbsentError("no prediction has candidate concepts")
    indices = {concept: index for index, concept in enumerate(data.knowledge.concepts)}
    if unknown := sorted({name for row in names for name in row} - indices.keys()):
        raise _AbsentError(f"candidate concept {unknown[0]!r} ({len(unknown)} in all) is not in the train split")
    candidates = [{indices[name] for name in row} for row in names]
    return {
        "cmr_candidates": cmr(data.found, candidates),
        "candidate_recall": candidate_recall(data.found, candidates),
    }


# Names are what `skipped` calls a family that lacks its data.
_COLUMNS: dict[str, Callable[[_Data], Columns]] = {
    "rmse, mae": _rating_columns,
    "fmr": _gold_columns,
    "concept_rate": _rate_columns,
    "cmr, cmr_both": _match_columns,
    "cmr_candidates, candidate_recall": _candidate_columns,
}


def _fcr(data: _Data, draw: Draw) -> Scores:
    return {"fcr": fcr(data.found, len(data.knowledge.concepts))}


def _div(data: _Data, draw: Draw) -> Scores:
    if len(data.found) < 2:
        raise _AbsentError("there is one prediction and it compares two")
    value = weighted_div(data.found)
    return draw(["div"], lambda weights_RN: value(weights_RN)[:, None], len(data.found))


def _cor(data: _Data, draw: Draw) -> Scores:
    overlap = cor(data.found, data.field("item_index"))
    if len(overlap.pairs_I) == 0:
        raise _AbsentError("no item has two predictions")

    def statistic(weights_RI: np.ndarray) -> np.ndarray:
        items_R = weights_RI.sum(axis=1)
        jaccard_R, overlap_R, empty_R, pairs_R = (weights_RI @ values_I for values_I in overlap)
        return np.column_stack([jaccard_R / items_R, overlap_R / items_R, empty_R / pairs_R])

    return draw(["cor", "cor_overlap", "cor_empty_share"], statistic, len(overlap.pairs_I))


_SCORES: dict[str, Callable[[_Data, Draw], Scores]] = {
    "fcr": _fcr,
    "div": _div,
    "cor, cor_overlap, cor_empty_share": _cor,
}
