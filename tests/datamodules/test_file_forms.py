"""A whole file in another form: read where that is safe, else refused by what it is and never skipped by lines."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Corpus
from launch import prepare
from launch.config import load
from launch.prepare import PrepareConfig
from metrics.errors import InputError

ROWS = [
    {"user": f"u{n % 4}", "item": f"i{n // 4}", "rating": 1 + n % 5, "text": f"The caf\u00e9 {n} is great ."}
    for n in range(24)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CELLS = "user,item,rating,text\n" + "".join(",".join(map(str, row.values())) + "\n" for row in ROWS)
NLG4RS = [
    {"user": row["user"], "item": row["item"], "rating": 5, "template": ["caf\u00e9", "great", row["text"], 1]}
    for row in ROWS
]


def prepared(folder, name, data, *more, layout="table"):
    raw = folder / name
    raw.write_bytes(data)
    options = [f"format={layout}", "on_bad_record=skip", "concept_max_share=1.0", "concept_min_count=2", *more]
    config, _ = load(PrepareConfig, [f"raw={raw}", f"out={folder / 'out'}", *options])
    prepare.main(config)
    return Corpus.load(folder / "out")


def in_zip(name="raw.jsonl"):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, LINES)
    return sink.getvalue()


def in_tar(layout):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=layout) as archive:
        entry = tarfile.TarInfo("raw.jsonl")
        entry.size = len(LINES.encode())
        archive.addfile(entry, io.BytesIO(LINES.encode()))
    return sink.getvalue()


def written(write):
    sink = pa.BufferOutputStream()
    write(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def in_sqlite():
    base = sqlite3.connect(":memory:")
    base.execute("create table reviews (user)")
    return base.serialize()


OTHER_FORMS = {
    "a zip archive": (in_zip(), "is a zip archive: unpack it and name the file inside"),
    "an Excel sheet": (in_zip("[Content_Types].xml"), "is an Excel or Office file: save the sheet as CSV in UTF-8"),
    "an old Excel sheet": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
        "is an old Office file (.xls, .doc): save",
    ),
    "a tar archive": (in_tar(tarfile.GNU_FORMAT), "is a tar archive: unpack it"),
    "an archive of pax": (in_tar(tarfile.PAX_FORMAT), "is a tar archive"),
    "a packed tar archive": (gzip.compress(in_tar(tarfile.USTAR_FORMAT)), "is a tar archive"),
    "packed twice": (
        gzip.compress(gzip.compress(LINES.encode())),
        "is packed by gzip, and what was in it by that again",
    ),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer and not the data itself: fetch the data with `git lfs pull`",
    ),
    "a login page": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n", "is a web page"),
    "a page without a type": (b"<html>\n<body>404</body></html>", "is a web page"),
    "a page with a remark": (b"\xef\xbb\xbf<!-- saved -->\n<HTML></HTML>", "is a web page"),
    "XML": (b'<?xml version="1.0"?><reviews/>', "is an XML file"),
    "Parquet": (written(pq.write_table), "is a Parquet file: end its name in .parquet and read it with format=table"),
    "Feather": (written(pyarrow.feather.write_feather), "is an Arrow (Feather) file: write it as Parquet"),
    "ORC": (written(pyarrow.orc.write_table), "is an ORC file: write it as Parquet"),
    "SQLite": (in_sqlite(), "is an SQLite database: export its table as CSV"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\n", "is a PDF document"),
    "a pickle": (pickle.dumps(ROWS), "is a Python pickle: read reviews.pickle with format=nlg4rs"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(20), "is an image: check the path"),
    "bytes": (bytes(range(32)) * 9, "is no text file: its first bytes are"),
    "nothing but zeros": (bytes(4096), "is no text file: its first bytes are"),
    "Latin-1": ("LATIN", "is not in UTF-8 (lines "),
    "line ends of an old Mac": ("MAC", "ends its lines with a carriage return alone"),
}


@pytest.mark.parametrize("name", ["raw.jsonl", "raw.csv", "raw.jsonl.gz"])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_another_form_is_refused_by_what_it_is_also_where_bad_records_are_skipped(tmp_path, form, name):
    data, message = OTHER_FORMS[form]
    text = CELLS if name == "raw.csv" else LINES
    if data == "LATIN":
        data = text.encode("latin-1")
    elif data == "MAC":
        data = text.replace("\n", "\r").encode()
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, name, data)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    ("name", "text"), [("raw.jsonl", LINES), ("raw.csv", CELLS), ("raw.tsv", CELLS.replace(",", "\t"))]
)
def test_encodings_of_unicode_and_packings_are_read(tmp_path, encoding, pack, name, text):
    corpus = prepared(tmp_path, name, pack(text.encode(encoding)))
    assert corpus.explanations[:2] == ["the caf\u00e9 0 is great .", "the caf\u00e9 1 is great ."]
    assert len(corpus.explanations) == 24


ARRAYS = {
    "one line": json.dumps(ROWS),
    "a record a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "indented": json.dumps(ROWS, indent=2),
    "with a mark": "\ufeff" + json.dumps(ROWS),
    "a comma at the end": json.dumps(ROWS)[:-1] + ",]",
}


@pytest.mark.parametrize("name", ["raw.json", "raw.jsonl", "raw.json.gz"])
@pytest.mark.parametrize("layout", ARRAYS)
def test_a_json_array_is_read(tmp_path, layout, name):
    data = ARRAYS[layout].encode()
    corpus = prepared(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert [row["text"].lower() for row in ROWS] == corpus.explanations


def test_an_array_of_many_blocks_is_read_whole(tmp_path):
    rows = [row | {"user": f"u{n}", "text": "x " * 500 + str(n)} for n, row in enumerate(ROWS * 20)]
    assert len(json.dumps(rows)) > 3 << 16
    corpus = prepared(tmp_path, "raw.json", json.dumps(rows).encode())
    assert corpus.explanations == [row["text"] for row in rows]


BROKEN_JSON = {
    "a cut array": (json.dumps(ROWS)[:-40], "is a JSON array that breaks off after record 23"),
    "an array and more": (json.dumps(ROWS) + json.dumps(ROWS), "goes on after the end of its JSON array (record 24)"),
    "an array without commas": ("[" + "\n".join(map(json.dumps, ROWS)) + "]", "breaks off after record 0"),
    "records inside of a key": (
        json.dumps({"reviews": ROWS}),
        "one JSON object that holds the records inside of its keys",
    ),
    "columns, as pandas writes them": (
        json.dumps({key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]}),
        "one JSON object that holds the records inside of its keys",
    ),
    "objects over several lines": (
        "".join(json.dumps(row, indent=1) + "\n" for row in ROWS),
        "goes over several lines",
    ),
    "arrays in an array": (json.dumps([list(row.values()) for row in ROWS]), "not an object with keys, nor is any"),
    "an array a line": (
        "".join(f"{json.dumps(list(row.values()))}\n" for row in ROWS),
        "not an object with keys, nor is any",
    ),
    "cells": (CELLS, ":1: is not JSON, and no line of the file is ('user,item,rating,text'): give JSON Lines"),
}


@pytest.mark.parametrize("form", BROKEN_JSON)
def test_other_json_is_told_as_a_whole(tmp_path, form):
    data, message = BROKEN_JSON[form]
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, "raw.jsonl", data.encode())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("raw.csv", LINES.encode(), "holds JSON and no table of cells: end its name in .jsonl"),
        ("raw.csv", b"\n\n", "is empty: check the path"),
        ("raw.xlsx", in_zip("xl/workbook.xml"), "is an Excel or Office file: save the sheet as CSV in UTF-8"),
        ("raw.tar.gz", gzip.compress(in_tar(tarfile.USTAR_FORMAT)), "is a tar archive: unpack it"),
        ("raw.txt", CELLS.encode(), "must end in .csv, .tsv, .jsonl, .parquet, .json (packed or not)"),
        ("raw.parquet", CELLS.encode(), "(it is a text): end its name in what it is"),
        ("raw.parquet", b"", "(it is empty): copy it anew"),
        ("raw.parquet", in_zip(), "is a zip archive: unpack it"),
        (
            "raw.parquet",
            gzip.compress(written(pq.write_table)),
            "(it is packed by gzip): unpack it; Parquet packs itself",
        ),
    ],
)
def test_a_name_that_promises_another_form(tmp_path, name, data, message):
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, name, data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(NLG4RS).encode(), "holds JSON and is no pickle: read it with format=nlg4rs_jsonl"),
        (in_zip(), "is a zip archive and no pickle: unpack it"),
        (b"<!doctype html><html>", "is a web page"),
    ],
)
def test_what_is_no_pickle_is_told(tmp_path, data, message):
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, "reviews.pickle", data, layout="nlg4rs")
    assert message in str(caught.value)


def test_an_array_of_another_format_is_read(tmp_path):
    corpus = prepared(tmp_path, "reviews.json", json.dumps(NLG4RS).encode(), layout="nlg4rs_jsonl")
    assert len(corpus.explanations) == 24


def test_one_line_in_another_encoding_is_still_a_bad_line(tmp_path):
    data = LINES.encode() + json.dumps(ROWS[0] | {"user": "v", "text": "X"}).replace("X", "caf\xe9").encode("latin-1")
    corpus = prepared(tmp_path, "raw.jsonl", data)
    assert corpus.manifest["skipped"] == {"not UTF-8": {"count": 1, "lines": [25]}}


@pytest.mark.parametrize("name", ["ORCID", "PAR1", "GIF8", "BZh9"])
def test_a_column_may_be_named_as_a_form_starts(tmp_path, name):
    corpus = prepared(tmp_path, "raw.csv", CELLS.replace("user", name, 1).encode(), f"columns.user={name}")
    assert len(corpus.users) == 4
