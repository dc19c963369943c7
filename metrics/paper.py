"""The `paper` suite: every metric of the field, by its own definition, on one set of predictions.

BLEU, ROUGE and Distinct are in percent, all others are fractions or counts. docs/metrics.md defines each key.
"""

# N records · R resamples · S statistics of BLEU · K metrics

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from metrics import diversity
from metrics.bleu import corpus_bleu
from metrics.columns import Predictions
from metrics.families import Family, Jackknife, Sums, means
from metrics.measures import AbsentError, Columns, ConceptKnowledge, Counts, Data, Measures
from metrics.paper_concepts import CONCEPT_COLUMNS, CONCEPT_FAMILIES
from metrics.rating import predict_bias, rating_errors
from metrics.rouge import rouge_l_of, rouge_n_of
from metrics.text_counts import BLEU, MAX_ORDER, ROUGE, TYPES

# Means over some of the records: not all have a gold concept, candidates, or a text that names a concept.
SOMETIMES = {"fmr", "fmr_token", "gt_fmr", "ifmr", "cmr", "cmr_both", "cmr_gold", "cmr_candidates", "candidate_recall"}


def measure(records: Predictions, knowledge: ConceptKnowledge | None, counts: Counts) -> Measures:
    """The paper suite of predictions, of whose texts `counts` are what is counted.

    Metrics that lack a field or are defined on no record are left out, and `skipped` lists "names: reason".
    """
    data, measures = Data(records, knowledge, counts), Measures(len(records))
    skipped: dict[str, list[str]] = defaultdict(list)
    lacking: dict[str, list[str]] = defaultdict(list)
    # first what looks at all texts at once: for millions of them that takes most room, and there is nothing kept yet
    parts, columns = _parts(data, lacking), _columns(data, skipped)
    measures.families.extend(_record_families(data, columns))
    measures.families.extend(part for part in parts if not isinstance(part, Jackknife))
    measures.jackknives.extend(part for part in parts if isinstance(part, Jackknife))
    for reason, names in lacking.items():
        skipped[reason].extend(names)
    measures.skipped.extend(f"{', '.join(names)}: {reason}" for reason, names in skipped.items())
    return measures


def _columns(data: Data, skipped: dict[str, list[str]]) -> Columns:
    """All metrics that are means over records."""
    columns: Columns = {}
    for names, columns_of in _COLUMNS.items():
        try:
            columns |= columns_of(data)
        except AbsentError as reason:
            skipped[str(reason)].append(names)
    for name in [name for name, values_N in columns.items() if np.isnan(values_N).all()]:
        del columns[name]
        skipped["defined on no prediction"].append(name)
    return columns


def _parts(data: Data, skipped: dict[str, list[str]]) -> list[Family | Jackknife]:
    """All others."""
    parts: list[Family | Jackknife] = []
    for names, parts_of in _FAMILIES.items():
        try:
            parts += parts_of(data)
        except AbsentError as reason:
            skipped[str(reason)].append(names)
    return parts


def _record_families(data: Data, columns: Columns) -> list[Family]:
    """Corpus BLEU and the means of `columns`: all that follows from weighted sums over records."""
    orders, mean = range(1, MAX_ORDER + 1), means(columns, "record", SOMETIMES & columns.keys())
    mean_of = mean.finish  # `rooted` outlives this function and must not keep the summands of `mean`
    roots = [place for place, name in enumerate(columns) if name.startswith("rmse")]

    def bleu(sums_RS: np.ndarray) -> np.ndarray:
        return np.stack([corpus_bleu(sums_RS, order) for order in orders], axis=-1)

    def rooted(sums_RS: np.ndarray) -> np.ndarray:
        means_RK = mean_of(sums_RS)
        means_RK[..., roots] = np.sqrt(means_RK[..., roots])
        return means_RK

    counts_NS = data.counts.counts_NC[:, BLEU].astype(np.float64)
    return [
        Sums([f"bleu_{order}" for order in orders], "record", counts_NS, bleu),
        Sums(mean.names, "record", mean.summands_US, rooted),
    ]


def _text_columns(data: Data) -> Columns:
    counts_NC = data.counts.counts_NC
    columns: Columns = {}
    for kind, part in ROUGE.items():
        rouge = (rouge_l_of if kind == "l" else rouge_n_of)(counts_NC[:, part])
        columns |= {f"rouge_{kind}_f": rouge.f_N, f"rouge_{kind}_r": rouge.r_N, f"rouge_{kind}_p": rouge.p_N}
    words_N, theirs_N = counts_NC[:, BLEU][:, MAX_ORDER], counts_NC[:, BLEU][:, 2 * MAX_ORDER]
    for order, types_N in enumerate(counts_NC[:, TYPES].T, start=1):
        columns[f"distinct_{order}_sentence"] = diversity.distinct_sentence(types_N, words_N, order)
    first_N, second_N = diversity.distinct_char_prag(data.texts)
    columns |= {"distinct_1_char_prag": first_N, "distinct_2_char_prag": second_N}
    repeats_N = (words_N - counts_NC[:, TYPES][:, 0]) / np.maximum(words_N, 1)
    return columns | {"repeat_rate": repeats_N, "words": words_N * 1.0, "words_reference": theirs_N * 1.0}


def _rating_columns(data: Data) -> Columns:
    return _errors("", data.ratings("predicted_rating"), data)


def _baseline_columns(data: Data) -> Columns:
    if data.knowledge.bias is None:
        raise AbsentError("no train ratings are known without a corpus")
    mean, b_user, b_item = data.knowledge.bias
    user_N, item_N = data.indices("user_index", len(b_user)), data.indices("item_index", len(b_item))
    constant_N = np.full(len(data.records), mean)
    return _errors("_bias", predict_bias(mean, b_user, b_item, user_N, item_N), data) | _errors(
        "_constant", constant_N, data
    )


def _errors(name: str, predicted_N: np.ndarray, data: Data) -> Columns:
    rating_N = data.ratings()
    errors_N = rating_errors(predicted_N, rating_N, data.knowledge.rating_min, data.knowledge.rating_max)
    return {f"rmse{name}": errors_N**2, f"mae{name}": np.abs(errors_N)}  # the root is taken of the mean


# Names are what `skipped` calls a family that lacks its data.
_COLUMNS: dict[str, Callable[[Data], Columns]] = {
    "rouge": _text_columns,
    "rmse, mae": _rating_columns,
    "rmse_bias, rmse_constant": _baseline_columns,
    **CONCEPT_COLUMNS,
}


def _diversity(data: Data) -> list[Jackknife]:
    return diversity.corpus_diversity(data.words, data.kinds)


def _in_users(data: Data) -> list[Family]:
    return [means({"uusr": diversity.unique_in_groups(data.kinds, data.groups("user"))}, "user")]


def _in_items(data: Data) -> list[Family]:
    group_N = data.groups("item")
    distinct_1, distinct_2 = diversity.distinct_in_groups(data.words, group_N)
    unique = diversity.unique_in_groups(data.kinds, group_N)
    return [means({"iusr": unique, "distinct_1_item": distinct_1, "distinct_2_item": distinct_2}, "item")]


def _sentiment(data: Data) -> list[Family]:
    """Agreement of the polarity of texts with ratings; a text without polarity agrees with none."""
    polarity = data.knowledge.polarity
    if polarity is None:
        raise AbsentError("no liked and disliked texts of train are known to tell polarity by")
    middle = (data.knowledge.rating_min + data.knowledge.rating_max) / 2
    rated_N = np.sign(data.ratings() - middle)
    if not rated_N.any():
        raise AbsentError("no prediction has a rating above or below the middle")
    said_N, reference_N = (polarity.of_all(side) for side in data.lower)
    judged_N = np.where(rated_N == 0, np.nan, 1.0)
    columns = {
        "sentiment_match": judged_N * (said_N == rated_N),
        "sentiment_reference": judged_N * (reference_N == rated_N),
    }
    for rated, one in ((1, "pos"), (-1, "neg")):
        columns |= {
            f"sentiment_{one}_{other}": judged_N * ((rated_N == rated) & (said_N == said))
            for said, other in ((1, "pos"), (-1, "neg"))
        }
    predicted_N = np.sign(data.records.numbers["predicted_rating"] - middle)
    if not np.isnan(predicted_N).any() and predicted_N.any():
        columns["sentiment_match_predicted"] = np.where(predicted_N == 0, np.nan, said_N == predicted_N)
    return [means(columns, "record"), *_balanced(rated_N, said_N)]


def _balanced(rated_N: np.ndarray, said_N: np.ndarray) -> list[Family]:
    if not ((rated_N == 1).any() and (rated_N == -1).any()):
        return []
    parts = [part for rated in (1, -1) for part in ((rated_N == rated) & (said_N == rated), rated_N == rated)]

    def finish(sums_RS: np.ndarray) -> np.ndarray:
        return (sums_RS[..., 0:1] / sums_RS[..., 1:2] + sums_RS[..., 2:3] / sums_RS[..., 3:4]) / 2

    return [Sums(["sentiment_match_balanced"], "record", np.column_stack(parts).astype(float), finish)]


_FAMILIES: dict[str, Callable[[Data], list[Any]]] = {
    "distinct, entr, usr, usn": _diversity,
    "uusr": _in_users,
    "iusr, distinct_1_item, distinct_2_item": _in_items,
    **CONCEPT_FAMILIES,
    "sentiment_match": _sentiment,
}
