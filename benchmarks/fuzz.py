"""Breaks raw files of every format, or makes odd ones, and prepares them: a corpus or one sentence, nothing else.

    python benchmarks/fuzz.py [CASES] [SEED]             # default 20000 cases in all, seed 0

Every second file is broken, the others are whole but odd (benchmarks/odd_files.py). Prints one JSON line: cases tried
by format, how many gave a corpus and how many a sentence. Any other outcome (a traceback of another kind, a folder that
is neither whole nor absent, a record that was neither kept nor counted, markup in an explanation) stops the campaign
with the bytes that caused it.
"""

import contextlib
import gzip
import io
import json
import pickle
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from odd_files import FORMATS, RECORDS, odd_file

from datamodules.corpus import Corpus
from launch import prepare
from launch.config import load
from launch.prepare import PrepareConfig
from metrics.errors import InputError

TEXT = "The great sound is fine. It's a bad cable, too!"
PAIRS = [(f"u{n % 4}", f"i{n // 4}", 1 + n % 5) for n in range(24)]


def _lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet() -> bytes:
    sink = io.BytesIO()
    columns = ("user", "item", "rating")
    pq.write_table(pa.table(dict(zip(columns, zip(*PAIRS, strict=True), strict=True)) | {"text": [TEXT] * 24}), sink)
    return sink.getvalue()


def _table(separator: str, quote: str) -> bytes:
    rows = [("user", "item", "rating", "text"), *((u, i, str(r), f"{quote}{TEXT}{quote}") for u, i, r in PAIRS)]
    return "".join(separator.join(row) + "\n" for row in rows).encode()


# format and ending -> a small file without a fault
VALID = {
    ("table", ".csv"): _table(",", '"'),
    ("table", ".tsv"): _table("\t", ""),
    ("table", ".jsonl"): _lines({"user": u, "item": i, "rating": r, "text": TEXT, "time": 7} for u, i, r in PAIRS),
    ("table", ".parquet"): _parquet(),
    ("amazon_5core", ".json"): _lines(
        {"reviewerID": u, "asin": i, "overall": r, "reviewText": TEXT, "unixReviewTime": 9} for u, i, r in PAIRS
    ),
    ("yelp", ".json"): _lines(
        {"user_id": u, "business_id": i, "stars": r, "text": TEXT, "date": "2018-07-07"} for u, i, r in PAIRS
    ),
    ("tripadvisor", ".json"): _lines(
        {"author": u, "hotel_url": i, "rating": r, "text": TEXT, "date": "2018-07-07"} for u, i, r in PAIRS
    ),
    ("nlg4rs_jsonl", ".jsonl"): _lines(
        {"user": u, "item": i, "rating": r, "template": ["sound", "fine", TEXT, 1]} for u, i, r in PAIRS
    ),
    ("nlg4rs", ".pickle"): pickle.dumps(
        [{"user": u, "item": i, "rating": r, "template": ("sound", "fine", TEXT, 1)} for u, i, r in PAIRS]
    ),
    ("xrec", ".jsonl"): _lines({"uid": u, "iid": i, "title": "t", "explanation": TEXT} for u, i, r in PAIRS),
    ("recbole", ".inter"): (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview:token_seq\n"
        + "".join(f"{u}\t{i}\t{r}\t{r}\t{TEXT}\n" for u, i, r in PAIRS)
    ).encode(),
}
NASTY = (
    *(b"\x00", b"\xff", b"\xe9", b"\xed\xa0\x80", b'"', b"\\", b"\n", b"\r", b"\t", b"{", b"[", b"NaN", b"1e999", b"-"),
    *(b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf", b"null", b"[[[[", b"\\ud800", b"99999999999999999999"),
)


def broken(data: bytes, draw: random.Random) -> bytes:
    """The bytes after one to four accidents."""
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(8)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[place:]
        elif kind == 2:
            data = data[:place] + draw.choice(NASTY) * draw.choice((1, 1, 1, 300)) + data[place:]
        elif kind == 3 and place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        elif kind == 4:
            data = data[:place] + draw.randbytes(draw.randint(1, 30)) + data[place:]
        elif kind == 5:
            data = data.replace(b"4", draw.choice(NASTY))
        elif kind == 6:
            data = data[:place] + data[draw.randrange(len(data) + 1) :]
        else:
            data = draw.choice((gzip.compress, lambda raw: pa.compress(raw, "zstd", asbytes=True)))(data)
    return data


def outcome(folder: Path, layout: str, ending: str, data: bytes, records: int = 0) -> str:
    """Prepares the bytes; "corpus" or "sentence". Raises whatever else happens.

    With `records`, all of those that the file holds must be in the corpus or counted as left out.
    """
    raw, out = folder / f"raw{ending}", folder / "out"
    raw.write_bytes(data)
    arguments = [f"raw={raw}", f"format={layout}", f"out={out}", "on_bad_record=skip", "concept_max_share=1.0"]
    config, _ = load(PrepareConfig, [*arguments, "concept_min_count=2"])
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            prepare.main(config)
    except InputError as error:
        if "\n" in str(error) or out.exists():
            raise AssertionError(f"no single sentence, or a folder that should be absent: {error}") from error
        return "sentence"
    finally:
        raw.unlink()
        left = [entry.name for entry in folder.iterdir()]
        if left not in (["out"], []):
            raise AssertionError(f"rubbish left behind: {left}")
    corpus = Corpus.load(out)
    left_out = sum(entry["count"] for entry in corpus.manifest["skipped"].values())
    if records and len(corpus.explanations) + left_out != records:
        raise AssertionError(f"{len(corpus.explanations)} records, {left_out} left out, of {records}")
    if records and any(mark in text for text in corpus.explanations for mark in ("< br", "<br", "& quot", "&quot")):
        raise AssertionError("markup in an explanation")
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
    return "corpus"


def main(cases: int, seed: int) -> None:
    """Runs the campaign and prints its account."""
    draw, tried = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(cases):
            if number % 2:
                layout, ending = FORMATS[number // 2 % len(FORMATS)]
                data, records = odd_file(layout, ending, draw), RECORDS
                layout = "nlg4rs" if layout == "sentires" else layout
            else:
                (layout, ending), data = list(VALID.items())[number // 2 % len(VALID)]
                data, records = broken(data, draw), 0
            try:
                tried[layout + ending, outcome(Path(temporary), layout, ending, data, records)] += 1
            except BaseException:
                print(f"case {number}, {layout}{ending}: {data!r}", file=sys.stderr)
                raise
    found = {name: dict.fromkeys(("corpus", "sentence"), 0) for name, _ in tried}
    for (name, kind), count in tried.items():
        found[name][kind] = count
    print(json.dumps({"benchmark": "fuzz", "cases": cases, "seed": seed, "outcomes": found}))


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [20_000, 0][len(given) :]))
