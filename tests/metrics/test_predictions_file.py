import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from metrics.errors import InputError
from metrics.predictions import read_predictions

GOOD = {"record": 1, "explanation": "a b", "reference": "a c"}


def write(tmp_path, *lines):
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_records_are_read_in_order(tmp_path):
    other = {"record": 2, "explanation": "", "reference": "é", "rating": 3, "concepts": [{"concept": "bar"}]}
    assert read_predictions(write(tmp_path, GOOD, other, "")) == [GOOD, other]


def test_null_stands_for_an_absent_field(tmp_path):
    read_predictions(write(tmp_path, GOOD | {"rating": None, "concepts": None}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"explanation": ', "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ({"reference": "a"}, "`explanation` must be given as a text, got None"),
        ({"explanation": "a", "reference": 3}, "`reference` must be given as a text, got 3"),
        (GOOD | {"record": 2, "rating": "5"}, "`rating` must be a finite number"),
        (GOOD | {"record": 2, "predicted_rating": float("nan")}, "`predicted_rating` must be a finite number"),
        (GOOD | {"record": 2, "rating": 10**400}, "`rating` must be a finite number"),
        (GOOD | {"record": 2, "user_index": 2**63}, "`user_index` must be a whole number from 0 on"),
        (GOOD | {"record": 2, "concepts": ["bar", 3]}, "`concepts` must be a list of"),
        (GOOD | {"record": 2, "gold_concepts": "bar"}, "`gold_concepts` must be a list of texts"),
        (GOOD | {"record": 2, "user_index": -1}, "`user_index` must be a whole number from 0 on"),
        (GOOD | {"record": 2, "user": True}, "`user` must be a text or a whole number"),
        (GOOD, "record 1 was given on line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(InputError, match=f"predictions.jsonl:2: {message}"):
        read_predictions(write(tmp_path, GOOD, line))


def test_files_of_other_programs_are_read(tmp_path):
    file = tmp_path / "predictions.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.write(json.dumps(GOOD | {"concepts": ["bar"], "feature": "spa"}))
    (read,) = read_predictions(file)
    assert (read["concepts"], read["gold_concepts"]) == ([{"concept": "bar"}], ["spa"])


@pytest.mark.parametrize("context", ["", "the , a\n"])
def test_generated_txt_is_read(tmp_path, context):
    file = tmp_path / "generated.txt"
    file.write_text(f"great pool\n{context}nice pool\n\nbad bar\n{context}\n\n")
    assert read_predictions(file) == [
        {"reference": "great pool", "explanation": "nice pool"},
        {"reference": "bad bar", "explanation": ""},
    ]


def test_a_text_file_of_another_shape_is_refused(tmp_path):
    file = tmp_path / "generated.txt"
    file.write_text("one\ntwo\nthree\nfour\nfive\n")
    with pytest.raises(InputError, match="generated.txt: a .txt file is read as PETER's or PEPLER's"):
        read_predictions(file)


def test_text_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "predictions.jsonl"
    file.write_bytes('{"explanation": "é", "reference": "a"}'.encode("latin-1"))
    with pytest.raises(InputError, match="predictions.jsonl:1: not JSON in UTF-8"):
        read_predictions(file)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:20] + b"\xff" * 9 + data[29:]])
def test_a_broken_archive_is_named(tmp_path, damage):
    file = tmp_path / "predictions.jsonl.gz"
    lines = [json.dumps(GOOD | {"record": n, "explanation": f"a {n * n}"}) + "\n" for n in range(99)]
    file.write_bytes(damage(gzip.compress("".join(lines).encode())))
    with pytest.raises(InputError, match=r"predictions.jsonl.gz cannot be read|not JSON"):
        read_predictions(file)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
PACKINGS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", ["predictions.jsonl", "generated.txt", "generated.txt.gz", "predictions.jsonl.zst"])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mark_an_encoding_or_a_packing_changes_no_text(tmp_path, name, packing, encoding):
    texts = [("great pool", "nice pool"), ("caf\u00e9", "bar")]
    if name.startswith("generated"):
        content = "".join(f"{reference}\n{explanation}\n\n" for reference, explanation in texts)
    else:
        content = "".join(json.dumps({"reference": r, "explanation": e}, ensure_ascii=False) + "\n" for r, e in texts)
    file = tmp_path / name
    file.write_bytes(PACKINGS[packing](content.encode(encoding)))
    assert [(row["reference"], row["explanation"]) for row in read_predictions(file)] == texts


def test_the_mark_of_a_second_file_that_was_put_behind_is_no_part_of_a_text(tmp_path):
    block = "a b\na c\n\n".encode("utf-8-sig")
    (tmp_path / "generated.txt").write_bytes(block * 2)
    assert read_predictions(tmp_path / "generated.txt") == [{"reference": "a b", "explanation": "a c"}] * 2


def test_one_json_array_is_read(tmp_path):
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps([GOOD, GOOD | {"record": 2}], indent=1))
    assert read_predictions(file) == [GOOD, GOOD | {"record": 2}]


def test_a_file_of_another_form_is_told_as_a_whole(tmp_path):
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match="is a Git LFS pointer and not the data itself: fetch the data with `git lfs"):
        read_predictions(file)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no predictions"):
        read_predictions(write(tmp_path, "", ""))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.jsonl cannot be read"):
        read_predictions(tmp_path / "absent.jsonl")
