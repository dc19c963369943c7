"""A table of one's own reviews: CSV, TSV, JSON Lines or Parquet with columns user, item, rating, text.

Columns split, time (unix seconds), title and concepts are used where they are there. Concepts are a text
("battery life; sound"), a list of texts, or a list of {concept, opinion, polarity}; a concept without a polarity takes
that of the rating. Texts are lower-cased and tokenised, see `tokenised`.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.importers.reading import (
    Row,
    Unusable,
    polarity_of,
    rating_of,
    raw_records,
    read_csv,
    read_json_lines,
    read_parquet,
    read_tsv,
    text_of,
)
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError

READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row | BadRecord]]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
LATEST = 2.0**62  # of unix seconds: must fit a 64-bit column
# ASCII and general punctuation, CJK punctuation and full-width forms, dandas, pictographs. Listed rather than "not \w":
# the vowel signs of Indic scripts are no \w and would be torn off their words.
_MARK = (
    r"!-/:-@\[-`{-~¡§«¶·»¿\u0964\u0965\u2010-\u2027\u2030-\u205e\u2600-\u27bf\u3001-\u303f"
    r"\uff01-\uff0f\uff1a-\uff20\U0001f300-\U0001faff"
)
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)+|[^\s{_MARK}]+(?:['’-][^\s{_MARK}]+)*|[{_MARK}]")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table."""

    user: str = field(default="user", metadata={"help": "column of the user id"})
    item: str = field(default="item", metadata={"help": "column of the item id"})
    rating: str = field(default="rating", metadata={"help": "column of the rating"})
    text: str = field(default="text", metadata={"help": "column of the review or explanation"})
    concepts: str = field(default="concepts", metadata={"help": "column of the concepts, if there is one"})
    split: str = field(default="split", metadata={"help": "column of train, valid or test, if there is one"})
    time: str = field(default="time", metadata={"help": "column of the time in unix seconds, if there is one"})
    title: str = field(default="title", metadata={"help": "column of the item's title, if there is one"})


def tokenised(text: str) -> str:
    """Lower case, a single blank between words and punctuation marks, as the field's metrics expect.

    Apostrophes and hyphens inside a word and separators inside a number stay: "don't", "wi-fi", "1,299.50".
    """
    return " ".join(_TOKEN.findall(text.lower()))


def read(path: Path, columns: Columns, rating_middle: float) -> Iterator[RawRecord | BadRecord]:
    """The records of a table, gzipped or not (not Parquet); the layout is known by the name's ending.

    `rating_middle` parts the ratings that count as praise from those that count as criticism. Raises InputError for
    another ending and for columns that no row has.
    """
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if ending not in READERS:
        raise InputError(f"raw={path} must end in {', '.join(READERS)} (with .gz or without).")
    rows = _with_columns(READERS[ending](path), path, columns)
    return raw_records(rows, lambda line, row: _parse(line, row, columns, rating_middle))


def _with_columns(
    rows: Iterator[tuple[int, Row | BadRecord]], path: Path, columns: Columns
) -> Iterator[tuple[int, Row | BadRecord]]:
    """The rows, once the first of them shows every column that must be there.

    Optional columns under their own name may be absent; a name that was asked for may not.
    """
    named = {key: name for key, name in asdict(columns).items() if name != key}
    needed = {key: getattr(columns, key) for key in ("user", "item", "rating", "text")} | named
    checked = False
    for line, row in rows:
        if not checked and not isinstance(row, BadRecord):
            missing = [key for key, name in needed.items() if name not in row]
            if missing:
                key = missing[0]
                raise InputError(
                    f"{path}:{line}: there is no column '{needed[key]}', only {', '.join(row)}; "
                    f"name the one to use with columns.{key}=NAME."
                )
            checked = True
        yield line, row


def _parse(line: int, row: Row, columns: Columns, rating_middle: float) -> RawRecord:
    rating = rating_of(row, columns.rating)
    by_rating = (rating > rating_middle) - (rating < rating_middle)
    return RawRecord(
        line=line,
        user=text_of(row, columns.user),
        item=text_of(row, columns.item),
        rating=rating,
        explanation=tokenised(text_of(row, columns.text)),
        mentions=_mentions(row[columns.concepts], by_rating) if columns.concepts in row else None,
        split=_optional(row, columns.split),
        time=_time(row, columns.time),
        item_title=_optional(row, columns.title) or "",
    )


def _optional(row: Row, key: str) -> str | None:
    return None if row.get(key) in (None, "") else text_of(row, key)


def _time(row: Row, key: str) -> int | None:
    text = _optional(row, key)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not abs(seconds) < LATEST:
        raise Unusable("unreadable time", f"'{key}' is '{text:.40}' where unix seconds are due")
    return int(seconds)


def _mentions(cell: Any, polarity: int) -> list[tuple[str, str, int]]:
    """Concepts of one cell; `polarity` is for those that have none of their own."""
    if cell is None or cell == "":
        return []
    if isinstance(cell, str):
        cell = cell.split(";")
    if not isinstance(cell, list):
        raise Unusable("wrong type", f"concepts are {cell!r:.40} where a text or a list is due")
    return [_mention(entry, polarity) for entry in cell]


def _mention(entry: Any, polarity: int) -> tuple[str, str, int]:
    if isinstance(entry, str):
        return tokenised(entry), "", polarity
    if not isinstance(entry, dict):
        raise Unusable("wrong type", f"a concept is {entry!r:.40} where a text or an object is due")
    own = entry.get("polarity")
    opinion = _optional(entry, "opinion") or ""
    return tokenised(text_of(entry, "concept")), opinion.lower(), polarity if own is None else polarity_of(own)
