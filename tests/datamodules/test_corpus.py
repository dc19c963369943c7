"""The corpus folder: what load gives back, what it refuses, and that a folder appears whole or not at all."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import corpus as corpus_module
from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.corpus import Corpus, Mention, write_corpus
from metrics.errors import InputError


def records():
    return [
        RawRecord(1, "ann", "i2", 5, "the sound is warm .", [("sound", "warm", 1)], "train", 100, "red amp"),
        RawRecord(2, "bob", "i1", 2, "weak battery , bad sound .", [("battery", "weak", -1), ("sound", "bad", -1)],
                  "train"),
        RawRecord(3, "ann", "i1", 4, "nice .", [], "valid"),
        RawRecord(4, "bob", "i2", 3, "sound ok .", [("sound", "ok", 0)], "test", None, "red amp"),
    ]  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    return build_corpus(records(), tmp_path / "corpus", BuildOptions(), {"file": "raw.jsonl"})


def test_columns_come_back_as_they_were_given(corpus):
    assert [corpus.users[i] for i in corpus.user_R] == ["ann", "bob", "ann", "bob"]
    assert [corpus.items[i] for i in corpus.item_R] == ["i2", "i1", "i1", "i2"]
    assert corpus.rating_R.tolist() == [5, 2, 4, 3]
    assert corpus.explanations[3] == "sound ok ."
    assert dict(zip(corpus.items, corpus.item_titles, strict=True)) == {"i1": "", "i2": "red amp"}
    assert (corpus.rating_min, corpus.rating_max) == (1, 5)


def test_columns_have_the_promised_types(corpus):
    types = [column.dtype for column in (corpus.user_R, corpus.item_R, corpus.rating_R, corpus.split_R)]
    assert types == [np.int32, np.int32, np.float32, np.int8]
    assert corpus.rows("test").dtype == np.int64


def test_rows_are_the_record_ids_of_a_split(corpus):
    assert {split: corpus.rows(split).tolist() for split in ("train", "valid", "test")} == {
        "train": [0, 1],
        "valid": [2],
        "test": [3],
    }


def test_mentions_hold_concept_ids_in_order_of_train_frequency(corpus):
    assert corpus.concepts == ["sound", "battery"]
    assert corpus.mentions == [
        [Mention(0, "warm", 1)],
        [Mention(1, "weak", -1), Mention(0, "bad", -1)],
        [],
        [Mention(0, "ok", 0)],
    ]


def test_records_file_says_splits_by_name_and_keeps_the_time(corpus):
    table = pq.read_table(corpus.path / "records.parquet")
    assert table["split"].to_pylist() == ["train", "train", "valid", "test"]
    assert table["time"].to_pylist() == [100, None, None, None]
    assert table["record"].to_pylist() == [0, 1, 2, 3]


def test_loading_a_folder_without_manifest_names_it_and_the_command(tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no corpus .*launch/prepare\.py"):
        Corpus.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["records", "users", "items", "concepts"])
def test_a_changed_file_is_refused_by_name(corpus, name):
    file = corpus.path / f"{name}.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}\.parquet does not match the checksum .* again"):
        Corpus.load(corpus.path)


def test_a_missing_file_is_refused_by_name(corpus):
    (corpus.path / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"items\.parquet is missing: prepare the corpus again"):
        Corpus.load(corpus.path)


def test_a_file_that_the_manifest_does_not_list_is_refused(corpus):
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    del manifest["files"]["users.parquet"]
    (corpus.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"users\.parquet does not match"):
        Corpus.load(corpus.path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "something else"}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest.json"):
        Corpus.load(tmp_path)


def test_another_version_is_refused(corpus):
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    (corpus.path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        Corpus.load(corpus.path)


def test_a_folder_with_other_things_is_never_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty and holds no corpus"):
        build_corpus(records(), tmp_path, BuildOptions(), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_corpus_with_a_foreign_file_in_it_is_not_replaced(corpus):
    (corpus.path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        build_corpus(records(), corpus.path, BuildOptions(), {})
    assert (corpus.path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        build_corpus(records(), tmp_path / "out", BuildOptions(), {})


def test_a_corpus_is_replaced_and_nothing_else_is_left_beside_it(corpus):
    replaced = build_corpus(records()[:2], corpus.path, BuildOptions(), {})
    assert len(replaced.explanations) == 2
    assert [entry.name for entry in corpus.path.parent.iterdir()] == ["corpus"]


def test_an_interrupted_write_leaves_the_old_corpus_and_no_rubbish(corpus, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_module, "sha256_of", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        write_corpus(corpus.path, {"records": pa.table({"record": [1]})}, {})
    monkeypatch.undo()
    assert len(Corpus.load(corpus.path).explanations) == 4
    assert [entry.name for entry in corpus.path.parent.iterdir()] == ["corpus"]
