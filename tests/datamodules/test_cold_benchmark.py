"""What benchmarks/cold_start.py shows to which run."""

import sys
from pathlib import Path

import pytest

from datamodules.importers.embedded import write_embedded

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from cold_start import PARTS, TOLD, Part, names_of  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_embedded(60, 20, 4, tmp_path_factory.mktemp("whole") / "corpus")


def said(corpus, records):
    return {(*names_of(corpus, record).values(), corpus.explanations[record]) for record in records}


@pytest.mark.parametrize("kind", ["user", "item"])
def test_a_cold_run_has_no_word_of_a_newcomer_and_a_warm_one_has_all_but_what_is_asked(whole, tmp_path, kind):
    part = Part(whole, kind, 2)
    cold, warm = (part.written(tmp_path / str(in_train), in_train) for in_train in (False, True))
    known = {names_of(cold, row)[kind] for split in ("train", "valid") for row in cold.rows(split).tolist()}
    assert known
    assert not known & part.telling.keys()
    telling = {record for records in part.telling.values() for record in records}
    assert telling
    assert said(warm, warm.rows("train")) - said(cold, cold.rows("train")) == said(whole, telling)
    assert said(cold, cold.rows("test")) == said(warm, warm.rows("test")) == said(whole, part.asked)
    assert not telling & set(part.asked)


@pytest.mark.parametrize("kind", ["user", "item"])
def test_each_record_is_asked_or_tells_in_one_part_alone(whole, kind):
    parts = [Part(whole, kind, number) for number in range(PARTS)]
    seen = [record for part in parts for records in (part.asked, *part.telling.values()) for record in records]
    assert sorted(seen) == list(range(len(whole.explanations)))


def test_a_newcomer_tells_what_most_of_its_own_records_praise_and_no_more(whole):
    part = Part(whole, "item", 0)
    record = part.asked[0]
    pair = part.pair(record, set(whole.concepts), told=True)
    item = names_of(whole, record)["item"]
    assert pair.item == f"new {item}"
    praised = [{whole.concepts[m.concept] for m in whole.mentions[r] if m.polarity > 0} for r in part.telling[item]]
    counts = {concept: sum(concept in one for one in praised) for one in praised for concept in one}
    assert sorted(counts.values(), reverse=True)[:TOLD] == [counts[concept] for concept in pair.item_concepts]
    assert part.pair(record, set(whole.concepts), told=False) == (pair.user, pair.item, (), (), "", False)
    assert part.pair(record, set(), told=True).item_concepts == ()
