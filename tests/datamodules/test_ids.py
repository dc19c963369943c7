"""One user has one id, and no value is no user."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.importers import table, tripadvisor
from datamodules.records import normalised_id
from metrics.errors import InputError


def corpus_of(tmp_path, rows, **options):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    chosen = BuildOptions(explanation="whole", **options)
    return build_corpus(table.read(path, table.Columns(), 3.0), tmp_path / "out", chosen, {"file": str(path)})


def row(user, item="i", text="a fine lid"):
    return {"user": user, "item": item, "rating": 4, "text": text}


@pytest.mark.parametrize(
    "spelling",
    ["u006 ", " u006", "\u00a0u006", "\ufeffu006", "u006\u200b", "u006\t", "\u2060u006\u00ad"],
)
def test_what_is_not_seen_makes_no_other_user(tmp_path, spelling):
    assert corpus_of(tmp_path, [row("u006", "a"), row(spelling, "b")]).users == ["u006"]


@pytest.mark.parametrize("spelling", [3, 3.0, "3", "3.0", "3.00", " 3 "])
def test_a_number_is_one_id_in_every_form(tmp_path, spelling):
    assert corpus_of(tmp_path, [row(3, "a"), row(spelling, "b")]).users == ["3"]


def test_composed_and_decomposed_letters_are_one_id():
    assert normalised_id("Rene\u0301") == normalised_id("Ren\u00e9") == "Ren\u00e9"


@pytest.mark.parametrize("different", ["3.5", "03", "3a", "-3", "v3.0.1", "U006"])
def test_other_ids_stay_others(tmp_path, different):
    assert len(corpus_of(tmp_path, [row("3", "a"), row("u006", "b"), row(different, "c")]).users) == 3


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "#N/A", "NA", "-nan", "(null)", "", " ", "\ufeff"]
)
@pytest.mark.parametrize("key", ["user", "item"])
def test_no_value_is_no_id(tmp_path, key, word):
    rows = [row("u1"), row("u2") | {key: word}]
    with pytest.raises(InputError, match=f":2: the {key} is "):
        corpus_of(tmp_path, rows)
    corpus = corpus_of(tmp_path, rows, on_bad_record="skip")
    assert corpus.users == ["u1"]
    assert corpus.manifest["skipped"]["missing key"] == {"count": 1, "lines": [2]}


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "n/a"])
def test_no_value_is_no_explanation(tmp_path, word):
    with pytest.raises(InputError, match=":2: the explanation is "):
        corpus_of(tmp_path, [row("u1"), row("u2", text=word)])


def test_a_text_with_such_a_word_in_it_stays(tmp_path):
    assert corpus_of(tmp_path, [row("u1", text="None of it worked")]).explanations == ["none of it worked"]


@pytest.mark.parametrize(
    "name",
    [
        "A TripAdvisor Member",
        "anonymous",
        "A Google user",
        "Amazon Customer",
        "unknown",
        "lass=",
        "Anonymous User",
        "Guest",
        "[removed]",
    ],
)
def test_anonymous_authors_do_not_become_one_user(tmp_path, name):
    rows = [row("u1", "a"), row(name, "a"), row(name.upper(), "b"), row("Anonymouse", "a")]
    corpus = corpus_of(tmp_path, rows)
    assert sorted(corpus.users) == ["Anonymouse", "u1"]
    assert corpus.manifest["skipped"]["anonymous author"] == {"count": 2, "lines": [2, 3]}


HOTEL = {"hotel_url": "h", "rating": 4, "text": "a fine room", "date": "2016-02-22"}
OFFERING = {"offering_id": 5, "ratings": {"overall": 4.0}, "text": "a fine room", "date": "December 17, 2012"}


@pytest.mark.parametrize(
    ("named", "nameless"),
    [
        (HOTEL | {"author": "z"}, HOTEL | {"author": ""}),
        (HOTEL | {"author": "z"}, HOTEL | {"author": None}),
        (OFFERING | {"author": {"id": "", "username": "z"}}, OFFERING | {"author": {"id": "", "username": ""}}),
        (
            OFFERING | {"author": {"id": "z", "username": "lass="}},
            OFFERING | {"author": {"id": "", "username": "lass="}},
        ),
    ],
)
def test_tripadvisor_authors_without_a_name_are_counted_and_stop_nothing(tmp_path, named, nameless):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(named) + "\n" + json.dumps(nameless) + "\n")
    chosen = BuildOptions(explanation="whole")
    corpus = build_corpus(tripadvisor.read(path), tmp_path / "out", chosen, {"file": str(path)})
    assert corpus.users == ["z"]
    assert corpus.manifest["skipped"] == {"anonymous author": {"count": 1, "lines": [2]}}


@pytest.mark.parametrize("rounded", [76561198000000001.0, "7.6561198E+16", "9007199254740993.0", 1e300])
def test_an_id_that_was_rounded_is_refused_as_many_became_one(tmp_path, rounded):
    with pytest.raises(InputError, match=":2: the user is .* rounded"):
        corpus_of(tmp_path, [row("u1"), row(rounded)])


@pytest.mark.parametrize("exact", [76561198000000001, "76561198000000001", "1e5", "E+16", "b2e+7x"])
def test_an_id_that_was_not_rounded_stays(tmp_path, exact):
    assert str(exact) in corpus_of(tmp_path, [row("u1"), row(exact)]).users


def test_floats_of_parquet_are_whole_ids_where_they_are_exact(tmp_path):
    path = tmp_path / "t.parquet"
    cells = {"user": [3.0, 1e15], "item": ["a", "a"], "rating": [4.0, 4.0], "text": ["a fine lid"] * 2}
    pq.write_table(pa.table(cells), path)
    chosen = BuildOptions(explanation="whole")
    corpus = build_corpus(table.read(path, table.Columns(), 3.0), tmp_path / "out", chosen, {"file": str(path)})
    assert corpus.users == ["1000000000000000", "3"]


@pytest.mark.parametrize("word", ["nan", "None", "NULL"])
def test_no_value_is_no_concept_and_no_title(tmp_path, word):
    rows = [row("u1") | {"concepts": "lid", "title": "Mug"}, row("u2", "j") | {"concepts": word, "title": word}]
    corpus = corpus_of(tmp_path, rows)
    assert corpus.concepts == ["lid"]
    assert sorted(pq.read_table(corpus.path / "items.parquet")["title"].to_pylist()) == ["", "Mug"]
