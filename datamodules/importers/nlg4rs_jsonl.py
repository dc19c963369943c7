"""The layout of NLG4RS, PETER and PEPLER (`reviews.pickle`) as JSON Lines: one explained rating a line.

    {"user", "item", "rating", "feature", "opinion", "sentence", "sentiment", "split"}     or
    {"user", "item", "rating", "template": [feature, opinion, sentence, sentiment]}            or
    {"user", "item", "rating", "text", "sentence": [[feature, opinion, sentence, sentiment], ...]}

Sentences are already tokenised and stay as they are, but for those of the last layout, see `quadruples`; markup, where
a sentence holds any, is taken out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.importers.markup import plain
from datamodules.importers.quadruples import checked, chosen, has_quadruples
from datamodules.importers.reading import (
    Row,
    Unusable,
    parsed,
    polarity_of,
    rating_of,
    read_json_lines,
    text_of,
)
from datamodules.importers.tokenising import tokenised
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError

INDEX_FILES = {"train": "train.index", "valid": "validation.index", "test": "test.index"}
TEMPLATE = ("feature", "opinion", "sentence", "sentiment")


def read(path: Path, splits: Path | None = None, rating_middle: float = 3.0) -> Iterator[RawRecord | BadRecord]:
    """The records of a file, packed or not, with the splits the lines give or those of a folder.

    `rating_middle` parts the ratings that count as praise from those that count as criticism. The folder holds
    train.index, validation.index and test.index: record numbers from 0, between blanks. Raises InputError where such a
    file is missing, is no list of numbers, names a record twice or one that does not exist.
    """
    records = checked(parsed(read_json_lines(path), partial(parse, rating_middle)), path)
    return records if splits is None else with_splits(records, splits)


def parse(rating_middle: float, line: int, row: Row) -> RawRecord:
    """One explained rating; raises Unusable."""
    row = {**row, **_template(row)} if "template" in row else row
    rating = rating_of(row, "rating")
    if has_quadruples(row):
        explanation, mentions, cleaned = chosen(row, (rating > rating_middle) - (rating < rating_middle))
    else:
        named = plain(text_of(row, "feature")), plain(text_of(row, "opinion"))
        mentions = [(*named, polarity_of(row.get("sentiment")))]
        explanation, cleaned = _sentence(text_of(row, "sentence"))
    return RawRecord(
        line=line,
        user=text_of(row, "user"),
        item=text_of(row, "item"),
        rating=rating,
        explanation=explanation,
        mentions=mentions,
        split=text_of(row, "split") if row.get("split") is not None else None,
        cleaned=cleaned,
    )


def _sentence(text: str) -> tuple[str, bool]:
    """The sentence as it stands; where markup is taken out, marks stood in it that are parted from words anew."""
    cleaned = plain(text)
    return (text, False) if cleaned == text else (tokenised(cleaned), True)


def _template(row: Row) -> dict[str, Any]:
    values = row["template"]
    if not isinstance(values, list) or len(values) != len(TEMPLATE):
        raise Unusable("unreadable line", f"'template' is not a list of {', '.join(TEMPLATE)}")
    return dict(zip(TEMPLATE, values, strict=True))


def with_splits(records: Iterator[RawRecord | BadRecord], folder: Path) -> Iterator[RawRecord | BadRecord]:
    """The records with the splits of index files.

    A bad record has a number too: the index files count lines, not what could be read.
    """
    split_of = _read_index(folder)
    count = 0
    for record in records:
        split = split_of.get(count)
        if isinstance(record, BadRecord):
            yield record
        elif split is None:
            yield BadRecord(record.line, "missing split", f"is record {count}, which no index file of {folder} names")
        else:
            yield record._replace(split=split)
        count += 1
    beyond = sorted(number for number in split_of if number >= count)
    if beyond:
        file = folder / INDEX_FILES[split_of[beyond[0]]]
        raise InputError(
            f"{file} names record {beyond[0]} and the last one is {count - 1}: use the index of this file."
        )


def _read_index(folder: Path) -> dict[int, str]:
    split_of: dict[int, str] = {}
    for split, name in INDEX_FILES.items():
        file = folder / name
        try:
            numbers = [int(word) for word in file.read_text(encoding="utf-8-sig").split()]
        except OSError as error:
            needed = ", ".join(INDEX_FILES.values())
            raise InputError(f"{file} cannot be read ({error.strerror}): the folder splits= needs {needed}.") from None
        except ValueError as error:
            raise InputError(f"{file} must hold whole numbers between blanks ({error}).") from None
        for number in numbers:
            if number < 0 or number in split_of:
                raise InputError(f"{file} names record {number}, which is negative or named before: name each once.")
            split_of[number] = split
    return split_of
