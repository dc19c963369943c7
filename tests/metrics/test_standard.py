"""The standard suite against the libraries themselves, called as their users call them."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from metrics.standard import library_rows, measure_library


def texts(seed, n=80):
    rng = random.Random(seed)
    words = ["The", "rooms", "were", "cleaning", "pool,", "bar.", "nice", "it's"]
    return [" ".join(rng.choices(words, k=rng.randint(0, 14))) for _ in range(n)]


OURS, THEIRS = texts(1), [text or "a" for text in texts(2)]


@pytest.mark.parametrize("stem", [False, True])
def test_scores_are_those_of_the_libraries(stem):
    measures = measure_library(library_rows(OURS, THEIRS, stem), stem)
    found = measures.values()
    assert found["sacrebleu"] == pytest.approx(BLEU(force=True).corpus_score(OURS, [THEIRS]).score, abs=1e-10)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(OURS, [THEIRS]).score, abs=1e-10)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
    scores = [scorer.score(target, prediction) for target, prediction in zip(THEIRS, OURS, strict=True)]
    for kind, name in (("1", "rouge1"), ("2", "rouge2"), ("l", "rougeL")):
        assert found[f"rouge_score_{kind}_f"] == pytest.approx(100 * np.mean([s[name].fmeasure for s in scores]))
        assert found[f"rouge_score_{kind}_r"] == pytest.approx(100 * np.mean([s[name].recall for s in scores]))
        assert found[f"rouge_score_{kind}_p"] == pytest.approx(100 * np.mean([s[name].precision for s in scores]))


def test_signatures_are_those_of_the_libraries():
    bleu, chrf = BLEU(force=True), CHRF()
    bleu.corpus_score(OURS, [THEIRS])
    chrf.corpus_score(OURS, [THEIRS])
    signatures = measure_library(library_rows(OURS, THEIRS, True), True).signatures
    assert signatures["sacrebleu_signature"] == str(bleu.get_signature())
    assert signatures["chrf_signature"] == str(chrf.get_signature())
    assert signatures["rouge_score_signature"] == "rouge-score:0.1.2|stem:yes"


def test_rows_do_not_depend_on_the_records_beside():
    one_by_one = [library_rows([a], [b], False) for a, b in zip(OURS, THEIRS, strict=True)]
    assert np.array_equal(np.concatenate(one_by_one), library_rows(OURS, THEIRS, False))
    assert library_rows([], [], False).shape == (0, one_by_one[0].shape[1])
