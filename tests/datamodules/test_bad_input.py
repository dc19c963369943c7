"""Whatever a raw file holds, it gives a corpus or one sentence, and the output folder is whole or absent."""

import errno
import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import corpus as corpus_module
from datamodules.corpus import Corpus
from launch import prepare
from launch.config import load
from launch.prepare import PrepareConfig
from metrics.errors import InputError

SCRIPT = Path(prepare.__file__).resolve()
LINE = {"user": "u", "item": "i", "rating": 4, "text": "the great sound ."}
FORMATS = {
    "table": (".csv", ".tsv", ".jsonl", ".parquet"),
    "amazon_5core": (".json",),
    "yelp": (".json",),
    "tripadvisor": (".json",),
    "nlg4rs_jsonl": (".json",),
    "nlg4rs": (".pickle",),
    "xrec": (".jsonl", ".csv"),
    "recbole": (".inter",),
}
KEYS = (
    *(
        "user",
        "item",
        "rating",
        "text",
        "reviewerID",
        "asin",
        "overall",
        "reviewText",
        "user_id",
        "business_id",
        "stars",
    ),
    *(
        "date",
        "hotel_url",
        "author",
        "ratings",
        "template",
        "feature",
        "sentence",
        "sentiment",
        "opinion",
        "uid",
        "iid",
    ),
    *("explanation", "timestamp", "unixReviewTime", "split", "time", "concepts", "title", "item_id"),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=12), max_size=6)


def prepared(raw, layout, out, *more):
    config, _ = load(PrepareConfig, [f"raw={raw}", f"format={layout}", f"out={out}", *more])
    prepare.main(config)
    return Corpus.load(out)


def corpus_or_sentence(folder, layout, ending, data):
    raw, out = folder / f"raw{ending}", folder / "out"
    raw.write_bytes(data)
    said = ""
    try:
        prepared(raw, layout, out, "on_bad_record=skip")
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert out.exists() == (not said)
    assert {entry.name for entry in folder.iterdir()} <= {raw.name, "out"}
    for file in out.glob("*"):
        file.unlink()
    if out.exists():
        out.rmdir()
    raw.unlink()


ANY_FORMAT = pytest.mark.parametrize(
    ("layout", "ending"), [(layout, ending) for layout, endings in FORMATS.items() for ending in endings]
)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@ANY_FORMAT
@FEW
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_corpus_or_one_sentence(tmp_path, layout, ending, data):
    corpus_or_sentence(tmp_path, layout, ending, data)


@pytest.mark.parametrize("layout", [name for name, endings in FORMATS.items() if endings[0] in (".json", ".jsonl")])
@FEW
@given(rows=ROWS)
def test_any_objects_give_a_corpus_or_one_sentence(tmp_path, layout, rows):
    corpus_or_sentence(tmp_path, layout, FORMATS[layout][0], "\n".join(map(json.dumps, rows)).encode())


@FEW
@given(cells=st.lists(st.lists(st.text(max_size=8), min_size=4, max_size=4), max_size=6))
def test_any_cells_give_a_corpus_or_one_sentence(tmp_path, cells):
    rows = [["user", "item", "rating", "text"], *cells]
    data = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    corpus_or_sentence(tmp_path, "table", ".csv", data)


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


GOOD = [LINE | {"user": f"u{n}"} for n in range(3)]
BAD_FILES = {
    "truncated gzip": (".jsonl.gz", gzip.compress(lines(*GOOD))[:-9], "cannot be read after line"),
    "half a line": (".jsonl", lines(*GOOD)[:-9], ":3: is not JSON"),
    "Latin-1": (".jsonl", lines(*GOOD, "{\"user\": \"v\", \"item\": \"i\", \"rating\": 4, \"text\": \"XX\"}").replace(
        b"XX", b"caf\xe9"), ":4: holds bytes or escapes that are not valid UTF-8"),
    "the same column twice": (".csv", b"user,item,rating,text,text\n", ":1: the header names a column twice"),
    "mixed types": (".jsonl", lines(*GOOD, LINE | {"rating": "four"}), ":4: 'rating' is 'four' where a number is due"),
    "a rating that is true": (".jsonl", lines(LINE | {"rating": True}), ":1: 'rating' is True where a text is due"),
    "no bytes": (".jsonl", b"", "gives no record to build a corpus from: it is empty"),
    "no bytes, a table": (".csv", b"", " is empty: check the path or copy it anew"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence_with_its_place(tmp_path, name):
    ending, data, message = BAD_FILES[name]
    raw = tmp_path / f"raw{ending}"
    raw.write_bytes(data)
    with pytest.raises(InputError) as caught:
        prepared(raw, "table", tmp_path / "out")
    assert str(caught.value).startswith(str(raw))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nul_bytes_are_removed_and_a_huge_review_is_kept(tmp_path):
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(lines(LINE | {"text": "so\x00und ."}, LINE | {"user": "v", "text": ("x" * 99 + " ") * 100_000}))
    corpus = prepared(raw, "table", tmp_path / "out")
    assert corpus.explanations[0] == "sound ."
    assert len(corpus.explanations[1]) == 10_000_000 - 1


def test_a_parquet_file_without_a_column_is_one_sentence(tmp_path):
    pq.write_table(pa.table({"user": ["u"], "item": ["i"], "text": ["x"]}), tmp_path / "raw.parquet")
    with pytest.raises(InputError, match=r"raw\.parquet:1: there is no column 'rating', only user, item, text"):
        prepared(tmp_path / "raw.parquet", "table", tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "loop", "absent"])
def test_what_is_no_file_is_one_sentence(tmp_path, kind):
    raw = tmp_path / "raw.csv"
    if kind == "folder":
        raw.mkdir()
    elif kind == "loop":
        raw.symlink_to(raw)
    with pytest.raises(InputError, match=r"raw=.*raw\.csv is no file"):
        prepared(raw, "table", tmp_path / "out")


def test_a_loop_of_links_in_the_place_of_the_output_is_one_sentence(tmp_path):
    (tmp_path / "raw.jsonl").write_bytes(lines(*GOOD))
    (tmp_path / "out").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="out="):
        prepared(tmp_path / "raw.jsonl", "table", tmp_path / "out")


@pytest.mark.parametrize("writes", range(6))
def test_a_disk_that_fills_up_at_any_file_leaves_no_folder(tmp_path, monkeypatch, writes):
    (tmp_path / "raw.jsonl").write_bytes(lines(*GOOD))
    room = iter(range(writes))
    write_table, new_file = pq.write_table, pa.ipc.new_file

    def until_full(write):
        def wrapped(*arguments, **more):
            if next(room, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **more)

        return wrapped

    monkeypatch.setattr(corpus_module.pq, "write_table", until_full(write_table))
    monkeypatch.setattr(corpus_module.pa.ipc, "new_file", until_full(new_file))
    if writes == 5:
        assert len(prepared(tmp_path / "raw.jsonl", "table", tmp_path / "out").users) == 3
        return
    with pytest.raises(InputError, match="No space left on device"):
        prepared(tmp_path / "raw.jsonl", "table", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.jsonl"]


def test_a_real_limit_on_what_may_be_written_leaves_no_folder(tmp_path):
    """The kernel ends the write itself: files of this process may have 20 kB."""
    draw = [LINE | {"user": f"u{n}", "text": os.urandom(40).hex()} for n in range(1000)]
    (tmp_path / "raw.jsonl").write_bytes(lines(*draw))
    done = subprocess.run(
        [sys.executable, SCRIPT, "raw=raw.jsonl", "format=table", "out=out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: out=")
    assert len(done.stderr.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.jsonl"]
