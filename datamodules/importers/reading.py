"""Raw files -> rows with a line number. A line that is no row yields a BadRecord, a file that cannot be read raises
InputError.

Bytes that are not UTF-8 are carried on as surrogates, so that the one check in datamodules.records finds them wherever
they stand, in JSON escapes as well.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from datamodules.records import BadRecord, Facts, RawRecord
from metrics.errors import InputError
from metrics.text_files import json_values, text_lines

Row = dict[str, Any]
# An opening quote that is never closed swallows the lines after it: stop at this many characters.
LONGEST_CELL = 1 << 24
LATEST = 2.0**62  # of unix seconds: must fit a 64-bit column


Parsed = TypeVar("Parsed", RawRecord, Facts)


class Unusable(Exception):
    """A row that cannot become a record: what a BadRecord holds behind its line."""


def parsed(
    rows: Iterator[tuple[int, Row | BadRecord]], parse: Callable[[int, Row], Parsed]
) -> Iterator[Parsed | BadRecord]:
    """Each row as a record or as facts; where `parse` raises Unusable, a BadRecord in its place."""
    for line, row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        try:
            yield parse(line, row)
        except Unusable as fault:
            yield BadRecord(line, *fault.args)


def read_json_lines(path: Path, parse: Callable[[str], Any] = json.loads) -> Iterator[tuple[int, Row | BadRecord]]:
    """(line number, object) of a JSON Lines file, packed or not; blank lines hold nothing and are passed over.

    A file that is one JSON array gives its objects, numbered from 1.
    """
    for line, row in json_values(path, parse):
        if isinstance(row, dict):
            yield line, row
        elif isinstance(row, Exception):
            yield line, BadRecord(line, "unreadable line", f"is not JSON ({one_line(row)})")
        else:
            yield line, BadRecord(line, "unreadable line", "is JSON but not an object with keys")


def read_csv(path: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    """(line number, row) of a CSV file with a header line and double quotes, gzipped or not.

    A row that spans lines carries the number of its last one.
    """
    csv.field_size_limit(LONGEST_CELL)
    return _delimited(csv.reader(text_lines(path), strict=True), path)


def read_tsv(path: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    """(line number, row) of a file with a header line and one tab between cells; quotes mean nothing in it."""
    csv.field_size_limit(LONGEST_CELL)
    return _delimited(csv.reader(text_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE), path)


def one_line(what: object) -> str:
    """What an error or a column name says, on one line."""
    return " ".join(str(what).split())


def is_absent(value: Any) -> bool:
    """Nothing: null, an empty text, or the NaN that pandas puts where a table had no value."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text_of(row: Row, key: str) -> str:
    """A text that must be there; a number becomes its digits. Emptiness is judged by datamodules.records."""
    value = row.get(key)
    if type(value) is str:
        return value
    if is_absent(value):
        raise Unusable("missing key", f"has no '{key}'")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable("wrong type", f"'{key}' is {value!r:.40} where a text is due")
    return str(value)


def rating_of(row: Row, key: str) -> float:
    """A rating as a number; whether it is finite and in range is judged by datamodules.records."""
    rating = row.get(key)
    if type(rating) is float or (type(rating) is int and abs(rating) < LATEST):
        return float(rating)
    text = text_of(row, key)
    try:
        return float(text)
    except ValueError:
        raise Unusable("unreadable rating", f"'{key}' is '{text:.40}' where a number is due") from None


def optional_text(row: Row, key: str) -> str | None:
    """A text, or None where it is absent or empty."""
    return None if is_absent(row.get(key)) else text_of(row, key)


def polarity_of(value: Any) -> int:
    """-1, 0 or 1, given as a number or its text."""
    if value in (-1, 0, 1) and type(value) is int:
        return value
    try:
        polarity = float(value)
    except (TypeError, ValueError, OverflowError):
        polarity = None
    if polarity not in (-1, 0, 1):
        raise Unusable("unknown polarity", f"sentiment {value!r:.40} is none of -1, 0, 1")
    return int(polarity)


def _delimited(reader: Any, path: Path) -> Iterator[tuple[int, Row | BadRecord]]:
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise InputError(f"{path}:1: the header is no row of a table ({one_line(error)}): mend the line.") from None
    header = [name.strip() for name in header]
    if not header:
        raise InputError(f"{path} is empty: check the path or copy it anew.")
    if header[0][:1] in ("{", "["):
        raise InputError(f"{path} holds JSON and no table of cells: end its name in .jsonl.")
    if len(header) == 1 and set(header[0]) & set(",;\t|"):
        raise InputError(
            f"{path}:1: the header is a single cell, '{one_line(header[0]):.60}': part cells by commas in a .csv, by "
            "tabs in a .tsv."
        )
    if len(set(header)) < max(len(header), 1):
        raise InputError(f"{path}:1: the header names a column twice; give each column one name.")
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, BadRecord(reader.line_num, "unreadable line", f"is no row of the table ({error})")
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield reader.line_num, dict(zip(header, cells, strict=True))
        else:
            detail = f"has {len(cells)} cells where the header has {len(header)}"
            yield reader.line_num, BadRecord(reader.line_num, "unreadable line", detail)
