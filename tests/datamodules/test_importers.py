"""Importers: every layout gives the same records, every unreadable line its number."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.importers import nlg4rs_jsonl, table
from datamodules.importers.table import Columns, tokenised
from datamodules.records import BadRecord, RawRecord
from metrics.errors import InputError

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

LINE = {
    "user": "U1", "item": "I1", "rating": 5, "feature": "neck", "opinion": "slim",
    "sentence": "a slim Neck .", "sentiment": 1, "split": "train",
}  # fmt: skip
RECORD = RawRecord(1, "U1", "I1", 5.0, "a slim Neck .", [("neck", "slim", 1)], "train")


def jsonl(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def without(key):
    return {name: value for name, value in LINE.items() if name != key}


# --- NLG4RS


def test_nlg4rs_line_becomes_a_record_with_its_sentence_untouched(tmp_path):
    assert list(nlg4rs_jsonl.read(jsonl(tmp_path / "r.jsonl", LINE))) == [RECORD]


def test_nlg4rs_template_becomes_the_same_record(tmp_path):
    row = {"user": "U1", "item": "I1", "rating": 5, "template": ["neck", "slim", "a slim Neck .", 1], "predicted": "x"}
    assert list(nlg4rs_jsonl.read(jsonl(tmp_path / "r.jsonl", row))) == [RECORD._replace(split=None)]


def test_gzip_is_known_by_its_bytes_and_not_by_the_name(tmp_path):
    file = tmp_path / "plain-name.jsonl"
    file.write_bytes(gzip.compress(json.dumps(LINE).encode()))
    assert list(nlg4rs_jsonl.read(file)) == [RECORD]


def test_blank_lines_keep_the_count_and_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_bytes(b"\xef\xbb\xbf\n\r\n" + json.dumps(LINE).encode() + b"\r\n")
    assert list(nlg4rs_jsonl.read(file)) == [RECORD._replace(line=3)]


def test_numeric_ids_become_text(tmp_path):
    (record,) = nlg4rs_jsonl.read(jsonl(tmp_path / "r.jsonl", LINE | {"user": 17}))
    assert record.user == "17"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"user": "U1", ', "unreadable line"),
        ("[1, 2]", "unreadable line"),
        ("[" * 100_000, "unreadable line"),
        (without("user"), "missing key"),
        (without("sentence"), "missing key"),
        (without("feature"), "missing key"),
        (LINE | {"user": ["U1"]}, "wrong type"),
        (LINE | {"rating": "five"}, "unreadable rating"),
        (LINE | {"sentiment": 10**400}, "unknown polarity"),
        (LINE | {"sentiment": 3}, "unknown polarity"),
        (without("sentiment"), "unknown polarity"),
        ({"user": "u", "item": "i", "rating": 1, "template": ["neck"]}, "unreadable line"),
    ],
)
def test_a_line_without_a_record_gives_its_number_and_reason(tmp_path, row, reason):
    first, bad = nlg4rs_jsonl.read(jsonl(tmp_path / "r.jsonl", LINE, row))
    assert isinstance(first, RawRecord)
    assert isinstance(bad, BadRecord)
    assert (bad.line, bad.reason) == (2, reason)


@pytest.mark.parametrize("text", [b"caf\xe9", b"caf\\udce9"])
def test_bytes_and_escapes_that_are_no_utf8_are_found_when_the_corpus_is_built(tmp_path, text):
    file = tmp_path / "r.jsonl"
    file.write_bytes(json.dumps(LINE | {"sentence": "XX ."}).encode().replace(b"XX", text))
    with pytest.raises(InputError, match=r"r\.jsonl:1: .*not valid UTF-8"):
        build_corpus(nlg4rs_jsonl.read(file), tmp_path / "c", BuildOptions(), {"file": str(file)})


def test_a_cut_gzip_file_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "r.jsonl.gz"
    file.write_bytes(gzip.compress(os.urandom(1000).hex().encode())[:-100])
    with pytest.raises(InputError, match=r"r\.jsonl\.gz cannot be read"):
        list(nlg4rs_jsonl.read(file))


# --- index files


def index_folder(tmp_path, **numbers):
    for name, text in {"train": "0", "validation": "1", "test": "2", **numbers}.items():
        (tmp_path / f"{name}.index").write_text(text)
    return tmp_path


def three(tmp_path):
    return jsonl(tmp_path / "r.jsonl", *(without("split") | {"user": f"U{n}"} for n in range(3)))


def test_index_files_give_the_splits(tmp_path):
    records = nlg4rs_jsonl.read(three(tmp_path), index_folder(tmp_path, train="2 0", validation="1", test=""))
    assert [record.split for record in records] == ["train", "valid", "train"]


def test_a_bad_line_keeps_its_number_in_the_index(tmp_path):
    file = jsonl(tmp_path / "r.jsonl", LINE, "{", LINE | {"user": "U2"})
    records = list(nlg4rs_jsonl.read(file, index_folder(tmp_path)))
    assert [getattr(record, "split", "bad") for record in records] == ["train", "bad", "test"]


def test_a_record_in_no_index_file_is_bad(tmp_path):
    *_, last = nlg4rs_jsonl.read(three(tmp_path), index_folder(tmp_path, test=""))
    assert (last.line, last.reason) == (3, "missing split")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"test": "1"}, r"test\.index names record 1, which is negative or named before"),
        ({"test": "-1"}, r"test\.index names record -1"),
        ({"test": "2 7"}, r"test\.index names record 7 and the last one is 2"),
        ({"test": "two"}, r"test\.index must hold whole numbers"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, numbers, message):
    with pytest.raises(InputError, match=message):
        list(nlg4rs_jsonl.read(three(tmp_path), index_folder(tmp_path, **numbers)))


def test_a_missing_index_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"train\.index cannot be read"):
        list(nlg4rs_jsonl.read(three(tmp_path), tmp_path))


# --- tables

ROWS = [
    {"user": "U1", "item": "I1", "rating": "4.5", "text": 'Great "sound",\nreally!', "title": "Red Amp"},
    {"user": "U2", "item": "I1", "rating": "2", "text": "It's bad", "title": ""},
]


def write_table(path, layout):
    flat = [row | {"text": row["text"].replace("\n", " ")} for row in ROWS]
    if layout == "csv":
        quoted = [
            ",".join('"' + value.replace('"', '""') + '"' for value in row)
            for row in [ROWS[0], *map(dict.values, ROWS)]
        ]
        path.write_text("\n".join(quoted) + "\n")
    elif layout == "tsv":
        path.write_text("\n".join("\t".join(row) for row in [flat[0], *map(dict.values, flat)]) + "\n")
    elif layout == "jsonl":
        jsonl(path, *ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def read(path, columns=None):
    return list(table.read(path, columns or Columns(), 3.0))


@pytest.mark.parametrize("layout", ["csv", "tsv", "jsonl", "parquet"])
def test_every_layout_gives_the_same_records(tmp_path, layout):
    records = read(write_table(tmp_path / f"t.{layout}", layout))
    assert [record._replace(line=0) for record in records] == [
        RawRecord(0, "U1", "I1", 4.5, 'great " sound " , really !', None, item_title="Red Amp"),
        RawRecord(0, "U2", "I1", 2.0, "it's bad", None),
    ]


def test_a_gzipped_table_is_read(tmp_path):
    plain = write_table(tmp_path / "t.csv", "csv")
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(packed) == read(plain)


def test_columns_can_have_other_names(tmp_path):
    row = {"uid": 1, "asin": 2, "stars": 3, "body": "ok", "fold": "test", "when": 1600000000.0, "name": "Amp"}
    columns = Columns("uid", "asin", "stars", "body", split="fold", time="when", title="name")
    assert read(jsonl(tmp_path / "t.jsonl", row), columns) == [
        RawRecord(1, "1", "2", 3.0, "ok", None, "test", 1600000000, "Amp")
    ]


def test_an_absent_column_is_named_with_those_there_are(tmp_path):
    file = jsonl(tmp_path / "t.jsonl", {"user": 1, "item": 2, "rating": 3, "review": "ok"})
    with pytest.raises(InputError, match=r"no column 'text', only user, item, rating, review; .*columns\.text=NAME"):
        read(file)


def test_an_optional_column_that_was_asked_for_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"no column 'fold'.*columns\.split="):
        read(jsonl(tmp_path / "t.jsonl", ROWS[0]), Columns(split="fold"))


def test_an_optional_column_of_another_meaning_can_be_left_out_and_the_fault_says_how(tmp_path):
    other = {"time": "2020-01-02", "split": "west", "concepts": 7, "title": True}
    file = jsonl(tmp_path / "t.jsonl", {"": 17} | ROWS[1] | other)
    (record,) = read(file, Columns(time="", split="", concepts="", title=""))
    assert (record.time, record.split, record.mentions, record.item_title) == (None, None, None, "")
    (bad,) = read(jsonl(tmp_path / "t.jsonl", ROWS[1] | {"time": "some day"}))
    assert bad.detail.endswith("or a date as 2016-02-22, are due (columns.time= leaves the column out)")


@pytest.mark.parametrize("key", ["user", "item", "text"])
def test_the_nan_of_a_missing_value_is_no_text(tmp_path, key):
    (bad,) = read(jsonl(tmp_path / "t.jsonl", ROWS[1] | {key: float("nan")}))
    assert (bad.line, bad.reason, bad.detail) == (1, "missing key", f"has no '{key}'")


def test_optional_values_that_are_nan_are_absent(tmp_path):
    missing = {key: float("nan") for key in ("title", "time", "split", "concepts")}
    (record,) = read(jsonl(tmp_path / "t.jsonl", ROWS[1] | missing))
    assert (record.item_title, record.time, record.split, record.mentions) == ("", None, None, [])


def test_blanks_around_the_names_of_a_header_are_no_part_of_them(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("user, item , rating,\ttext\nu,i,3,ok\n")
    assert read(file) == [RawRecord(2, "u", "i", 3.0, "ok", None)]


def test_a_header_of_one_cell_says_how_cells_are_parted(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("user;item;rating;text\nu;i;3;good, but small\n")
    with pytest.raises(InputError, match=r"t\.csv:1: .*'user;item;rating;text': part cells by commas"):
        read(file)


@pytest.mark.parametrize(
    ("cell", "mentions"),
    [
        ("Battery life; Wi-Fi", [("battery life", "", -1), ("wi-fi", "", -1)]),
        (["neck"], [("neck", "", -1)]),
        ([{"concept": "neck", "opinion": "Slim", "polarity": 1}], [("neck", "slim", 1)]),
        ([{"concept": "body"}], [("body", "", -1)]),
        ("", []),
        (None, []),
    ],
)
def test_concepts_are_a_text_a_list_or_objects(tmp_path, cell, mentions):
    (record,) = read(jsonl(tmp_path / "t.jsonl", ROWS[1] | {"concepts": cell}))
    assert record.mentions == mentions


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"concepts": 7}, "wrong type"),
        ({"concepts": [7]}, "wrong type"),
        ({"concepts": [{"opinion": "warm"}]}, "missing key"),
        ({"concepts": [{"concept": "neck", "polarity": "good"}]}, "unknown polarity"),
        ({"time": "yesterday"}, "unreadable time"),
        ({"time": 1e30}, "unreadable time"),
        ({"text": None}, "missing key"),
    ],
)
def test_a_row_without_a_record_gives_its_reason(tmp_path, change, reason):
    _, bad = read(jsonl(tmp_path / "t.jsonl", ROWS[0], ROWS[1] | change))
    assert isinstance(bad, BadRecord)
    assert (bad.line, bad.reason) == (2, reason)


@pytest.mark.parametrize(
    "line", ["U3,I1,3", "U3,I1,3,fine,extra", 'U3,I1,3,"fine" indeed', 'U3,I1,3,"never closed'], ids=repr
)
def test_a_torn_csv_row_is_reported_and_not_guessed(tmp_path, line):
    file = tmp_path / "t.csv"
    file.write_text(f"user,item,rating,text\nU1,I1,4,good\n{line}\n")
    first, bad = read(file)
    assert isinstance(first, RawRecord)
    assert isinstance(bad, BadRecord)
    assert (bad.line, bad.reason) == (3, "unreadable line")


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("user,item,rating,text,text\n")
    with pytest.raises(InputError, match=r"t\.csv:1: the header"):
        read(tmp_path / "t.csv")


def test_another_ending_is_refused_with_those_that_are_read(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.csv, \.tsv, \.jsonl, \.parquet"):
        read(tmp_path / "t.xlsx")


def test_a_broken_parquet_file_is_refused_by_name(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"t\.parquet cannot be read as Parquet"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't buy; it's 9.5 (or 1,299.50)!", "don't buy ; it's 9.5 ( or 1,299.50 ) !"),
        ("Wi-Fi — great...", "wi-fi — great . . ."),
        ("good.Then bad", "good . then bad"),
        ("'quoted' 3rd", "' quoted ' 3rd"),
        ("बहुत अच्छा।", "बहुत अच्छा ।"),
        ("nice😀👍", "nice 😀 👍"),
        ("好，很好。", "好 ， 很好 。"),
        ("I \u2764\ufe0f it \u2764\ufe0f\u200d\U0001f525", "i \u2764 it \u2764 \U0001f525"),
        ("\u200bgreat\u200bsound \ufeffso\u00adlid", "great sound solid"),
        ("I don’t say ‘bad’", "i don't say ‘ bad ’"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("جيد، هل؟ نعم؛ ١٬٢٣٤٫٥", "جيد ، هل ؟ نعم ؛ ١٬٢٣٤٫٥"),
        ("اچھا ہے۔ ٹھیک", "اچھا ہے ۔ ٹھیک"),
        ("ሰላም፣ ጥሩ ነው።", "ሰላም ፣ ጥሩ ነው ።"),
        ("Ինչո՞ւ լավ է։", "ինչո՞ւ լավ է ։"),
        ("ល្អ។ ណាស់៕", "ល្អ ។ ណាស់ ៕"),
        ("ＯＫ！［ｘ］３．５", "ｏｋ ！ ［ ｘ ］ ３．５"),
        ("¿Qué? ¡Sí! “bien”…", "¿ qué ? ¡ sí ! “ bien ” …"),
        ("人々「はい。」", "人々 「 はい 。 」"),
        ("צה״ל ג׳ירפה", "צה״ל ג׳ירפה"),
        ("cafe\u0301, £5 50°", "cafe\u0301 , £5 50°"),
    ],
)
def test_words_and_punctuation_are_separated_by_single_blanks(text, tokens):
    assert tokenised(text) == tokens


def test_real_explanations_give_the_published_counts(tmp_path):
    file = DATA / "amazon_mi5" / "explanations.full.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent (LLM2ER_DATA names the folder of real data)")
    corpus = build_corpus(nlg4rs_jsonl.read(file), tmp_path / "c", BuildOptions(), {"file": str(file)})
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert corpus.manifest["counts"]["records"] == {"train": 7000, "valid": 871, "test": 874}
    assert (len(corpus.users), len(corpus.items)) == (len({x["user"] for x in lines}), 900)
    assert corpus.explanations == [x["sentence"] for x in lines]
    frequency = Counter(x["feature"] for x in lines if x["split"] == "train")
    assert corpus.concepts == sorted(frequency, key=lambda name: (-frequency[name], name))
    assert corpus.manifest["cold"] == {"users": 0, "items": 0}
