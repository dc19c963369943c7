"""A table of one's own reviews: CSV, TSV, JSON Lines or Parquet with columns user, item, rating, text.

Columns split, time (unix seconds, or a date), title and concepts are used where they are there. Concepts are a text
("battery life; sound"), a list of texts, or a list of {concept, opinion, polarity}; a concept without a polarity takes
that of the rating. Texts are lower-cased and tokenised, see `tokenised`.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.parquet import column_names, read_parquet
from datamodules.importers.reading import (
    Row,
    Unusable,
    is_absent,
    one_line,
    optional_text,
    parsed,
    polarity_of,
    rating_of,
    read_csv,
    read_json_lines,
    read_tsv,
    text_of,
)
from datamodules.importers.times import time_of
from datamodules.importers.tokenising import tokenised
from datamodules.records import BadRecord, Facts, RawRecord, is_no_value, normalise
from metrics.errors import InputError
from metrics.file_form import form_of
from metrics.text_files import PACKED, first_bytes

READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row | BadRecord]]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
}
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".json")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table."""

    user: str = field(default="user", metadata={"help": "column of the user id"})
    item: str = field(default="item", metadata={"help": "column of the item id"})
    rating: str = field(default="rating", metadata={"help": "column of the rating"})
    text: str = field(default="text", metadata={"help": "column of the review or explanation"})
    concepts: str = field(default="concepts", metadata={"help": "column of the concepts, if there is one; empty: none"})
    split: str = field(
        default="split", metadata={"help": "column of train, valid or test, if there is one; empty: none"}
    )
    time: str = field(
        default="time",
        metadata={"help": "column of the time (unix seconds, milliseconds, a date), if there is one; empty: none"},
    )
    title: str = field(default="title", metadata={"help": "column of the item's title, if there is one; empty: none"})
    item_attributes: str = field(default="", metadata={"help": "columns kept as attributes of the item: a,b,c"})
    user_attributes: str = field(default="", metadata={"help": "columns kept as attributes of the user: a,b,c"})


def read(path: Path, columns: Columns, rating_middle: float) -> Iterator[RawRecord | BadRecord]:
    """The records of a table, plain, gzip or zstd; the layout is known by the name's ending.

    `rating_middle` parts the ratings that count as praise from those that count as criticism. Raises InputError for
    another ending and for columns that no row has.
    """
    wanted = [name for name in asdict(columns).values() if name]
    rows = _with_columns(_rows(path, wanted), path, columns)
    return parsed(rows, lambda line, row: _parse(line, row, columns, rating_middle))


def read_facts(path: Path, columns: Columns, kind: str) -> Iterator[Facts | BadRecord]:
    """The attributes of users or items (`kind`: user or item) that columns of the table tell; the first row counts."""
    names = [name.strip() for name in getattr(columns, f"{kind}_attributes").split(",") if name.strip()]

    def facts(line: int, row: Row) -> Facts:
        absent = [name for name in names if name not in row]
        if absent:
            raise InputError(
                f"{path}:{line}: there is no column '{absent[0]}', only {one_line(', '.join(_names(path, row)))}; "
                f"name others with columns.{kind}_attributes=A,B."
            )
        given = {
            name: row[name]
            for name in names
            if isinstance(row[name], str | int | float | bool) and not is_absent(row[name])
        }
        return Facts(text_of(row, getattr(columns, kind)), "", given)

    # What is wrong with a row is told where its record is read.
    rows = _rows(path, [*names, getattr(columns, kind)])
    return (entry for entry in parsed(rows, facts) if isinstance(entry, Facts))


def _rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, Row | BadRecord]]:
    """The rows of a table, of a Parquet file those columns alone that are wanted."""
    ending = _ending(path)
    if ending not in ENDINGS:
        form = form_of(first_bytes(path)) if path.is_file() else None
        told = f"is {form[0]}: {form[1]}" if form else f"must end in {', '.join(ENDINGS)} (packed or not)"
        raise InputError(f"raw={path} {told}.")
    return read_parquet(path, wanted) if ending == ".parquet" else READERS[ending](path)


def _ending(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def _names(path: Path, row: Row) -> list[str]:
    """The columns that a table has, those that were not read too."""
    return column_names(path) if _ending(path) == ".parquet" else list(row)


def _with_columns(
    rows: Iterator[tuple[int, Row | BadRecord]], path: Path, columns: Columns
) -> Iterator[tuple[int, Row | BadRecord]]:
    """The rows, once the first of them shows every column that must be there.

    Optional columns under their own name may be absent; a name that was asked for may not. An empty name asks for none.
    """
    optional = ("concepts", "split", "time", "title")
    named = {k: name for k, name in asdict(columns).items() if k in optional and name not in (k, "")}
    needed = {key: getattr(columns, key) for key in ("user", "item", "rating", "text")} | named
    checked = False
    for line, row in rows:
        if not checked and not isinstance(row, BadRecord):
            missing = [key for key, name in needed.items() if name not in row]
            if missing:
                key, names = missing[0], one_line(", ".join(_names(path, row)))
                raise InputError(
                    f"{path}:{line}: there is no column '{needed[key]}', only {names}; "
                    f"name the one to use with columns.{key}=NAME."
                )
            checked = True
        yield line, row


def _parse(line: int, row: Row, columns: Columns, rating_middle: float) -> RawRecord:
    row.pop("", None)  # the index that pandas writes: no column that is left out
    rating = rating_of(row, columns.rating)
    explanation, cleaned = tokenised_review(text_of(row, columns.text))
    by_rating = (rating > rating_middle) - (rating < rating_middle)
    return RawRecord(
        line=line,
        user=text_of(row, columns.user),
        item=text_of(row, columns.item),
        rating=rating,
        explanation=explanation,
        mentions=_mentions(row[columns.concepts], by_rating) if columns.concepts in row else None,
        split=_value(row, columns.split),
        time=_time(row, columns.time),
        item_title=plain(_value(row, columns.title) or ""),
        cleaned=cleaned,
    )


def _value(row: Row, key: str) -> str | None:
    text = optional_text(row, key)
    return None if text is None or is_no_value(normalise(text)) else text


def _time(row: Row, key: str) -> int | None:
    try:
        return time_of(row, key)
    except Unusable as fault:
        raise Unusable(fault.args[0], f"{fault.args[1]} (columns.time= leaves the column out)") from None


def _mentions(cell: Any, polarity: int) -> list[tuple[str, str, int]]:
    """Concepts of one cell; `polarity` is for those that have none of their own."""
    if is_absent(cell):
        return []
    if isinstance(cell, str):
        cell = [] if is_no_value(normalise(cell)) else plain(cell).split(";")  # entities end with a semicolon, too
    if not isinstance(cell, list):
        raise Unusable("wrong type", f"concepts are {cell!r:.40} where a text or a list is due")
    return [_mention(entry, polarity) for entry in cell]


def _mention(entry: Any, polarity: int) -> tuple[str, str, int]:
    if isinstance(entry, str):
        return tokenised(plain(entry)), "", polarity
    if not isinstance(entry, dict):
        raise Unusable("wrong type", f"a concept is {entry!r:.40} where a text or an object is due")
    own = entry.get("polarity")
    opinion = optional_text(entry, "opinion") or ""
    return (
        tokenised(plain(text_of(entry, "concept"))),
        plain(opinion).lower(),
        polarity if is_absent(own) else polarity_of(own),
    )
