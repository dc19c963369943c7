"""The tables of a corpus folder from checked records: contiguous ids, by (train records, descending; name).

Shape suffixes: R records, M mentions, N names of one kind.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.corpus import SPLITS
from datamodules.records import NO_TIME, BadRecord, Facts, LeftOut, Mentions, Records, normalise, normalised_id
from datamodules.splits import TRAIN, name_ranks


class Sides(NamedTuple):
    """Side files: what is known of items and users. Read after the records; only those in the corpus are kept."""

    items: Iterable[Facts | BadRecord] = ()
    users: Iterable[Facts | BadRecord] = ()
    items_file: str = ""
    users_file: str = ""


def vocabulary(mentions: Mentions, split_R: np.ndarray) -> tuple[dict[str, int], Mentions, int]:
    """(concept -> number of train records that mention it, in order of id), mentions of those, number of others.

    The mentions returned number their concepts by id.
    """
    record_M, size = mentions.record_M, max(len(mentions.concepts), 1)
    trained_M = split_R[record_M] == TRAIN
    pairs = np.unique(record_M[trained_M] * size + mentions.concept_M[trained_M])
    frequency_N = np.bincount(pairs % size, minlength=len(mentions.concepts))
    order, number_N = _numbered(mentions.concepts, frequency_N, frequency_N > 0)
    known_M = number_N[mentions.concept_M] >= 0
    known = mentions.where(known_M)
    names = [mentions.concepts[code] for code in order.tolist()]
    known = replace(known, concept_M=number_N[known.concept_M].astype(np.int32), concepts=names)
    return dict(zip(names, frequency_N[order].tolist(), strict=True)), known, int((~known_M).sum())


def corpus_tables(
    records: Records, split_R: np.ndarray, concepts: Mapping[str, int], mentions: Mentions
) -> dict[str, pa.Table]:
    """The tables of a corpus; `mentions` number their concepts in the order of `concepts`."""
    train_R = split_R == TRAIN
    columns, names = {}, {}
    for kind, column, known in (("user", records.user_R, records.users), ("item", records.item_R, records.items)):
        present_N = np.bincount(column, minlength=len(known)) > 0
        order, number_N = _numbered(known, np.bincount(column[train_R], minlength=len(known)), present_N)
        columns[kind], names[kind] = number_N[column], order
    titles = [records.titles.get(code, "") for code in names["item"].tolist()]
    mention = pa.StructArray.from_arrays(
        [
            pa.array(mentions.concept_M, pa.int32()),
            pa.array(mentions.opinions, pa.string()).take(pa.array(mentions.opinion_M)),
            pa.array(mentions.polarity_M, pa.int8()),
        ],
        names=["concept", "opinion", "polarity"],
    )
    record_columns = {
        "record": pa.array(np.arange(len(records)), pa.int32()),
        "user": pa.array(columns["user"], pa.int32()),
        "item": pa.array(columns["item"], pa.int32()),
        "rating": pa.array(records.rating_R.astype(np.float32)),
        "explanation": pa.array(records.explanations, pa.string()),
        "concepts": pa.ListArray.from_arrays(pa.array(mentions.start, pa.int32()), mention),
        "time": pa.array(records.time_R, pa.int64(), mask=records.time_R == NO_TIME),
        "split": pa.array(SPLITS, pa.string()).take(pa.array(split_R)),
    }
    return {
        "records": pa.table(record_columns),
        "users": pa.table({"id": pa.array([records.users[code] for code in names["user"].tolist()], pa.string())}),
        "items": pa.table(
            {
                "id": pa.array([records.items[code] for code in names["item"].tolist()], pa.string()),
                "title": pa.array(titles, pa.string()),
                "attributes": pa.array([json.dumps({})] * len(titles), pa.string()),
            }
        ),
        "concepts": pa.table(
            {
                "concept": pa.array(list(concepts), pa.string()),
                "train_records": pa.array(list(concepts.values()), pa.int32()),
            }
        ),
    }


def with_facts(tables: dict[str, pa.Table], sides: Sides, policy: str) -> dict[str, Any]:
    """Put titles and attributes of the side files into the tables, in place; (what was used of each file).

    A title that a record gave stays. Users get a column `attributes` only where a side file tells some.
    """
    account = {}
    for kind, stream, file in (("items", sides.items, sides.items_file), ("users", sides.users, sides.users_file)):
        if not file:
            continue
        left_out = LeftOut(file, policy)
        row_of = {name: row for row, name in enumerate(tables[kind]["id"].to_pylist())}
        titles, attributes = [""] * len(row_of), ["{}"] * len(row_of)
        known: set[int] = set()
        for entry in stream:
            if isinstance(entry, BadRecord):
                left_out.reject(entry)
            elif (row := row_of.get(normalised_id(entry.id))) is not None and row not in known:
                known.add(row)
                titles[row] = normalise(entry.title)
                attributes[row] = json.dumps(entry.attributes, ensure_ascii=False, sort_keys=True)
        columns = {name: tables[kind][name] for name in tables[kind].column_names}
        if kind == "items":
            told = zip(columns["title"].to_pylist(), titles, strict=True)
            columns["title"] = pa.array([own or side for own, side in told], pa.string())
        tables[kind] = pa.table(columns | {"attributes": pa.array(attributes, pa.string())})
        account[kind] = {"file": file.rpartition("/")[2], "found": len(known), "skipped": left_out.by_reason()}
    return account


def _numbered(names: list[str], count_N: np.ndarray, keep_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes of the names kept, by (count, descending; name); the number of each code, -1 where it is not kept)."""
    order = np.lexsort((name_ranks(names), -count_N))
    order = order[keep_N[order]]
    number_N = np.full(len(names), -1, dtype=np.int64)
    number_N[order] = np.arange(len(order))
    return order, number_N
