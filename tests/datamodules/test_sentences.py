"""The sentence of a review that explains its rating: the documented rule, and what becomes of the others."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.extraction import Extractor
from datamodules.importers.tokenising import tokenised
from datamodules.records import RawRecord
from datamodules.sentences import SentenceOptions, choose, offers, split_sentences
from metrics.errors import InputError

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
EXTRACTOR = Extractor({("sound",): "sound", ("neck",): "neck"}, {"great": 1, "bad": -1})
FILLER = "we had read a lot about it in all of the papers ."


def chosen(*sentences, sign=1, others=lambda concept: 0, **more):
    options = SentenceOptions(**{"sentence_min_words": 4} | more)
    return choose(offers(" ".join(sentences), EXTRACTOR, options), sign, others, options)[0]


def test_sentences_end_with_their_marks_and_what_closes_behind_them():
    text = 'it is . . . good ! " yes ? " no ( really . ) end'
    assert [" ".join(part) for part in split_sentences(text.split())] == [
        "it is . . .",
        'good ! "',
        'yes ? "',
        "no ( really . )",
        "end",
    ]


@pytest.mark.parametrize("mark", list("।॥。！？؟۔።։។။｡؛") + [".", "!", "?", ";"])
def test_sentences_end_in_all_scripts(mark):
    assert [" ".join(part) for part in split_sentences(f"a b {mark} c , d".split())] == [f"a b {mark}", "c , d"]


def test_english_reviews_are_tokenised_and_split_as_before_other_scripts_were_known():
    file = DATA / "amazon_mi5" / "reviews.full.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent (LLM2ER_DATA names the folder of real data)")
    digest = hashlib.sha256()
    for line in gzip.decompress(file.read_bytes()).splitlines():
        text = tokenised(json.loads(line)["text"])
        digest.update(text.encode() + repr(list(map(list, split_sentences(text.split())))).encode())
    assert digest.hexdigest() == "cbf15a46e0b71dfd84f969732def8748474a6a5a8f26efdc9c5cc5b7eeb93e1c"


def test_a_quote_of_east_asia_closes_behind_its_end_mark():
    assert [" ".join(part) for part in split_sentences(["「", "はい", "。", "」", "と"])] == ["「 はい 。 」", "と"]


def test_marks_that_pause_end_no_sentence():
    assert len(list(split_sentences(["a", "،", "b", "、", "c", "，", "d", "፣", "e", "…", "f", ":", "g"]))) == 1


def test_a_sentence_without_a_concept_is_no_candidate():
    assert chosen(FILLER, "i looked at the neck twice .") == "i looked at the neck twice ."


def test_an_opinion_on_a_concept_comes_first():
    assert chosen("the neck is made of one single piece of wood .", "great sound here .") == "great sound here ."


def test_then_agreement_with_the_rating():
    good, bad = "the sound is great all over the place .", "the neck is bad all over the place ."
    assert chosen(bad, good, sign=1) == good
    assert chosen(good, bad, sign=-1) == bad


def test_then_what_most_other_reviews_of_the_item_name():
    sound, neck = "the sound is great all over the place .", "the neck is great , too ."
    assert chosen(sound, neck) == sound
    assert chosen(sound, neck, others=[1, 2].__getitem__) == neck  # concepts 0 and 1


def test_other_reviews_are_train_reviews_of_the_item_without_the_review_itself(tmp_path):
    both = "the sound is great all over the place . the neck is great , too ."
    texts = [(both, "i", "train"), ("the neck is great .", "i", "train"), ("the sound is great .", "j", "train")]
    texts += [("the sound is great .", "i", "test")] * 2 + [("the neck is bad .", "j", "train")]
    records = [review(n + 1, f"u{n}", item, text)._replace(split=split) for n, (text, item, split) in enumerate(texts)]
    options = BuildOptions(
        explanation="sentence", concept_min_count=2, concept_max_share=1.0, on_bad_record="skip", sentence_min_words=3
    )
    corpus = build_corpus(records, tmp_path / "c", options, {})
    assert corpus.explanations[0] == "the neck is great , too ."


def test_then_the_nearest_to_a_typical_length_then_the_earlier():
    short, long = "the great sound .", "the great sound is what we bought it for after all ."
    assert chosen(short, long) == long
    assert chosen("one great sound .", "two great sound .") == "one great sound ."


def test_too_short_and_too_long_sentences_are_no_candidates():
    assert chosen("great sound .", sentence_min_words=4) == ""
    assert chosen("the great sound is here .", sentence_min_words=SentenceOptions().sentence_min_words) == ""
    assert chosen("the great sound " + "of it " * 20 + ".", sentence_max_words=30) == ""


def test_several_sentences_keep_the_order_of_the_review():
    one, two = "the neck is fine by me .", "the great sound is what we bought it for after all ."
    assert chosen(one, FILLER, two, sentences=2) == f"{one} {two}"


def review(line, user, item, text, **more):
    return RawRecord(line, user, item, 5.0, text, None, **more)


def test_reviews_without_a_candidate_are_left_out_and_counted_and_whole_ones_are_kept(tmp_path):
    texts = ["we like it . the great sound .", "the sound is bad .", "nothing to say .", "one great sound . bye now ."]
    records = [review(n + 1, f"u{n}", "i", text) for n, text in enumerate(texts)]
    options = BuildOptions(explanation="sentence", concept_min_count=2, concept_max_share=1.0, sentence_min_words=4)
    corpus = build_corpus(records, tmp_path / "c", options, {"file": "r.jsonl"})
    assert corpus.explanations == ["the great sound .", "the sound is bad .", "one great sound ."]
    assert corpus.manifest["skipped"] == {"no sentence of 4 to 30 words names a concept": {"count": 1, "lines": [3]}}
    kept = pq.read_table(corpus.path / "reviews.parquet")
    assert kept["review"].to_pylist() == texts
    assert kept["record"].to_pylist() == [0, 1, None, 2]


def test_a_user_whose_only_train_review_says_nothing_is_warmed_in_a_random_split(tmp_path):
    texts = {(u, i): f"the great sound of {u} {i} ." for u in range(12) for i in range(6)}
    texts |= {(0, i): "nothing to say ." for i in range(6)}
    for seed in range(6):
        texts[0, seed] = "the bad sound ."
        records = [review(n + 1, f"u{u}", f"i{i}", text) for n, ((u, i), text) in enumerate(texts.items())]
        options = BuildOptions(
            explanation="sentence", concept_min_count=2, concept_max_share=1.0, split_seed=seed, sentence_min_words=3
        )
        corpus = build_corpus(records, tmp_path / "c", options, {})
        assert corpus.manifest["cold"] == {"users": 0, "items": 0}
        texts[0, seed] = "nothing to say ."


def test_sentences_are_not_chosen_by_concepts_that_are_given(tmp_path):
    record = RawRecord(1, "u", "i", 5.0, "the great sound .", [("sound", "great", 1)])
    with pytest.raises(InputError, match="explanation=sentence chooses by concepts"):
        build_corpus([record], tmp_path / "c", BuildOptions(explanation="sentence"), {})


def test_cutting_and_choosing_do_not_go_together():
    with pytest.raises(InputError, match=r"max_words=5 .* sentence_max_words"):
        BuildOptions(explanation="sentence", max_words=5)
