import json
import math
import random

import numpy as np
import pytest

from metrics.catalog import ALL, MAIN
from metrics.errors import InputError
from metrics.sentiment import Polarity
from metrics.suite import ConceptKnowledge, evaluate

KNOWLEDGE = ConceptKnowledge(
    concepts=["room", "pool", "bar", "staff"],
    user_concepts=[{0}, {1, 2}],
    item_concepts=[{0, 1}, {3}],
    rating_min=1.0,
    rating_max=5.0,
    all_concepts=["room", "pool", "bar", "staff", "swimming pool"],
    bias=(3.5, np.array([0.5, -0.5]), np.array([0.0, 1.0])),
    polarity=Polarity({("nice",): 1.0, ("good",): 1.0, ("room",): 0.5, ("pool",): -2.0}),
)


def prediction(record, user, item, explanation, reference, **more):
    return {
        "record": record,
        "user_index": user,
        "item_index": item,
        "explanation": explanation,
        "reference": reference,
    } | more


# K(e): {room}, {room, bar}, {}, {pool, staff}
PREDICTIONS = [
    prediction(0, 0, 0, "the room is nice", "a nice room", rating=5, predicted_rating=7.0, gold_concepts=["room"]),
    prediction(1, 1, 0, "room and bar", "the bar is good", rating=3, predicted_rating=2.0, gold_concepts=["pool"]),
    prediction(2, 0, 1, "good value", "good value too", rating=4, predicted_rating=4.0, gold_concepts=[]),
    prediction(3, 1, 1, "pool and staff", "staff and bar", rating=1, predicted_rating=3.0, gold_concepts=["staff"]),
]
CANDIDATES = [["room", "pool"], ["bar"], ["room"], []]


def with_candidates():
    names = [[{"concept": name, "polarity": 1, "score": 0.5, "path": []} for name in row] for row in CANDIDATES]
    return [record | {"concepts": row} for record, row in zip(PREDICTIONS, names, strict=True)]


BY_HAND = {
    "n": 4,
    "fmr": 2 / 3,
    "fcr": 4 / 4,
    "div": 1 / 6,  # records 0 and 1 share the room; six pairs
    "cor": (1 / 2 + 0) / 2,
    "cor_overlap": (1 + 0) / 2,
    "cor_empty_share": 0 / 2,
    "concept_rate": 3 / 4,
    # allowed K_u | K_v: {room, pool}, {room, pool, bar}, -, {pool, bar, staff}
    "cmr": (1 + 1 + 1) / 3,
    # K_u & K_v: {room}, {pool}, -, {}
    "cmr_both": (1 + 0 + 0) / 3,
    "cmr_candidates": (1 + 1 / 2 + 0) / 3,
    "candidate_recall": (1 / 2 + 1 + 0) / 3,
    "rmse": math.sqrt((0 + 1 + 0 + 4) / 4),  # 7 is clipped to 5
    "mae": 3 / 4,
    "words": (4 + 3 + 2 + 3) / 4,
    "usn": 4,
    "usr": 1.0,
    "distinct_1": 100 * 10 / 12,  # room and `and` come twice
    "distinct_2": 100 * 8 / 8,
    "cor_count": (1 + 0) / 2,
    # references name {room}, {bar}, {}, {staff, bar}
    "cmr_gold": (1 + 1 / 2 + 1 / 2) / 3,
    "fmr_token": 2 / 3,
    "gt_fmr": 2 / 3,
    "fcr_token": 4 / 5,
    "fcr_test": 3 / 3,
    "div_token": 1 / 6,
    # of the items' train concepts {room, pool} and {staff}
    "ifmr": (1 + 1 + 0 + 1) / 4,
    "ifcr": (1 / 2 + 1) / 2,
    "concepts_named": (1 + 2 + 0 + 2) / 4,
    "concept_words": (1 / 4 + 2 / 3 + 0 + 2 / 3) / 4,
    "list_rate": 2 / 4,
    "repeat_rate": 0.0,
    "uusr": 1.0,
    "iusr": 1.0,
    "distinct_1_item": 100 * (6 / 7 + 5 / 5) / 2,
    "entr": ((2 * (2 / 12) * math.log2(12 / 2) + 8 / 12 * math.log2(12)) + math.log2(8) + math.log2(4)) / 3,
    # predictions 4, 3, 5, 4 by the biases
    "rmse_bias": math.sqrt((1 + 0 + 1 + 9) / 4),
    "mae_bias": (1 + 0 + 1 + 3) / 4,
    "rmse_constant": math.sqrt((1.5**2 + 0.5**2 + 0.5**2 + 2.5**2) / 4),
    # rated +, 0, +, -; said +, +, +, -; predicted +, -, +, 0
    "sentiment_match": 3 / 3,
    "sentiment_match_balanced": 1.0,
    "sentiment_match_predicted": 2 / 3,
    "sentiment_pos_pos": 2 / 3,
    "sentiment_neg_neg": 1 / 3,
    "sentiment_pos_neg": 0.0,
    "sentiment_reference": 2 / 3,
    "words_reference": (3 + 4 + 3 + 3) / 4,
    "bleu_1": 100 * 7 / 12 * math.exp(1 - 13 / 12),
    "rouge_1_p": 100 * (2 / 4 + 1 / 3 + 2 / 2 + 2 / 3) / 4,
    "rouge_1_r": 100 * (2 / 3 + 1 / 4 + 2 / 3 + 2 / 3) / 4,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_metric_equals_its_value_counted_by_hand(name):
    assert evaluate(with_candidates(), KNOWLEDGE, resamples=0)[name] == pytest.approx(BY_HAND[name], abs=1e-12)


def test_nothing_is_skipped_when_every_field_is_given():
    assert evaluate(with_candidates(), KNOWLEDGE, resamples=0)["skipped"] == []


def test_the_order_of_predictions_changes_nothing_to_the_last_digit():
    rng = random.Random(0)
    words = ["room", "pool", "bar", "staff", "good", "the", "a"]
    records = [
        prediction(
            index,
            rng.randrange(2),
            rng.randrange(2),
            " ".join(rng.choices(words, k=rng.randint(0, 8))),
            " ".join(rng.choices(words, k=5)),
            rating=rng.randint(1, 5),
            predicted_rating=rng.uniform(0, 6),
        )
        for index in range(200)
    ]
    ranks = [record for rank in range(3) for record in records[rank::3]]
    assert evaluate(records, KNOWLEDGE, resamples=50) == evaluate(ranks, KNOWLEDGE, resamples=50)


def test_swapping_explanation_and_reference_changes_the_scores():
    swapped = [
        record | {"explanation": record["reference"], "reference": record["explanation"]} for record in PREDICTIONS
    ]
    there, back = (evaluate(records, None, resamples=0) for records in (PREDICTIONS, swapped))
    assert there["rouge_1_p"] == pytest.approx(back["rouge_1_r"])
    assert there["rouge_1_p"] != pytest.approx(there["rouge_1_r"])
    assert (there["words"], back["words"]) == (12 / 4, 13 / 4)


def test_index_zero_is_a_user_an_item_and_a_concept_like_any_other():
    first = [prediction(0, 0, 0, "room", "room"), prediction(1, 0, 0, "room", "room")]
    scores = evaluate(first, KNOWLEDGE, resamples=0)
    assert [scores[name] for name in ("concept_rate", "cmr", "cor", "div", "fcr")] == [1, 1, 1, 1, 1 / 4]


def test_a_single_prediction_is_scored_without_intervals():
    scores = evaluate(PREDICTIONS[:1], KNOWLEDGE)
    assert scores["n"] == 1
    assert scores["rouge_1_r"] == pytest.approx(100 * 2 / 3)
    assert not [name for name in scores if name.endswith("_ci")]
    assert "fcr_token, div_token, div: there is one prediction and it compares two" in scores["skipped"]
    assert "cor, cor_overlap, cor_count, cor_empty_share: no item has two predictions" in scores["skipped"]


def test_empty_explanations_score_zero():
    empty = [record | {"explanation": ""} for record in with_candidates()]
    scores = evaluate(empty, KNOWLEDGE, resamples=20)
    for name in ("bleu_1", "rouge_1_f", "rouge_l_f", "distinct_1", "distinct_1_sentence", "fmr", "fcr", "words"):
        assert scores[name] == 0
    # COR alone would call them perfect
    assert (scores["cor"], scores["cor_empty_share"], scores["concept_rate"]) == (0, 1, 0)
    assert "cmr_gold, cmr, cmr_both, cmr_candidates: defined on no prediction" in scores["skipped"]


def test_no_predictions_are_refused():
    with pytest.raises(InputError, match="no predictions"):
        evaluate([], KNOWLEDGE)


def test_metrics_without_their_fields_are_left_out_and_named():
    bare = [{"explanation": "a room", "reference": "the room"}] * 2
    scores = evaluate(bare, KNOWLEDGE, resamples=0)
    assert not {"rmse", "mae", "fmr", "cmr", "cor", "candidate_recall"} & scores.keys()
    assert {"bleu_4", "usr", "div", "fcr", "concept_rate"} <= scores.keys()
    assert "rmse, mae: `predicted_rating` is absent from 2 of 2 predictions" in scores["skipped"]
    assert (
        "rmse_bias, rmse_constant, cmr, cmr_both: `user_index` is absent from 2 of 2 predictions" in scores["skipped"]
    )


def test_a_field_that_some_predictions_lack_is_not_averaged_over_the_others():
    partial = [PREDICTIONS[0], PREDICTIONS[1] | {"predicted_rating": None}]
    scores = evaluate(partial, KNOWLEDGE, resamples=0)
    assert "rmse" not in scores
    assert "rmse, mae: `predicted_rating` is absent from 1 of 2 predictions" in scores["skipped"]


def test_without_a_corpus_the_texts_are_still_scored():
    scores = evaluate(with_candidates(), None, resamples=0)
    assert {"bleu_4", "rouge_l_f", "usr", "fmr"} <= scores.keys()
    assert not {"fcr", "cor", "cmr", "rmse"} & scores.keys()
    assert sum("no corpus was given or found" in reason for reason in scores["skipped"]) == 1
    assert scores["fcr_test"] == 1


def test_candidates_that_train_never_showed_are_not_guessed_at():
    foreign = [record | {"concepts": [{"concept": "spa"}]} for record in PREDICTIONS]
    scores = evaluate(foreign, KNOWLEDGE, resamples=0)
    assert "candidate_recall" not in scores
    assert any("candidate concept 'spa' (1 in all) is not in the train split" in line for line in scores["skipped"])


def test_an_index_outside_the_corpus_is_an_error():
    for index in (2, -1):
        with pytest.raises(InputError, match=f"`user_index` {index} of a prediction is outside the 2 of the corpus"):
            evaluate([PREDICTIONS[0] | {"user_index": index}], KNOWLEDGE)


def test_every_interval_holds_its_value():
    scores = evaluate(with_candidates() * 10, KNOWLEDGE, resamples=200)
    intervals = [name for name in scores if name.endswith("_ci")]
    assert {"bleu_4_ci", "rouge_l_f_ci", "div_ci", "cor_ci", "cmr_ci", "rmse_ci", "words_ci"} <= set(intervals)
    for name in intervals:
        low, high = scores[name]
        assert low <= scores[name.removesuffix("_ci")] + 1e-12
        assert high >= scores[name.removesuffix("_ci")] - 1e-12


def test_ratings_outside_the_scale_are_not_clipped_to_it():
    scores = evaluate([PREDICTIONS[0] | {"rating": 8}, PREDICTIONS[1]], KNOWLEDGE, resamples=0)
    assert "rmse" not in scores
    assert any("ratings lie outside 1 to 5: give rating_range=[LOW,HIGH]" in line for line in scores["skipped"])


def test_every_key_is_in_the_catalog():
    scores = evaluate(with_candidates(), KNOWLEDGE, resamples=20)
    keys = {name.removesuffix("_ci") for name in scores} - {"n", "skipped"}
    assert keys <= ALL.keys()
    assert set(MAIN) <= ALL.keys()


def test_the_result_is_strict_json():
    for records in (with_candidates(), PREDICTIONS[:1], [{"explanation": "", "reference": ""}]):
        json.dumps(evaluate(records, KNOWLEDGE, resamples=20), allow_nan=False)
