"""One user has one id, and no value is no user."""

import json

import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.importers import table
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


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "#N/A", "", "  ", "\ufeff"])
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


@pytest.mark.parametrize("name", ["A TripAdvisor Member", "anonymous", "A Google user", "Amazon Customer", "unknown"])
def test_anonymous_authors_do_not_become_one_user(tmp_path, name):
    rows = [row("u1", "a"), row(name, "a"), row(name.upper(), "b"), row("Anonymouse", "a")]
    corpus = corpus_of(tmp_path, rows)
    assert sorted(corpus.users) == ["Anonymouse", "u1"]
    assert corpus.manifest["skipped"]["anonymous author"] == {"count": 2, "lines": [2, 3]}
