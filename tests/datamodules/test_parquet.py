"""Tables in Parquet: values of any type of column, and columns that nobody asked for."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.importers import table
from datamodules.importers.table import Columns
from datamodules.records import BadRecord
from metrics.errors import InputError

ROW = {"user": "u", "item": "i", "rating": 4, "text": "Fine."}
BEFORE_CHRIST, FAR = -70_000_000_000_000_000, 2**62  # microseconds from 1970


def records(tmp_path, columns, names=None):
    file = tmp_path / "t.parquet"
    base = {name: pa.array([value]) for name, value in ROW.items()}
    pq.write_table(pa.table(base | columns), file)
    return list(table.read(file, names or Columns(), 3.0))


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([BEFORE_CHRIST], pa.timestamp("us")),
        pa.array([FAR], pa.timestamp("us", "UTC")),
        pa.array([1_456_099_200_000_000_001], pa.timestamp("ns")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        pa.array([1], pa.duration("ns")),
        pa.array([b"\xff"]),
        pa.array([[{"a": Decimal("1.5")}]]),
    ],
    ids=["before Christ", "far", "nanoseconds", "a day out of range", "duration", "bytes", "nested"],
)
def test_a_column_that_nobody_asked_for_does_not_matter(tmp_path, odd):
    (record,) = records(tmp_path, {"seen_at": odd})
    assert (record.user, record.item, record.rating, record.explanation) == ("u", "i", 4.0, "fine .")


@pytest.mark.parametrize(
    ("rating", "expected"),
    [
        (pa.array([Decimal("4.50")]), 4.5),
        (pa.array([Decimal("4")], pa.decimal256(40, 2)), 4.0),
        (pa.array([4], pa.int8()), 4.0),
        (pa.array([4], pa.uint64()), 4.0),
        (pa.array([np.float16(4.5)], pa.float16()), 4.5),
        (pa.array([4.5], pa.float32()), 4.5),
        (pa.array(["4.5"]).dictionary_encode(), 4.5),
        (pa.array([4]).dictionary_encode(), 4.0),
        (pa.array([Decimal("4.5")]).dictionary_encode(), 4.5),
        (pa.array([b"4.5"]), 4.5),
    ],
    ids=["decimal", "wide decimal", "int8", "uint64", "half", "float", "category", "numbers", "decimals", "bytes"],
)
def test_a_rating_is_a_number_in_any_type(tmp_path, rating, expected):
    (record,) = records(tmp_path, {"rating": rating})
    assert record.rating == expected


AT = datetime(2016, 2, 22, 10, 30, tzinfo=UTC)
SECONDS, DAY = 1_456_137_000, 1_456_099_200


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *((pa.array([AT.replace(tzinfo=None)], pa.timestamp(unit)), SECONDS) for unit in ("s", "ms", "us", "ns")),
        (pa.array([AT], pa.timestamp("us", "America/New_York")), SECONDS),
        (pa.array([SECONDS * 10**9 + 1], pa.timestamp("ns")), SECONDS),
        (pa.array([date(2016, 2, 22)], pa.date32()), DAY),
        (pa.array([date(2016, 2, 22)], pa.date64()), DAY),
        (pa.array([SECONDS * 1000]), SECONDS),
        (pa.array([Decimal(SECONDS)]), SECONDS),
        (pa.array(["2016-02-22"]).dictionary_encode(), DAY),
        (pa.array([None], pa.timestamp("ns")), None),
        (pa.array([None], pa.null()), None),
        (pa.array([date(1969, 12, 31)]), -86_400),
    ],
)
def test_a_time_is_read_in_any_type(tmp_path, written, expected):
    (record,) = records(tmp_path, {"time": written})
    assert record.time == expected


@pytest.mark.parametrize(
    "written",
    [
        pa.array([FAR], pa.timestamp("us")),
        pa.array([BEFORE_CHRIST], pa.timestamp("us")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        pa.array([time(10, 30)]),
    ],
    ids=["far", "before Christ", "a day out of range", "a time of the day"],
)
def test_a_time_that_no_calendar_knows_is_a_bad_record(tmp_path, written):
    (bad,) = records(tmp_path, {"time": written})
    assert (bad.line, bad.reason) == (1, "unreadable time")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (pa.array([Decimal("12.00")]), "12"),
        (pa.array([Decimal(10**30)], pa.decimal128(38, 0)), "1" + "0" * 30),
        (pa.array([b"u7"], pa.large_binary()), "u7"),
        (pa.array(["u7"], pa.large_string()), "u7"),
        (pa.array(["u7"], pa.string_view()), "u7"),
        (pa.array(["u7"]).dictionary_encode(), "u7"),
        (pa.array([7], pa.uint8()), "7"),
        (pa.array([bytes(range(16))], pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (pa.array([date(2016, 2, 22)]), "2016-02-22"),
    ],
)
def test_an_id_is_a_text_in_any_type(tmp_path, user, expected):
    (record,) = records(tmp_path, {"user": user})
    assert record.user == expected


@pytest.mark.parametrize(
    "concepts",
    [
        pa.array([["neck", "case"]]),
        pa.array([["neck", "case"]], pa.large_list(pa.string())),
        pa.array([[b"neck", b"case"]]),
        pa.array([["neck", "case"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([["neck", "case"]], pa.list_(pa.string(), 2)),
        pa.array([[{"concept": "neck", "polarity": Decimal(1)}, {"concept": "case", "polarity": Decimal(1)}]]),
        pa.array(["neck; case"]),
    ],
)
def test_concepts_are_lists_in_any_type(tmp_path, concepts):
    (record,) = records(tmp_path, {"concepts": concepts})
    assert record.mentions == [("neck", "", 1), ("case", "", 1)]


def test_a_text_that_is_not_utf_8_is_one_bad_record(tmp_path):
    file = tmp_path / "t.parquet"
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"Fine.", b"caf\xe9"]).buffers())
    columns = {"user": ["u", "v"], "item": ["i", "i"], "rating": [4, 4], "text": texts}
    pq.write_table(pa.table(columns), file)
    first, second = table.read(file, Columns(), 3.0)
    assert (first.explanation, second.explanation) == ("fine .", "caf\udce9")  # records.accepted rejects the surrogate


def test_a_missing_column_is_told_with_all_that_are_there(tmp_path):
    with pytest.raises(InputError, match="no column 'stars', only user, item, rating, text, seen_at; name the one"):
        records(tmp_path, {"seen_at": pa.array([1])}, Columns(rating="stars"))


def test_a_column_that_is_there_twice_is_told(tmp_path):
    file = tmp_path / "t.parquet"
    names = ["user", "item", "rating", "text", "text"]
    pq.write_table(pa.Table.from_arrays([pa.array([value]) for value in [*ROW.values(), "x"]], names), file)
    with pytest.raises(InputError, match="names the column text twice"):
        list(table.read(file, Columns(), 3.0))


def test_attributes_are_plain_values(tmp_path):
    file = tmp_path / "t.parquet"
    columns = {name: [value] for name, value in ROW.items()} | {"price": [Decimal("9.50")], "since": [timedelta(1)]}
    pq.write_table(pa.table(columns), file)
    (facts,) = table.read_facts(file, Columns(item_attributes="price,since"), "item")
    assert not isinstance(facts, BadRecord)
    assert facts.attributes == {"price": 9.5, "since": 86_400}
