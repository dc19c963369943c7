"""RecBole's atomic files: NAME.inter, and NAME.item and NAME.user beside it.

Tab-separated, with a header of `name:type`. Read are user_id, item_id, rating, timestamp and the first
of TEXTS of the .inter file; item_id with its title, user_id, and all other columns as attributes of the side files.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.importers.markup import plain, tokenised_review
from datamodules.importers.reading import Row, one_line, optional_text, parsed, rating_of, read_tsv, text_of
from datamodules.importers.times import time_of
from datamodules.records import BadRecord, Facts, RawRecord
from metrics.errors import InputError

TEXTS = ("review", "review_text", "reviewText", "text", "comment", "explanation")
TITLES = ("title", "movie_title", "item_name", "name")


def read(path: Path) -> Iterator[RawRecord | BadRecord]:
    """The records of an .inter file. Raises InputError where no column is a text: nothing explains the ratings then."""
    return parsed(_named(_with_text(path)), _record)


def read_items(path: Path) -> Iterator[Facts | BadRecord]:
    """Titles and attributes of an .item file."""
    return parsed(_named(read_tsv(path)), lambda line, row: _facts(row, "item_id"))


def read_users(path: Path) -> Iterator[Facts | BadRecord]:
    """Attributes of a .user file."""
    return parsed(_named(read_tsv(path)), lambda line, row: _facts(row, "user_id"))


def _named(rows: Iterator[tuple[int, Row | BadRecord]]) -> Iterator[tuple[int, Row | BadRecord]]:
    """The rows with `name` in the place of `name:type`."""
    for line, row in rows:
        if isinstance(row, BadRecord):
            yield line, row
        else:
            yield line, {name.partition(":")[0]: value for name, value in row.items()}


def _with_text(path: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    for line, row in read_tsv(path):
        if not isinstance(row, BadRecord) and not {name.partition(":")[0] for name in row} & set(TEXTS):
            raise InputError(
                f"{path}:1: none of the columns is a text ({', '.join(TEXTS)}), only {one_line(', '.join(row))}: "
                "ratings alone explain nothing; use a data set with reviews."
            )
        yield line, row


def _record(line: int, row: Row) -> RawRecord:
    explanation, cleaned = tokenised_review(text_of(row, next(name for name in TEXTS if name in row)))
    return RawRecord(
        line=line,
        user=text_of(row, "user_id"),
        item=text_of(row, "item_id"),
        rating=rating_of(row, "rating"),
        explanation=explanation,
        mentions=None,
        time=time_of(row, "timestamp"),
        cleaned=cleaned,
    )


def _facts(row: Row, key: str) -> Facts:
    title = next((name for name in TITLES if name in row), "")
    attributes = {name: value for name, value in row.items() if value and name not in (key, title)}
    return Facts(text_of(row, key), plain(optional_text(row, title) or "") if key == "item_id" else "", attributes)
