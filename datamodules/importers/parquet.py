"""Parquet files -> rows of plain values: texts, numbers, lists and objects, whatever types the columns have.

Only the columns that are asked for are read: a damaged or odd one beside them does not matter. Days and points in time
are ISO texts (UTC), whatever their unit; decimals are numbers; bytes are texts.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.importers.reading import Row, one_line
from datamodules.records import BadRecord
from metrics.errors import InputError
from metrics.file_form import encoding_of, packing_of
from metrics.text_files import first_bytes

_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_A_DAY = 86_400_000  # milliseconds
_START = datetime(1970, 1, 1, tzinfo=UTC)


def column_names(path: Path) -> list[str]:
    """The columns that a file has, those of its top level. Raises InputError for what is no Parquet file."""
    try:
        return pq.ParquetFile(path).schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise _unreadable(path, 0, error) from None


def read_parquet(path: Path, wanted: Collection[str]) -> Iterator[tuple[int, Row | BadRecord]]:
    """(row number from 1, row) of a Parquet file, of the columns that are wanted and there."""
    names = column_names(path)
    twice = [name for name in dict.fromkeys(wanted) if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} names the column {one_line(twice[0])} twice: give each column one name.")
    columns = [name for name in names if name in wanted]
    line = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=10_000, columns=columns):
            values = [_values(batch.column(name)) for name in columns]
            for number in range(batch.num_rows):
                line += 1
                yield line, {name: column[number] for name, column in zip(columns, values, strict=True)}
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, KeyError, OverflowError) as error:
        raise _unreadable(path, line, error) from None


def _values(column: pa.Array) -> list[Any]:
    """The values of a column as Python's texts, numbers, lists and objects."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        stored = column.storage
        if kind.extension_name == "arrow.uuid":
            return [None if value is None else str(UUID(bytes=value)) for value in stored.to_pylist()]
        return _values(stored)
    if pa.types.is_dictionary(kind):
        names = _values(column.dictionary)
        return [None if index is None else names[index] for index in column.indices.to_pylist()]
    if pa.types.is_duration(kind):
        return [
            None if value is None else value // _A_SECOND[kind.unit] for value in column.cast(pa.int64()).to_pylist()
        ]
    if pa.types.is_timestamp(kind):
        return [_instant(value, _A_SECOND[kind.unit]) for value in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_date32(kind):
        return [_day(value) for value in column.cast(pa.int32()).to_pylist()]
    if pa.types.is_date64(kind):
        return [None if n is None else _day(n // _A_DAY) for n in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_time(kind):
        return column.cast(pa.string()).to_pylist()
    if pa.types.is_float16(kind):
        return [None if value is None else float(value) for value in column.to_pylist()]
    if pa.types.is_string(kind):
        column, kind = column.cast(pa.binary()), pa.binary()
    elif pa.types.is_large_string(kind):
        column, kind = column.cast(pa.large_binary()), pa.large_binary()
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _instant(value: int | None, a_second: int) -> str | None:
    """A point in time as text; one beyond the years 1 to 9999 as a text that is no date."""
    if value is None:
        return None
    seconds, rest = divmod(value, a_second)
    try:
        return (_START + timedelta(seconds=seconds, microseconds=rest * 10**6 // a_second)).isoformat()
    except OverflowError:
        return f"{seconds} seconds from 1970"


def _day(value: int | None) -> str | None:
    if value is None:
        return None
    try:
        return (_START + timedelta(days=value)).date().isoformat()
    except OverflowError:
        return f"{value} days from 1970"


def _unreadable(path: Path, line: int, error: Exception) -> InputError:
    """What is wrong with a file, or what it is where it is no Parquet file."""
    reason, remedy = one_line(error), "write it anew"
    try:
        with path.open("rb") as stream:
            packing = packing_of(stream.read(10))
        head = first_bytes(path)
        if packing and head.startswith(b"PAR1"):
            reason, remedy = f"it is packed by {packing}", "unpack it; Parquet packs itself"
        elif not head:
            reason, remedy = "it is empty", "copy it anew"
        elif not head.startswith(b"PAR1"):
            encoding_of(path, head)
            reason, remedy = "it is a text", "end its name in what it is: .csv, .tsv or .jsonl"
    except OSError:
        return InputError(f"{path} cannot be read ({reason}): check the path.")
    except InputError as fault:
        return fault
    return InputError(f"{path} cannot be read as Parquet after row {line} ({reason}): {remedy}.")
