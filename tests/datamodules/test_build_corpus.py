"""Raw records -> corpus: every check has its reason and line, nothing is dropped unseen, splits and ids are stable."""

import random
from collections import Counter

import pytest

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.records import BadRecord, LeftOut, accepted, normalise
from datamodules.splits import leave_last_out, random_splits
from metrics.errors import InputError

SKIP = BuildOptions(on_bad_record="skip")
SOURCE = {"file": "folder/raw.jsonl"}


def record(line, user="u", item="i", rating=4.0, text="fine sound .", mentions=None, **more):
    return RawRecord(line, user, item, rating, text, mentions, **more)


def good(number):
    """A grid of records without a fault; lines from 1."""
    return [record(n + 1, f"u{n % 5}", f"i{n // 5}") for n in range(number)]


def columns(records):
    return accepted(records, 1, 5, LeftOut("raw.jsonl", "error"))


FAULTS = {
    "rating not finite": record(99, rating=float("nan")),
    "rating out of range": record(99, rating=6.0),
    "empty explanation": record(99, text=" \t\x00 "),
    "empty concept": record(99, mentions=[(" ", "warm", 1)]),
    "unknown polarity": record(99, mentions=[("sound", "warm", 2)]),
    "not UTF-8": record(99, text="caf\udce9 noise"),
    "missing key": record(99, user=" "),
    "unknown split": record(99, split="holdout"),
    "duplicate user and item": record(99, "u0", "i0"),
    "unreadable line": BadRecord(99, "unreadable line", "is not JSON"),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_record_stops_the_build_naming_file_line_and_remedy(tmp_path, reason):
    with pytest.raises(InputError, match=r"^folder/raw\.jsonl:99: .*on_bad_record=skip"):
        build_corpus([*good(4), FAULTS[reason]], tmp_path / "c", BuildOptions(), SOURCE)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("reason", FAULTS)
def test_a_skipped_record_is_counted_with_its_line(tmp_path, reason):
    corpus = build_corpus([*good(4), FAULTS[reason]], tmp_path / "c", SKIP, SOURCE)
    assert corpus.manifest["skipped"] == {reason: {"count": 1, "lines": [99]}}
    assert len(corpus.explanations) == 4


def test_only_the_first_line_numbers_of_a_reason_are_kept(tmp_path):
    bad = [record(50 + n, f"x{n}", rating=0) for n in range(9)]
    corpus = build_corpus([*good(4), *bad], tmp_path / "c", SKIP, SOURCE)
    assert corpus.manifest["skipped"]["rating out of range"] == {"count": 9, "lines": [50, 51, 52, 53, 54]}


def test_the_first_of_two_records_of_a_pair_is_kept(tmp_path):
    pair = [record(1, rating=2.0), record(2, rating=5.0)]
    assert build_corpus(pair, tmp_path / "c", SKIP, SOURCE).rating_R.tolist() == [2.0]


def test_a_split_for_some_records_only_is_a_fault_of_the_others(tmp_path):
    records = [record(1, split="train"), record(2, item="j")]
    with pytest.raises(InputError, match="raw.jsonl:2: has no split"):
        build_corpus(records, tmp_path / "c", BuildOptions(), SOURCE)
    assert build_corpus(records, tmp_path / "c", SKIP, SOURCE).manifest["skipped"]["missing split"]["lines"] == [2]


def test_no_train_record_is_an_error_under_both_policies(tmp_path):
    for options in (SKIP, BuildOptions()):
        with pytest.raises(InputError, match="no train record"):
            build_corpus([record(1, split="test")], tmp_path / "c", options, SOURCE)


def test_no_record_at_all_is_an_error_that_says_what_was_left_out(tmp_path):
    with pytest.raises(InputError, match=r"no record .* 1 left out \(rating out of range\)"):
        build_corpus([record(1, rating=9)], tmp_path / "c", SKIP, SOURCE)


def cold_records():
    train = [record(1, "u", "i", split="train")]
    return (
        train + [record(2 + n, f"new{n}", "i", split="test") for n in range(4)] + [record(9, "u", "j", split="valid")]
    )


def test_cold_users_and_items_stop_the_build_with_their_number_and_names(tmp_path):
    with pytest.raises(InputError, match=r"4 users \(new0, new1, new2\) and 1 items \(j\) stand in valid or test"):
        build_corpus(cold_records(), tmp_path / "c", BuildOptions(), SOURCE)


def test_cold_users_and_items_are_kept_and_counted_under_skip(tmp_path):
    corpus = build_corpus(cold_records(), tmp_path / "c", SKIP, SOURCE)
    assert corpus.manifest["cold"] == {"users": 4, "items": 1}
    assert corpus.manifest["skipped"] == {}
    assert sorted(corpus.users) == ["new0", "new1", "new2", "new3", "u"]


def test_minimum_counts_leave_records_out_by_reason(tmp_path):
    records = [*good(15), record(40, "rare", "i0"), record(41, "u0", "scarce")]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(min_user=2, min_item=2), SOURCE)
    assert corpus.manifest["skipped"] == {
        "item below min_item": {"count": 1, "lines": [41]},
        "user below min_user": {"count": 1, "lines": [40]},
    }
    assert "rare" not in corpus.users
    assert "scarce" not in corpus.items


def test_minimum_counts_hold_of_all_that_stay(tmp_path):
    """A k-core: u9 falls with i9, which only u8 and u9 rated, and then u8 has too few as well."""
    records = [*good(15), record(40, "u8", "i9"), record(41, "u9", "i9"), record(42, "u8", "i0")]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(min_user=2, min_item=2), SOURCE)
    assert sorted(corpus.users) == ["u0", "u1", "u2", "u3", "u4"]
    assert sum(entry["count"] for entry in corpus.manifest["skipped"].values()) == 3


def test_records_outside_a_span_of_days_are_left_out_and_counted(tmp_path):
    day = 86_400
    records = [record(n + 1, f"u{n}", time=n * day + day // 2) for n in range(6)]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(since="1970-01-03", until="1970-01-04"), SOURCE)
    assert sorted(corpus.users) == ["u2", "u3"]
    assert corpus.manifest["skipped"] == {
        "after until": {"count": 2, "lines": [5, 6]},
        "before since": {"count": 2, "lines": [1, 2]},
    }


def test_a_span_of_days_needs_times(tmp_path):
    with pytest.raises(InputError, match=r"raw\.jsonl:1: has no time"):
        build_corpus([record(1)], tmp_path / "c", BuildOptions(since="2020-01-01"), SOURCE)


def test_other_scales_are_mapped_in_proportion_and_the_manifest_says_so(tmp_path):
    records = [record(1, rating=0), record(2, "v", rating=5), record(3, "w", rating=10)]
    options = BuildOptions(rating_min=0, rating_max=10, rating_map=True)
    corpus = build_corpus(records, tmp_path / "c", options, SOURCE)
    assert corpus.rating_R.tolist() == [1, 3, 5]
    assert (corpus.rating_min, corpus.rating_max) == (1, 5)
    assert corpus.manifest["ratings_mapped_from"] == [0, 10]


def test_the_last_record_in_time_is_test_and_the_one_before_it_valid():
    records = [
        record(1, "a", "x", time=30),
        record(2, "a", "y", time=10),
        record(3, "a", "z", time=20),
        record(4, "b", "x", time=5),
        record(5, "b", "y", time=5),  # the same second: the order of the file
        record(6, "c", "x", time=1),
    ]
    assert leave_last_out(columns(records), "raw.jsonl").tolist() == [2, 0, 1, 0, 2, 0]


def test_leaving_the_last_out_needs_times(tmp_path):
    with pytest.raises(InputError, match=r"raw\.jsonl:1: has no time, which split=last_out needs"):
        build_corpus([record(1)], tmp_path / "c", BuildOptions(split="last_out"), SOURCE)


def test_leaving_the_last_out_reports_cold_items_and_does_not_stop(tmp_path):
    records = [record(1, "a", "x", time=1), record(2, "a", "new", time=2)]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(split="last_out"), SOURCE)
    assert corpus.manifest["cold"] == {"users": 0, "items": 1}
    assert corpus.manifest["splits"] == "last_out"


def test_long_explanations_are_cut_and_counted(tmp_path):
    records = [record(1, text="one two three four"), record(2, "v", text="one two three")]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(max_words=3), SOURCE)
    assert corpus.explanations == ["one two three"] * 2
    assert corpus.manifest["cut_explanations"] == 1


def test_normalised_text_is_composed_without_controls_and_with_single_blanks():
    assert normalise(" cafe\u0301\t\r\nA\x00B \x07 C\u00a0D\x85") == "caf\u00e9 AB C D"


def test_case_and_punctuation_of_an_explanation_stay(tmp_path):
    corpus = build_corpus([record(1, text="Don't  panic!")], tmp_path / "c", BuildOptions(), SOURCE)
    assert corpus.explanations == ["Don't panic!"]


def test_concepts_are_those_of_train_and_others_are_counted(tmp_path):
    records = [
        record(1, mentions=[("Neck", "slim", 1), ("body", "", 0)], split="train"),
        record(2, "v", mentions=[("neck", "fat", -1)], split="train"),
        record(3, "v", "j", mentions=[("action", "low", 1)], split="train"),
        record(4, "u", "j", mentions=[("pickup", "hot", 1), ("neck", "slim", 1)], split="test"),
    ]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(), SOURCE)
    assert corpus.concepts == ["neck", "action", "body"]  # two records, then by name
    assert corpus.mentions[3] == [(0, "slim", 1)]
    assert corpus.manifest["mentions_unseen_in_train"] == 1
    assert corpus.manifest["concepts"] == "given"


def test_a_concept_counts_once_a_record(tmp_path):
    records = [
        record(1, mentions=[("neck", "a", 1), ("neck", "b", 1), ("neck", "c", 1)], split="train"),
        record(2, "v", mentions=[("body", "", 1)], split="train"),
        record(3, "w", mentions=[("body", "", 1)], split="train"),
    ]
    assert build_corpus(records, tmp_path / "c", BuildOptions(), SOURCE).concepts == ["body", "neck"]


def test_without_mentions_concepts_are_extracted_with_the_sign_of_the_opinion_or_else_of_the_rating(tmp_path):
    records = [
        record(1, "a", rating=5, text="the great sound", split="train"),
        record(2, "b", rating=3, text="the sound .", split="train"),
        record(3, "c", rating=1, text="the sound .", split="train"),
        record(4, "c", "k", rating=1, text="a bad cable .", split="train"),
        record(5, "c", "k2", rating=5, text="not a bad cable .", split="train"),
        record(6, "a", "k", rating=2, text="a bad cable and a bad lamp , lamp lamp .", split="test"),
    ]
    options = BuildOptions(concept_min_count=2, concept_max_share=1.0)
    corpus = build_corpus(records, tmp_path / "c", options, SOURCE)
    assert corpus.concepts == ["sound", "cable"]  # what only test names is none
    expected = [[(0, "great", 1)], [(0, "", 0)], [(0, "", -1)], [(1, "bad", -1)], [(1, "bad", 1)], [(1, "bad", -1)]]
    assert corpus.mentions == expected
    assert corpus.manifest["concepts"] == "extracted"


def random_grid(seed, number):
    draw = random.Random(seed)
    pairs = draw.sample([(u, i) for u in range(30) for i in range(20)], number)
    return [record(n + 1, f"u{u}", f"i{i}") for n, (u, i) in enumerate(pairs)]


@pytest.mark.parametrize("seed", range(5))
def test_random_split_is_8_1_1_with_every_user_and_item_in_train(seed):
    records = random_grid(seed, 400)
    split = random_splits(columns(records), seed).tolist()
    train = [r for r, s in zip(records, split, strict=True) if s == 0]
    assert Counter(split) == {0: 320, 1: 40, 2: 40}
    assert {r.user for r in train} == {r.user for r in records}
    assert {r.item for r in train} == {r.item for r in records}


def test_random_split_of_sparse_records_gives_train_what_it_needs():
    records = [record(n, f"u{n}", f"i{n}") for n in range(50)]
    assert set(random_splits(columns(records), 0).tolist()) == {0}


def test_random_split_differs_by_seed_and_not_by_the_order_of_records():
    records = random_grid(3, 200)
    shuffled = random.Random(0).sample(records, len(records))
    by_line = {r.line: s for r, s in zip(records, random_splits(columns(records), 1).tolist(), strict=True)}
    assert by_line == {r.line: s for r, s in zip(shuffled, random_splits(columns(shuffled), 1).tolist(), strict=True)}
    assert by_line != {r.line: s for r, s in zip(records, random_splits(columns(records), 2).tolist(), strict=True)}


def test_ids_are_by_train_frequency_then_name_whatever_the_order_of_the_file(tmp_path):
    records = [
        record(1, "zoe", "x", split="train"),
        record(2, "zoe", "y", split="train"),
        record(3, "bob", "y", split="train"),
        record(4, "ann", "x", split="train"),
        record(5, "ann", "y", split="test"),
    ]
    for order in (records, records[::-1]):
        corpus = build_corpus(order, tmp_path / "c", BuildOptions(), SOURCE)
        assert corpus.users == ["zoe", "ann", "bob"]
        assert corpus.items == ["x", "y"]


def test_same_input_gives_the_same_bytes_in_any_folder(tmp_path):
    for name in ("a", "b"):
        build_corpus(random_grid(0, 100), tmp_path / name, BuildOptions(), {"file": f"/{name}/raw.csv"})
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / f).read_bytes() for f in files] == [(tmp_path / "b" / f).read_bytes() for f in files]


def test_manifest_counts_what_is_in_the_corpus(tmp_path):
    corpus = build_corpus(random_grid(0, 100), tmp_path / "c", BuildOptions(), SOURCE)
    assert corpus.manifest["counts"] == {
        "records": {"train": 80, "valid": 10, "test": 10},
        "users": len(corpus.users),
        "items": len(corpus.items),
        "concepts": len(corpus.concepts),
        "mentions": sum(map(len, corpus.mentions)),
        "words": 300,
    }
    assert corpus.manifest["source"] == {"file": "raw.jsonl"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_bad_record": "ignore"},
        {"min_user": -1},
        {"rating_min": 5.0},
        {"rating_max": float("inf")},
        {"concept_max_share": 0.0},
        {"concept_min_count": 0},
        {"concept_top": -1},
        {"split_seed": -1},
        {"split": "last"},
        {"since": "yesterday"},
        {"since": "2020-01-02", "until": "2020-01-01"},
        {"explanation": "best"},
        {"sentences": 0},
        {"sentence_min_words": 9, "sentence_max_words": 8},
        {"concept_source": "magic"},
        {"concept_list": "features.txt"},
    ],
)
def test_impossible_options_are_refused_by_key(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        BuildOptions(**wrong)
