"""What must hold for any texts: order, identity, swapped arguments, batch size, and no division by zero."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics import text_counts as text_counts_module
from metrics import words as words_module
from metrics.catalog import ALL
from metrics.columns import Predictions
from metrics.paper import measure
from metrics.significance import compare
from metrics.suite import ConceptKnowledge, counts_of, evaluate
from metrics.text_counts import text_counts

WORDS = st.sampled_from(["pool", "bar", "the", "is", "nice", "a", "spa", "swimming", "é", "pool,"])
TEXT = st.lists(WORDS, max_size=9).map(" ".join) | st.text(alphabet=" ab\t\n\u00a0é", max_size=8)
KNOWLEDGE = ConceptKnowledge(
    ["pool", "bar", "swimming pool"], [{0}, {1, 2}], [{0, 1}, set()], 1.0, 5.0, ["pool", "bar", "swimming pool", "spa"]
)
RECORD = st.fixed_dictionaries(
    {
        "explanation": TEXT,
        "reference": TEXT,
        "user_index": st.integers(0, 1),
        "item_index": st.integers(0, 1),
        "rating": st.integers(1, 5),
        "predicted_rating": st.floats(-9, 9),
        "gold_concepts": st.lists(st.sampled_from(["pool", "spa"]), max_size=2),
    }
)
RECORDS = st.lists(RECORD, min_size=1, max_size=12)
UNBOUNDED = {"entr", "words", "words_reference", "usn", "div", "div_token", "cor_count", "concepts_named"}
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(RECORDS, st.randoms())
def test_the_order_of_records_changes_nothing(records, rng):
    other = records[:]
    rng.shuffle(other)
    assert evaluate(records, KNOWLEDGE, resamples=20) == evaluate(other, KNOWLEDGE, resamples=20)


@FEW
@given(RECORDS)
def test_every_figure_is_a_finite_number_within_its_range(records):
    scores = evaluate(records, KNOWLEDGE, resamples=10)
    json.dumps(scores, allow_nan=False)
    for key, value in scores.items():
        if key in ALL and key not in (
            "entr",
            "words",
            "words_reference",
            "usn",
            "div",
            "div_token",
            "cor_count",
            "concepts_named",
        ):
            top = 100 if ALL[key].digits == 2 else 4 if key.startswith(("rmse", "mae")) else 1
            assert -1e-9 <= value <= top + 1e-9, key


@FEW
@given(st.lists(st.lists(WORDS, min_size=4, max_size=9).map(" ".join), min_size=1, max_size=8))
def test_the_reference_itself_has_the_highest_scores(texts):
    scores = evaluate([{"explanation": text, "reference": text} for text in texts], None, resamples=0)
    for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", *(f"rouge_{kind}_{part}" for kind in "12l" for part in "frp")):
        assert scores[key] == pytest.approx(100, abs=1e-5), key


@FEW
@given(RECORDS)
def test_swapping_the_texts_swaps_precision_and_recall_and_nothing_else_of_rouge(records):
    swapped = [r | {"explanation": r["reference"], "reference": r["explanation"]} for r in records]
    there, back = (evaluate(rows, None, resamples=0) for rows in (records, swapped))
    for kind in "12l":
        assert there[f"rouge_{kind}_p"] == pytest.approx(back[f"rouge_{kind}_r"])
        assert there[f"rouge_{kind}_r"] == pytest.approx(back[f"rouge_{kind}_p"])
    assert there["words"] == back["words_reference"]


@FEW
@given(RECORDS, st.integers(1, 5))
def test_counts_do_not_depend_on_the_batch(records, size):
    ours, theirs = ([record[key] for record in records] for key in ("explanation", "reference"))
    whole = text_counts(ours, theirs)
    with pytest.MonkeyPatch.context() as patch:
        for module in (text_counts_module, words_module):
            patch.setattr(module, "CHUNK", size)
        assert np.array_equal(text_counts(ours, theirs), whole)


@FEW
@given(RECORDS, RECORDS)
def test_a_comparison_turns_with_its_sides(first, second):
    n = min(len(first), len(second))
    ours = first[:n]
    theirs = [a | {"explanation": b["explanation"]} for a, b in zip(ours, second, strict=False)]
    a, b = (measure(rows, KNOWLEDGE, counts_of(rows)) for rows in map(Predictions.of, (ours, theirs)))
    names = list(a.values())
    there, back = compare(a, b, names, 20, 20), compare(b, a, names, 20, 20)
    for key in there:
        assert there[key].difference == pytest.approx(-back[key].difference, nan_ok=True)
        assert there[key].p == pytest.approx(back[key].p)
