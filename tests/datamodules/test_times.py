"""Times in every unit and form become unix seconds."""

import datetime
import json

import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.importers import table
from datamodules.importers.reading import Unusable
from datamodules.importers.times import time_of

SECONDS = 1_456_138_800  # 2016-02-22 11:00:00 UTC, by `date -u -d @1456138800`


@pytest.mark.parametrize(
    "value",
    [
        SECONDS,
        str(SECONDS),
        float(SECONDS),
        SECONDS * 1000 + 123,
        str(SECONDS * 1000),
        SECONDS * 1_000_000,
        SECONDS * 1_000_000_000,
        f"{SECONDS}.25",
        "1.4561388e9",
        "2016-02-22T11:00:00",
        "2016-02-22 11:00:00",
        "2016-02-22T11:00:00Z",
        "2016-02-22T13:00:00+02:00",
        "2016-02-22T11:00:00.123456",
        "20160222110000",
        20160222110000,
        "2016-02-22 11:00:00 UTC",
        "Mon, 22 Feb 2016 11:00:00 GMT",
        "Mon Feb 22 13:00:00 +0200 2016",
        f"\ufeff{SECONDS}\u00a0",
        datetime.datetime(2016, 2, 22, 11),  # noqa: DTZ001 - what Parquet gives for a column without a zone
        datetime.datetime(2016, 2, 22, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    ],
)
def test_an_instant_in_every_form(value):
    assert time_of({"time": value}, "time") == SECONDS


@pytest.mark.parametrize(
    "value",
    ["2016-02-22", "20160222", 20160222, "Feb 22 2016", "22-Feb-2016",
     "February 22, 2016", "Feb 22, 2016", "02 22, 2016", "22 February 2016", "2016/02/22",
     datetime.date(2016, 2, 22)],
)  # fmt: skip
def test_a_day_in_every_form(value):
    assert time_of({"time": value}, "time") == 1_456_099_200


@pytest.mark.parametrize("value", [None, "", " ", "NaN", "NaT", "null", float("nan")])
def test_an_absent_time_is_none(value):
    assert time_of({"time": value}, "time") is None
    assert time_of({}, "time") is None


@pytest.mark.parametrize("value", ["03/04/2016", "yesterday", "inf", "1e400", True, [1], "2016-13-45"])
def test_what_is_no_time_is_told(value):
    with pytest.raises(Unusable):
        time_of({"time": value}, "time")


@pytest.mark.parametrize("value", [0, 1, -86_400, 86_400, 99_999_999_999, 20161345, 31129999])
def test_seconds_stay_seconds(value):
    assert time_of({"time": value}, "time") == value


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_a_span_of_time_keeps_the_same_records_in_every_unit(tmp_path, unit):
    day = 86_400
    rows = [
        {"user": f"u{n}", "item": "i", "rating": 4, "text": "a fine lid", "time": (SECONDS + n * day) * unit}
        for n in range(10)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = BuildOptions(since="2016-02-24", until="2016-02-28", explanation="whole")
    corpus = build_corpus(table.read(path, table.Columns(), 3.0), tmp_path / "out", options, {"file": str(path)})
    assert sorted(corpus.users) == ["u2", "u3", "u4", "u5", "u6"]
    assert corpus.manifest["days"] == ["2016-02-24", "2016-02-28"]
