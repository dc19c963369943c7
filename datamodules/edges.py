"""The edges of the user-item-concept graph as arrays (methods A.5.1), typed by sentiment; without torch.

E edges of a relation, I incidences (an edge and one record that contributed to it), M mentions, R records.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from datamodules.corpus import Corpus
from metrics.errors import InputError

Relation = tuple[str, str, str]

# In pairs: a relation and its reverse, so that messages flow both ways.
TYPED: tuple[Relation, ...] = (
    ("user", "rated_high", "item"),
    ("item", "rated_high_by", "user"),
    ("user", "rated_low", "item"),
    ("item", "rated_low_by", "user"),
    ("user", "likes", "concept"),
    ("concept", "liked_by", "user"),
    ("user", "dislikes", "concept"),
    ("concept", "disliked_by", "user"),
    ("item", "praised_for", "concept"),
    ("concept", "praised_in", "item"),
    ("item", "criticised_for", "concept"),
    ("concept", "criticised_in", "item"),
)
PLAIN: tuple[Relation, ...] = (
    ("user", "rated", "item"),
    ("item", "rated_by", "user"),
    ("user", "mentions", "concept"),
    ("concept", "mentioned_by", "user"),
    ("item", "has", "concept"),
    ("concept", "of", "item"),
)
REVERSE: dict[Relation, Relation] = dict(zip((TYPED + PLAIN)[::2], (TYPED + PLAIN)[1::2], strict=True))


class Edges(NamedTuple):
    """The edges of one relation, sorted by source, then target, and the records behind them."""

    index_2E: np.ndarray
    count_E: np.ndarray  # records behind each
    edge_I: np.ndarray
    record_I: np.ndarray


def rating_is_high(rating: float | np.ndarray, corpus: Corpus) -> bool | np.ndarray:
    """Above the middle of the scale: 4 and 5 of 1-5."""
    return rating > (corpus.rating_min + corpus.rating_max) / 2


def edge_tables(corpus: Corpus, typed: bool, records: Iterable[int] | None = None) -> dict[Relation, Edges]:
    """The edges of the train records (or of `records`) by relation; reverse ones are not written out.

    A mention without polarity takes the sign of its record's rating. Edges are sorted, so that two builds are equal.
    """
    rows = corpus.rows("train") if records is None else np.fromiter(records, dtype=np.int64)
    if len(rows) == 0:
        raise InputError(f"{corpus.path}: no train record, so there is no graph; check the splits")
    user_R, item_R = corpus.user_R[rows].astype(np.int64), corpus.item_R[rows].astype(np.int64)
    good_R = np.asarray(rating_is_high(corpus.rating_R[rows], corpus))
    record_M, concept_M, polarity_M = corpus.mention_columns(rows)
    high_M = np.asarray(rating_is_high(corpus.rating_R[record_M], corpus))
    good_M = np.where(polarity_M == 0, high_M, polarity_M > 0)
    user_M, item_M = corpus.user_R[record_M].astype(np.int64), corpus.item_R[record_M].astype(np.int64)
    ends = (  # (source, target, record, whether it is a good one) of user-item, user-concept, item-concept
        (user_R, item_R, rows, good_R),
        (user_M, concept_M.astype(np.int64), record_M, good_M),
        (item_M, concept_M.astype(np.int64), record_M, good_M),
    )
    tables = {}
    for number, relation in enumerate((TYPED if typed else PLAIN)[::2]):
        source, target, record, good = ends[number // 2 if typed else number]
        chosen = good == (number % 2 == 0) if typed else slice(None)
        tables[relation] = _edges(np.stack([source[chosen], target[chosen], record[chosen]], axis=1))
    return tables


def _edges(rows_I3: np.ndarray) -> Edges:
    """Edges from (source, target, record), of which each counts once."""
    # `np.unique(axis=0)` sorts rows as opaque records and is many times slower.
    rows_I3 = rows_I3[np.lexsort(rows_I3.T[::-1])]
    changed_I2 = np.ones((len(rows_I3), 2), dtype=bool)  # whether the edge, the record is another one
    changed_I2[1:, 0] = (rows_I3[1:, :2] != rows_I3[:-1, :2]).any(axis=1)
    changed_I2[1:, 1] = changed_I2[1:, 0] | (rows_I3[1:, 2] != rows_I3[:-1, 2])
    new_I = changed_I2[changed_I2[:, 1], 0]
    rows_I3 = rows_I3[changed_I2[:, 1]]
    edge_I = np.cumsum(new_I) - 1
    index_2E = rows_I3[new_I, :2].T.copy()
    return Edges(index_2E, np.bincount(edge_I, minlength=index_2E.shape[1]), edge_I, rows_I3[:, 2].copy())
