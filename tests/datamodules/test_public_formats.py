"""Importers of public data sets: each layout as its files are, and what they tell of items and users."""

import gzip
import json
import os
import pickle

import pyarrow as pa
import pytest

from datamodules.corpus import Corpus
from datamodules.importers import amazon, nlg4rs, nlg4rs_jsonl, recbole, table, tripadvisor, xrec, yelp
from datamodules.importers.table import Columns
from datamodules.records import BadRecord, Facts, RawRecord
from launch import prepare
from launch.config import load
from launch.prepare import PrepareConfig
from metrics.errors import InputError


def jsonl(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def prepared(*arguments):
    config, _ = load(PrepareConfig, list(arguments))
    prepare.main(config)
    return Corpus.load(config.out)


RECORD = RawRecord(1, "U", "I", 5.0, "it's a fine amp !", None, time=1_400_000_000)


# --- Amazon


@pytest.mark.parametrize(
    "row",
    [
        {"reviewerID": "U", "asin": "I", "overall": 5.0, "reviewText": "It&#39;s a fine amp!",
         "unixReviewTime": 1_400_000_000, "reviewerName": "Jane", "summary": "s", "helpful": [0, 1]},
        {"user_id": "U", "parent_asin": "I", "asin": "other", "rating": 5.0, "text": "It's a fine amp!",
         "timestamp": 1_400_000_000_123, "title": "s"},
        {"user_id": "U", "asin": "I", "rating": 5.0, "text": "It's a fine amp!", "timestamp": 1_400_000_000_000},
        "{'reviewerID': 'U', 'asin': 'I', 'overall': 5.0, 'reviewText': \"It's a fine amp!\", "
        "'unixReviewTime': 1400000000}",
    ],
    ids=["2014 and 2018", "2023", "2023 without parent", "Python literals"],
)  # fmt: skip
def test_amazon_reviews_of_all_years(tmp_path, row):
    assert list(amazon.read(jsonl(tmp_path / "r.json", row))) == [
        RECORD._replace(cleaned="&" in str(row))
    ]  # "&#39;" was read


@pytest.mark.parametrize(
    "row",
    [
        "{'asin': 'I', 'title': 'Amp &amp; case', 'brand': 'Fen', 'categories': [['Music', 'Amps'], ['Music']], "
        "'price': 9.5}",
        {"asin": "I", "title": "Amp & case", "brand": "Fen", "category": ["Music", "Amps"], "price": "9.5"},
        {"parent_asin": "I", "title": "Amp & case", "store": "Fen", "categories": ["Music", "Amps"], "price": 9.5},
    ],
    ids=["2014", "2018", "2023"],
)  # fmt: skip
def test_amazon_metadata_of_all_years(tmp_path, row):
    attributes = {"brand": "Fen", "categories": ["Music", "Amps"], "price": "9.5"}
    assert list(amazon.read_items(jsonl(tmp_path / "meta.json", row))) == [Facts("I", "Amp & case", attributes)]


def test_amazon_lines_are_never_evaluated(tmp_path):
    flag = tmp_path / "flag"
    lines = (f"{{'asin': __import__('os').mkdir({str(flag)!r})}}", "{'asin': " + "[" * 5000 + "]" * 5000 + "}")
    found = list(amazon.read_items(jsonl(tmp_path / "meta.json", *lines)))
    assert [bad.reason for bad in found] == ["unreadable line"] * 2
    assert not flag.exists()


# --- Yelp


def test_yelp_reviews_businesses_and_users(tmp_path):
    review = {"review_id": "x", "user_id": "U", "business_id": "B", "stars": 4.0, "text": "Nice\n\nfood.", "useful": 3}
    dated = [review | {"date": "2018-07-07 22:09:11"}, review | {"date": "2018-07-07"}, review | {"date": "July"}]
    first, day, bad = yelp.read(jsonl(tmp_path / "r.json", *dated))
    assert first == RawRecord(1, "U", "B", 4.0, "nice food .", None, time=1_531_001_351)
    assert day.time == 1_530_921_600
    assert (bad.line, bad.reason) == (3, "unreadable time")
    business = {"business_id": "B", "name": "Café", "city": "Reno", "state": "", "categories": "Thai, Bars", "stars": 4}
    kept = {"categories": ["Thai", "Bars"], "city": "Reno"}
    assert list(yelp.read_items(jsonl(tmp_path / "b.json", business))) == [Facts("B", "Café", kept)]
    user = {"user_id": "U", "name": "Jane", "yelping_since": "2010-01-01", "average_stars": 4.2, "review_count": 9}
    assert list(yelp.read_users(jsonl(tmp_path / "u.json", user))) == [Facts("U", "", {"yelping_since": "2010-01-01"})]


# --- TripAdvisor


def test_tripadvisor_in_both_layouts(tmp_path):
    rec = {"hotel_url": "h", "author": "U", "date": "2016-02-22T00:00:00", "rating": 4.0, "title": "t", "text": "Fine."}
    txt = {"ratings": {"overall": 4.0, "service": 5.0}, "text": "Fine.", "author": {"username": "u", "id": "U"},
           "offering_id": 93338, "date": "December 17, 2012", "id": 1}  # fmt: skip
    anonymous = txt | {"author": {"username": "A Visitor", "id": ""}}
    rows = list(tripadvisor.read(jsonl(tmp_path / "r.txt", rec, txt, anonymous, txt | {"author": None})))
    assert rows[0] == RawRecord(1, "U", "h", 4.0, "fine .", None, time=1_456_099_200)
    assert rows[1] == RawRecord(2, "U", "93338", 4.0, "fine .", None, time=1_355_702_400)
    assert rows[2].user == "A Visitor"
    assert (rows[3].line, rows[3].reason) == (4, "missing key")
    hotel = {"id": 93338, "name": "Inn", "hotel_class": 3.0, "address": {"locality": "Rome"}}
    assert list(tripadvisor.read_items(jsonl(tmp_path / "o.txt", hotel))) == [
        Facts("93338", "Inn", {"hotel_class": "3.0", "town": "Rome"})
    ]


# --- NLG4RS


ROWS = [{"user": f"U{n}", "item": "I", "rating": 5, "template": ("neck", "slim", "a slim neck .", 1)} for n in range(3)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nlg4rs_pickles_of_every_protocol_with_their_index_files(tmp_path, protocol):
    file = tmp_path / "reviews.pickle"
    file.write_bytes(pickle.dumps(ROWS, protocol))
    for name, numbers in {"train": "0 2", "validation": "1", "test": ""}.items():
        (tmp_path / f"{name}.index").write_text(numbers)
    records = list(nlg4rs.read(file, tmp_path))
    expected = RawRecord(1, "U0", "I", 5.0, "a slim neck .", [("neck", "slim", 1)], "train")
    assert records[0] == expected
    assert [record.split for record in records] == ["train", "valid", "train"]


class Evil:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path, protocol):
    file, flag = tmp_path / "reviews.pickle", tmp_path / "flag"
    file.write_bytes(pickle.dumps([*ROWS, Evil(flag)], protocol))
    with pytest.raises(InputError, match=r"reviews\.pickle is refused: at byte \d+ it names code to run"):
        list(nlg4rs.read(file))
    assert not flag.exists()
    pickle.loads(file.read_bytes())  # noqa: S301 - it would have
    assert flag.exists()


def test_the_unpickler_resolves_no_class_by_itself():
    with pytest.raises(pickle.UnpicklingError, match="names os.system|names posix.system"):
        nlg4rs.PlainUnpickler(__import__("io").BytesIO(pickle.dumps(os.system))).load()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a pickle"),
        (pickle.dumps(ROWS)[:-20], "cannot be read as a pickle"),
        (pickle.dumps({"a": 1}), "holds a dict"),
        (b"Nr\xff\xff\xff\x7f.", "beyond any object"),  # would take gigabytes of memo
    ],
    ids=["empty", "cut", "no list", "huge memo"],
)
def test_other_pickles_are_one_sentence(tmp_path, data, message):
    file = tmp_path / "reviews.pickle"
    file.write_bytes(data)
    with pytest.raises(InputError, match=message):
        list(nlg4rs.read(file))


def test_entries_that_are_no_records_keep_their_number(tmp_path):
    file = tmp_path / "reviews.pickle"
    file.write_bytes(pickle.dumps([ROWS[0], 7, {1: 2}, {"user": "U"}]))
    assert [bad.line for bad in nlg4rs.read(file) if isinstance(bad, BadRecord)] == [2, 3, 4]


# What the extractor writes: praise first, then criticism, whatever their place in the review.
REVIEW = {
    "user": "U",
    "item": "I",
    "rating": 2,
    "text": "Shiny. The Neck is Slim but too thin, the tuners slip. The case broke!",
    "sentence": [
        ("neck", "Slim", "The Neck is Slim but too thin, the tuners slip", 1),
        ("case", "broke", "The case broke!", -1),
        ("neck", "thin", "The Neck is Slim but too thin, the tuners slip", -1),
        ("neck", "thin", "The Neck is Slim but too thin, the tuners slip", -1),
    ],
}
NECK = "the neck is slim but too thin , the tuners slip"
BOTH = [("neck", "slim", 1), ("neck", "thin", -1)]


def quadruples(*indices):
    return [REVIEW["sentence"][index] for index in indices]


@pytest.mark.parametrize(
    ("change", "explanation", "mentions"),
    [
        ({}, NECK, BOTH),  # both sentences hold criticism, as the rating does; the neck's has more to say
        ({"rating": 5, "sentence": quadruples(1, 0)}, NECK, BOTH[:1]),  # the only praise
        ({"rating": 1, "sentence": quadruples(0, 1)}, "the case broke !", [("case", "broke", -1)]),
        ({"rating": 3, "sentence": quadruples(0, 1)}, NECK, BOTH[:1]),  # neither agrees: the first
        ({"sentence": REVIEW["sentence"][1]}, "the case broke !", [("case", "broke", -1)]),  # one alone
        ({"sentence": [("case", "broke", "It broke.")]}, "it broke .", [("case", "broke", -1)]),  # by the rating
        ({"sentence": [("case", "broke", "It broke.", "1")]}, "it broke .", [("case", "broke", 1)]),
    ],
)
@pytest.mark.parametrize("form", ["pickle", "packed pickle", "JSON Lines"])
def test_the_sentence_of_an_extracted_review_is_that_which_agrees_with_its_rating(
    tmp_path, change, explanation, mentions, form
):
    file, row = tmp_path / "reviews", REVIEW | change
    if form == "JSON Lines":
        found = nlg4rs_jsonl.read(jsonl(file, row))
    else:
        data = pickle.dumps([row])
        file.write_bytes(data if form == "pickle" else gzip.compress(data))
        found = nlg4rs.read(file)
    assert list(found) == [RawRecord(1, "U", "I", float(row["rating"]), explanation, mentions)]


def test_extracted_reviews_without_a_feature_are_counted_and_keep_their_number(tmp_path):
    file = tmp_path / "reviews.pickle"
    without = {key: value for key, value in REVIEW.items() if key != "sentence"}
    rows = [REVIEW | {"user": f"u{n % 4}", "item": f"i{n // 4}"} for n in range(12)]
    file.write_bytes(pickle.dumps([without, without | {"user": "V", "sentence": []}, *rows]))
    corpus = prepared(f"raw={file}", "format=nlg4rs", f"out={tmp_path / 'c'}")
    assert corpus.manifest["skipped"] == {"no sentence with a feature": {"count": 2, "lines": [1, 2]}}
    assert (len(corpus.explanations), set(corpus.explanations)) == (12, {NECK})
    assert (corpus.concepts, corpus.manifest["counts"]["mentions"]) == (["neck"], 24)
    file.write_bytes(pickle.dumps([without, without]))
    with pytest.raises(InputError, match="names no feature in any of 2 reviews: extract them first, or give"):
        prepared(f"raw={file}", "format=nlg4rs", f"out={tmp_path / 'd'}")


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ([("a", "b")], "'sentence' holds"),
        ([["a", "b", "c", 1], "d"], "'sentence' holds 'd'"),
        ([("a", "b", "c", 7)], "sentiment 7 is none of"),
        ([(None, "b", "c", 1)], "has no 'feature'"),
    ],
)
def test_a_broken_quadruple_is_a_bad_record(tmp_path, sentence, message):
    file = tmp_path / "reviews.pickle"
    file.write_bytes(pickle.dumps([REVIEW | {"sentence": sentence}]))
    (bad,) = nlg4rs.read(file)
    assert message in bad.detail
    assert bad.is_fault


# --- RecBole


def test_recbole_atomic_files_with_those_beside_them(tmp_path):
    (tmp_path / "d.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview:token_seq\n"
        + "".join(f"u{n % 3}\ti{n // 3}\t4.0\t{n}\tThe great sound is what I like.\n" for n in range(9))
    )
    (tmp_path / "d.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\ni0\tHeat\tCrime\ni9\tX\tY\n"
    )
    (tmp_path / "d.user").write_text("user_id:token\tage:float\nu1\t33\n")
    corpus = prepared(
        f"raw={tmp_path / 'd.inter'}", "format=recbole", f"out={tmp_path / 'c'}", "concept_max_share=1.0",
        "concept_min_count=2",
    )  # fmt: skip
    assert corpus.explanations[0] == "the great sound is what i like ."
    assert dict(zip(corpus.items, corpus.item_titles, strict=True)) == {"i0": "Heat", "i1": "", "i2": ""}
    users = pa.parquet.read_table(corpus.path / "users.parquet")
    assert dict(zip(users["id"].to_pylist(), users["attributes"].to_pylist(), strict=True))["u1"] == '{"age": "33"}'
    assert corpus.manifest["side_files"]["items"] == {"file": "d.item", "found": 1, "skipped": {}}


@pytest.mark.parametrize(("packed", "beside"), [(".gz", ""), ("", ".gz"), (".gz", ".gz")])
def test_recbole_side_files_are_found_beside_a_packed_file_and_packed_themselves(tmp_path, packed, beside):
    files = {
        f"a.b.inter{packed}": "user_id:token\titem_id:token\trating:float\treview:token_seq\n"
        + "".join(f"u{n % 3}\ti{n // 3}\t4.0\tThe great sound.\n" for n in range(9)),
        f"a.b.item{beside}": "item_id:token\tmovie_title:token_seq\ni0\tHeat\n",
    }
    for name, text in files.items():
        data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (tmp_path / name).write_bytes(data)
    corpus = prepared(
        f"raw={tmp_path / f'a.b.inter{packed}'}", "format=recbole", f"out={tmp_path / 'c'}", "explanation=whole"
    )
    assert "Heat" in corpus.item_titles


def test_recbole_without_texts_is_refused_with_the_columns_there_are(tmp_path):
    (tmp_path / "d.inter").write_text("user_id:token\titem_id:token\trating:float\nu\ti\t4\n")
    with pytest.raises(InputError, match=r"d\.inter:1: none of the columns is a text .* only user_id:token, item_id"):
        list(recbole.read(tmp_path / "d.inter"))


# --- XRec


def xrec_row(n, **more):
    return {"uid": n, "iid": n % 3, "title": "Dune", "user_summary": "likes sand", "item_summary": "of sand",
            "explanation": "The user would enjoy the sand."} | more  # fmt: skip


def test_xrec_folders_give_splits_titles_and_profiles(tmp_path):
    jsonl(tmp_path / "trn.jsonl", *(xrec_row(n) for n in range(6)))
    (tmp_path / "tst.jsonl.gz").write_bytes(gzip.compress(json.dumps(xrec_row(0, iid=1)).encode()))
    corpus = prepared(
        f"raw={tmp_path}", "format=xrec", f"out={tmp_path / 'c'}", "concept_max_share=1", "concept_min_count=1"
    )
    assert [len(corpus.rows(split)) for split in ("train", "valid", "test")] == [6, 0, 1]
    assert set(corpus.rating_R.tolist()) == {5.0}
    assert corpus.manifest["source"]["ratings"] == "none in the source: all set to 5"
    assert corpus.item_titles == ["Dune"] * 3
    assert corpus.manifest["side_files"]["users"]["found"] == 6


def test_xrec_faults_name_their_file(tmp_path):
    jsonl(tmp_path / "val.jsonl", {"uid": 1})
    (bad,) = xrec.read(tmp_path, 5.0)
    assert (bad.line, bad.detail) == (1, "val.jsonl: has no 'iid'")


def test_xrec_pickles_say_how_to_convert_them(tmp_path):
    (tmp_path / "trn.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"trn\.pkl must be converted"):
        list(xrec.read(tmp_path, 5.0))


# --- tables, packing, side files


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_tables_are_read_plain_gzip_and_zstd(tmp_path, ending):
    data = b"user,item,rating,text\nU,I,5,It's a fine amp!\n"
    packed = {"": bytes, ".gz": gzip.compress, ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True)}[ending](data)
    file = tmp_path / f"t.csv{ending}"
    file.write_bytes(packed)
    (record,) = table.read(file, Columns(), 3.0)
    assert (record.user, record.explanation) == ("U", "it's a fine amp !")


def test_a_cut_zstd_file_is_one_sentence(tmp_path):
    file = tmp_path / "t.jsonl.zst"
    file.write_bytes(pa.compress(os.urandom(5000), "zstd", asbytes=True)[:-900])
    with pytest.raises(InputError, match=r"t\.jsonl\.zst cannot be read"):
        list(table.read(file, Columns(), 3.0))


def test_columns_of_a_table_become_attributes(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("user,item,rating,text,brand,age\n" + "".join(f"u{n},i,4,Great amp,Fen,{n}\n" for n in range(3)))
    corpus = prepared(
        f"raw={file}", "format=table", f"out={tmp_path / 'c'}", "columns.item_attributes=brand",
        "columns.user_attributes=age",
    )  # fmt: skip
    items = pa.parquet.read_table(corpus.path / "items.parquet")
    users = pa.parquet.read_table(corpus.path / "users.parquet")
    assert items["attributes"].to_pylist() == ['{"brand": "Fen"}']
    assert json.loads(users["attributes"].to_pylist()[users["id"].to_pylist().index("u2")]) == {"age": "2"}
    with pytest.raises(InputError, match="there is no column 'maker'"):
        list(table.read_facts(file, Columns(item_attributes="maker"), "item"))


def test_a_bad_line_of_a_side_file_stops_naming_it_or_is_counted(tmp_path):
    reviews = [{"user_id": f"u{n}", "business_id": "b", "stars": 4, "text": "The food here is great for us.",
                "date": "2018-07-07"} for n in range(4)]  # fmt: skip
    raw = jsonl(tmp_path / "r.json", *reviews)
    side = jsonl(tmp_path / "b.json", "{", {"business_id": "b", "name": "Café"})
    arguments = [f"raw={raw}", "format=yelp", f"item_file={side}", f"out={tmp_path / 'c'}", "concept_max_share=1"]
    with pytest.raises(InputError, match=r"b\.json:1: is not JSON"):
        prepared(*arguments, "concept_min_count=2")
    corpus = prepared(*arguments, "concept_min_count=2", "on_bad_record=skip")
    assert corpus.item_titles == ["Café"]
    assert corpus.manifest["side_files"]["items"]["skipped"] == {"unreadable line": {"count": 1, "lines": [1]}}
