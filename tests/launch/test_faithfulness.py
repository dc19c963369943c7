"""Faithfulness on the embedded corpus, whose drivers are planted: known texts have known figures."""

import pytest

from datamodules.importers.embedded import load_truth, write_embedded
from launch.faithfulness import DRIVER_METRICS, driver_lines, drivers
from metrics.columns import Predictions
from metrics.measures import Measures


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(60, 20, 1, tmp_path_factory.mktemp("embedded") / "corpus")


def figures(corpus, text_of):
    records = [{"record": row, "explanation": text_of(row), "reference": ""} for row in range(len(corpus.explanations))]
    return Measures(len(records), [drivers(corpus, Predictions.of(records))]).values()


def test_a_text_that_names_all_drivers_with_their_polarity_is_perfect(corpus):
    truth = load_truth(corpus)

    def said(row):
        return " and ".join(
            f"the {corpus.concepts[concept]} was {'superb' if polarity > 0 else 'awful'}"
            for concept, polarity in truth[row].items()
        )

    assert figures(corpus, said) == dict.fromkeys(DRIVER_METRICS, 1.0)


def test_the_opposite_polarity_agrees_with_none(corpus):
    truth = load_truth(corpus)

    def said(row):
        concept, polarity = next(iter(truth[row].items()))
        return f"the {corpus.concepts[concept]} was {'awful' if polarity > 0 else 'superb'}"

    found = figures(corpus, said)
    assert (found["driver_precision"], found["names_a_driver"], found["polarity_agreement"]) == (1, 1, 0)
    assert found["driver_recall"] < 1


def test_naming_without_an_opinion_agrees_with_none_and_naming_all_is_imprecise(corpus):
    found = figures(corpus, lambda row: " , ".join(corpus.concepts))
    assert (found["driver_recall"], found["names_a_driver"], found["polarity_agreement"]) == (1, 1, 0)
    assert found["driver_precision"] < 0.2


def test_the_reviews_themselves_are_faithful_in_what_they_name(corpus):
    found = figures(corpus, lambda row: corpus.explanations[row])
    assert found["driver_precision"] > 0.99
    assert found["polarity_agreement"] > 0.95


def test_a_text_that_names_nothing_has_no_polarity(corpus):
    found = figures(corpus, lambda row: "all ok .")
    assert [found[key] for key in DRIVER_METRICS[:3]] == [0, 0, 0]
    assert driver_lines({"x": {key: value for key, value in found.items() if value == value}})[-1].split()[-1] == "-"


def test_a_long_name_and_its_first_figure_are_two_words():
    name = "runs/llm2er_eqr/predictions-of-another-day.jsonl"
    line = driver_lines({name: dict.fromkeys(DRIVER_METRICS, 0.5)})[-1]
    assert line.split() == [name] + ["0.500"] * len(DRIVER_METRICS)
