"""Small raw files of every format that are whole but odd, as files of real sources are: for benchmarks/fuzz.py.

Texts with markup and in other scripts, times in any unit, spellings of ids, byte order marks and encodings, packings,
other forms under the same name, columns of Parquet of any type.
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
import zipfile
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

RECORDS = 24
FORMATS = (
    *(("table", ending) for ending in (".csv", ".tsv", ".jsonl", ".json", ".parquet")),
    *((name, ".json") for name in ("amazon_5core", "yelp", "tripadvisor", "nlg4rs_jsonl")),
    *(("nlg4rs", ".pickle"), ("sentires", ".pickle"), ("xrec", ".jsonl"), ("recbole", ".inter")),
)
TEXTS = (
    "The great sound is fine. It's a bad cable, too!",
    "The great sound is fine.<br /><br />It's a bad cable, <b>too</b>!",
    "The great sound is &quot;fine&quot; &amp; loud &#34;x&#34; &lt;3 [[VIDEOID:ab12]] <a href='x'>link</a>",
    "<p>The great sound</p><ul><li>bad cable</li></ul><script>alert(1)</script>",
    "a < b and c > d, I <3 it & you; x<y>z <",
    "الصوت رائع، هل هو جيد؟ نعم۔",
    "音が大きい。ケーブルは悪い！",
    "आवाज़ बढ़िया है। केबल खराब है॥",
    "소리가 좋다. 케이블은 나쁘다.",
    "звук отличный… кабель плохой — да!",
    "\ufeffThe great sound\u200b is fine\u00a0. \u202eodd\u202c",
    "e\u0301 café 👍🏽 ﬁne \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "The great\r\nsound is\u2028fine",
    "n/a",
)
SPELLINGS = ("{}", " {} ", "{}.0", "\ufeff{}", "{}\u200b", "0{}")
NO_IDS = ("nan", "None", "null", "", "A TripAdvisor Member", "anonymous")
TIMES = (
    1_456_099_200,
    1_456_099_200_000,
    1_456_099_200.5,
    "2016-02-22",
    "2016-02-22T10:30:00Z",
    "02/22/2016",
    -1,
    0,
    None,
)
TIMES += (1_456_099_200_000_000_000, "1456099200000", "soon", 1e300)
NAMES = {
    "table": ("user", "item", "rating", "text", "time"),
    "amazon_5core": ("reviewerID", "asin", "overall", "reviewText", "unixReviewTime"),
    "yelp": ("user_id", "business_id", "stars", "text", "date"),
    "tripadvisor": ("author", "hotel_url", "rating", "text", "date"),
    "xrec": ("uid", "iid", "stars", "explanation", "when"),
    "recbole": ("user_id:token", "item_id:token", "rating:float", "review:token_seq", "timestamp:float"),
}
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "gb18030")
PACKINGS = (bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress)
TYPES = {
    "user": (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())),
    "text": (pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())),
    "rating": (pa.int8(), pa.float32(), pa.float16(), pa.decimal128(9, 2), pa.string(), pa.uint64(), pa.bool_()),
    "time": (
        pa.timestamp("s"),
        pa.timestamp("ns", "Asia/Tokyo"),
        pa.timestamp("us"),
        pa.date32(),
        pa.int64(),
        pa.time64("ns"),
    ),
}


def odd_file(layout: str, ending: str, draw: random.Random) -> bytes:
    """A file of 24 records, each with a rating; in one of ten the bytes are those of another form."""
    rows = _rows(draw)
    if layout in ("nlg4rs", "nlg4rs_jsonl", "sentires"):
        rows = [_explained(row, layout, draw) for row in rows]
    elif ending != ".parquet":
        rows = [dict(zip(NAMES[layout], row, strict=True)) for row in rows]
    if ending == ".parquet":
        return _parquet(rows, draw)
    if ending == ".pickle":
        return draw.choice(PACKINGS)(pickle.dumps(rows))
    separator = {".csv": ",", ".tsv": "\t", ".inter": "\t"}.get(ending)
    text = _cells(rows, separator) if separator else _json(rows, draw)
    data = text.encode(draw.choice(ENCODINGS), "replace")
    if draw.random() < 0.1:
        data = draw.choice((_zip, _tar, _page, _pointer, lambda raw: raw[:0]))(data)
    return draw.choice(PACKINGS)(data)


def _rows(draw: random.Random) -> list[tuple]:
    spellings, times = draw.sample(SPELLINGS, 2), draw.sample(TIMES, 2)
    texts = draw.sample(TEXTS, 3)
    rows = []
    for number in range(RECORDS):
        user = draw.choice(NO_IDS) if draw.random() < 0.05 else draw.choice(spellings).format(number % 4 + 1)
        item = f"i{number // 4}"
        rows.append((user, item, 1 + number % 5, draw.choice(texts), draw.choice(times)))
    return rows


def _explained(row: tuple, layout: str, draw: random.Random) -> dict:
    user, item, rating, text, _ = row
    made = {"user": user, "item": item, "rating": rating}
    quadruples = [("Sound", "fine", text, draw.choice((1, -1))) for _ in range(draw.randrange(4))]
    if layout != "sentires":
        return made | {"template": ("sound", "fine", text, 1)}
    return made | {"text": text} | ({"sentence": quadruples} if quadruples else {})


def _json(rows: list[dict], draw: random.Random) -> str:
    if draw.random() < 0.2:
        return json.dumps(rows, ensure_ascii=draw.random() < 0.5, indent=draw.choice((None, 1)))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _cells(rows: list[dict], separator: str) -> str:
    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        if separator == "\t":
            return " ".join(text.split())
        return '"' + text.replace('"', '""') + '"'

    lines = [separator.join(rows[0]), *(separator.join(map(cell, row.values())) for row in rows)]
    return "".join(line + "\n" for line in lines)


def _parquet(rows: list[tuple], draw: random.Random) -> bytes:
    users, items, ratings, texts, _ = (list(column) for column in zip(*rows, strict=True))
    text, time = draw.choice(TYPES["text"]), draw.choice(TYPES["time"])
    seconds = draw.choice((1_456_099_200, -1, 2**40, -(2**40)))
    columns = {
        "user": pa.array(users).cast(draw.choice(TYPES["user"])),
        "item": pa.array(items).cast(draw.choice(TYPES["user"])),
        "rating": _ratings(ratings, draw.choice(TYPES["rating"])),
        "text": pa.array(texts).cast(text),
        "time": _moments(seconds, time),
        "beside": draw.choice((pa.array([2**62] * RECORDS, pa.timestamp("us")), pa.array([b"\xff"] * RECORDS))),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _ratings(ratings: list[int], kind: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(rating) for rating in ratings], kind)
    return pa.array(ratings).cast(kind)


def _moments(seconds: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_time(kind):
        return pa.array([seconds % 86_400] * RECORDS, pa.int64()).cast(kind)
    if pa.types.is_date(kind):
        return pa.array([seconds // 86_400 % 2**31] * RECORDS, pa.int32()).cast(kind)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.array([datetime.fromtimestamp(abs(seconds) % 2**31, UTC)] * RECORDS, kind)
    factor = 10**6 if pa.types.is_timestamp(kind) and kind.unit == "us" else 1
    return pa.array([seconds * factor] * RECORDS, pa.int64()).cast(kind)


def _zip(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("raw", data)
    return sink.getvalue()


def _tar(data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("raw")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def _page(data: bytes) -> bytes:
    return b"<!doctype html>\n<html><body>" + data + b"</body></html>\n"


def _pointer(data: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize %d\n" % len(data)
