"""The embedded corpus: its planted truth is in the ratings and in the texts, and can be told from chance."""

import time
from collections import Counter

import numpy as np
import pytest

from datamodules.corpus import SPLITS, Corpus
from datamodules.importers.embedded import generate, load_truth, write_embedded
from datamodules.importers.embedded_text import CONCEPTS, OPINIONS
from metrics.errors import InputError
from metrics.phrases import PhraseMatcher

USERS, ITEMS, SEED = 300, 120, 7
OPINION_WORDS = {sign: {word for words in OPINIONS[sign].values() for word in words} for sign in (1, -1)}


@pytest.fixture(scope="module")
def generated():
    return generate(USERS, ITEMS, SEED)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(60, 40, 3, tmp_path_factory.mktemp("embedded") / "corpus")


def is_good(text):
    return len(text.split()) >= 8


def test_it_is_made_in_two_seconds():
    start = time.perf_counter()
    generate(USERS, ITEMS, SEED)
    assert time.perf_counter() - start < 2


def test_same_seed_same_records_other_seed_others(generated):
    assert generate(USERS, ITEMS, SEED) == generated
    assert generate(USERS, ITEMS, SEED + 1)[0] != generated[0]


def test_every_user_has_8_to_14_records_and_no_pair_comes_twice(generated):
    records, _ = generated
    assert set(Counter(r.user for r in records).values()) <= set(range(8, 15))
    assert len({r.user for r in records}) == USERS
    assert len({(r.user, r.item) for r in records}) == len(records)


def test_every_item_occurs_and_popularity_is_skewed(generated):
    counts = sorted(Counter(r.item for r in generated[0]).values(), reverse=True)
    assert len(counts) == ITEMS
    assert sum(counts[: ITEMS // 10]) > 3 * sum(counts) / 10  # the top tenth draws over three times its share


def test_all_ratings_occur_with_a_mean_near_3_6(generated):
    ratings = [r.rating for r in generated[0]]
    assert set(ratings) == {1, 2, 3, 4, 5}
    assert np.mean(ratings) == pytest.approx(3.6, abs=0.1)


def test_affinity_predicts_ratings_far_better_than_the_best_user_and_item_biases(generated):
    records, truths = generated
    rating_R = np.array([r.rating for r in records])
    names = {name: i for i, name in enumerate(sorted({r.user for r in records} | {r.item for r in records}))}
    design = np.zeros((len(records), len(names)))
    for row, record in enumerate(records):
        design[row, [names[record.user], names[record.item]]] = 1
    affinity = np.column_stack([np.ones(len(records)), [t.affinity for t in truths]])
    rmse = {}
    for model, columns in {"bias": design, "oracle": affinity}.items():
        fitted = columns @ np.linalg.lstsq(columns, rating_R, rcond=None)[0]
        rmse[model] = float(np.sqrt(np.mean((np.clip(fitted, 1, 5) - rating_R) ** 2)))
    assert rmse["oracle"] < 0.6 * rmse["bias"]


def test_users_of_alike_taste_rate_alike(generated):
    """Collaborative signal: users who name the same concepts agree on an item more than others do."""
    records, truths = generated
    tastes, ratings = {}, {}
    for record, truth in zip(records, truths, strict=True):
        tastes.setdefault(record.user, set()).update(concept for concept, _ in truth.drivers)
        ratings.setdefault(record.item, []).append((record.user, record.rating))
    gaps = {True: [], False: []}
    for raters in ratings.values():
        for i, (user, rating) in enumerate(raters):
            for other, other_rating in raters[:i]:
                alike = len(tastes[user] & tastes[other]) >= 3
                gaps[alike].append(abs(rating - other_rating))
    assert np.mean(gaps[True]) < 0.9 * np.mean(gaps[False])


def test_good_texts_have_8_to_20_words_and_are_lower_case_tokenised(generated):
    texts = [r.explanation for r in generated[0] if is_good(r.explanation)]
    assert all(len(text.split()) <= 20 and text == text.lower() and text.endswith(" .") for text in texts)
    assert all(text == " ".join(text.split()) for text in texts)
    assert len(set(texts)) > 0.95 * len(texts)


def test_about_15_percent_of_the_texts_are_of_low_quality(generated):
    texts = [r.explanation for r in generated[0]]
    assert np.mean([not is_good(text) for text in texts]) == pytest.approx(0.15, abs=0.03)


def test_a_text_names_exactly_the_concepts_of_its_mentions(generated):
    matcher = PhraseMatcher(CONCEPTS)
    for record in generated[0]:
        assert {CONCEPTS[i] for i in matcher.find(record.explanation)} == {concept for concept, _, _ in record.mentions}


def test_a_good_text_names_its_drivers_or_the_first_of_them(generated):
    named = Counter()
    for record, truth in zip(*generated, strict=True):
        mentions = [(concept, polarity) for concept, _, polarity in record.mentions]
        if is_good(record.explanation):
            assert mentions in (truth.drivers, truth.drivers[:1])
        named[len(mentions)] += 1
    assert set(named) == {0, 1, 2}


def test_opinion_words_fit_their_polarity_and_stand_in_the_text(generated):
    for record in generated[0]:
        if is_good(record.explanation):
            for _, opinion, polarity in record.mentions:
                assert opinion in OPINION_WORDS[polarity]
                assert f" {opinion} " in record.explanation


def test_no_opinion_word_serves_both_polarities():
    assert not OPINION_WORDS[1] & OPINION_WORDS[-1]


def test_concepts_are_about_forty_some_of_two_words():
    assert len(CONCEPTS) == len(set(CONCEPTS)) == 40
    assert sum(" " in concept for concept in CONCEPTS) >= 10


def test_the_corpus_has_all_splits_and_no_cold_user(corpus):
    assert all(len(corpus.rows(split)) for split in SPLITS)
    assert corpus.manifest["cold"] == {"users": 0, "items": 0}
    assert all(corpus.item_titles)


def test_truth_lies_beside_the_records_and_matches_them(corpus):
    truth = {(t.user, t.item): t for t in generate(60, 40, 3)[1]}
    for row, drivers in enumerate(load_truth(Corpus.load(corpus.path))):
        expected = truth[corpus.users[corpus.user_R[row]], corpus.items[corpus.item_R[row]]].drivers
        assert [(corpus.concepts[concept], polarity) for concept, polarity in drivers.items()] == expected


def test_a_corpus_without_truth_is_refused(corpus):
    del corpus.manifest["files"]["truth.parquet"]
    with pytest.raises(InputError, match=r"has no truth\.parquet"):
        load_truth(corpus)


def test_the_smallest_corpus_can_be_made_and_a_smaller_one_is_refused(tmp_path):
    assert len(write_embedded(2, 10, 0, tmp_path / "small").users) == 2
    with pytest.raises(InputError, match="at least 2 users, 10 items"):
        generate(2, 9, 0)
