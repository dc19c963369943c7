"""Concepts where the data name none: terms that opinions are bound to, with their opinions; fitted on train alone."""

import pytest

from datamodules.concepts import ConceptOptions
from datamodules.extraction import Extractor, fit_extractor, singular
from datamodules.importers.tokenising import tokenised
from datamodules.mentions import fitted_extractor
from datamodules.opinions import polarity_of_text, signed
from metrics.errors import InputError


def options(least=2, share=1.0, top=100, **more):
    return ConceptOptions(concept_min_count=least, concept_max_share=share, concept_top=top, **more)


def fit(texts, signs=None, **more):
    signs = signs or [0] * len(texts)
    return fit_extractor(list(zip(texts, signs, strict=True)), options(**more))


def test_terms_with_opinions_bound_to_them_are_concepts_most_frequent_first():
    texts = ["the great sound .", "the sound is really bad .", "the sound .", "an awful cable .", "the cable is good ."]
    assert fit(texts).concepts == ["sound", "cable"]


def test_what_nobody_judges_is_none_however_frequent():
    assert fit(
        ["we went to the garden .", "the garden , then home .", "the great view .", "a bad view ."]
    ).concepts == ["view"]


def test_verbs_are_none():
    texts = ["you can return it , great .", "i return , good .", "to return is bad .", "a great amp .", "the bad amp ."]
    assert fit(texts).concepts == ["amp"]


def test_a_longer_concept_takes_the_words_inside_it():
    texts = [
        "the battery life is great .",
        "a bad battery life .",
        "good battery life .",
        "the great screen .",
        "screen .",
    ]
    assert fit(texts).concepts == ["battery life", "screen"]


def test_singular_and_plural_are_one_concept_under_the_more_frequent_form():
    extractor = fit(
        ["great strings .", "the strings are bad .", "the string is good .", "a nice string , the strings ."]
    )
    assert extractor.concepts == ["strings"]
    assert [found.concept for text in ("a string", "the strings") for found in extractor.find(text.split())] == [0, 0]


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("batteries", "battery"),
        ("boxes", "box"),
        ("cables", "cable"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("gas", "gas"),
    ],
)
def test_singulars_by_their_endings(plural, expected):
    assert singular(plural) == expected


def test_concepts_lie_within_the_window_of_frequency_and_only_the_most_frequent_are_kept():
    texts = ["the great amp .", "a bad amp .", "the good amp .", "a bad lamp .", "the nice lamp .", "an awful stand ."]
    assert fit(texts, share=0.4).concepts == ["lamp"]
    assert fit(texts, top=1).concepts == ["amp"]


def test_no_text_gives_no_concept():
    assert fit([]).concepts == []


SOUND = Extractor({("sound",): "sound", ("cable",): "cable"}, {"great": 1, "bad": -1, "odd": 0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the great sound", [(0, "great", 1)]),
        ("the sound is not great", [(0, "great", -1)]),
        ("the sound isn't bad", [(0, "bad", 1)]),
        ("not the cable , but the great sound", [(1, "great", 1), (0, "great", 1)]),
        ("great . the sound", [(0, "", 0)]),  # another sentence
        ("a great a b c d e f sound", [(0, "", 0)]),  # out of reach
        ("bad cable great sound", [(1, "bad", -1), (0, "great", 1)]),  # the nearest, of two as near the one before
        ("odd sound", [(0, "odd", 0)]),
        ("sound and then the great sound", [(0, "great", 1)]),  # named once, with its opinion
        ("nothing here", []),
    ],
)
def test_a_concept_is_found_with_the_opinion_on_it_and_its_sign(text, expected):
    assert SOUND.find(text.split()) == expected


@pytest.mark.parametrize(("text", "sign"), [("not a very good", -1), ("not bad , good", 1), ("not a b c good", 1)])
def test_a_negator_turns_the_sign_within_its_clause_and_reach(text, sign):
    words = text.split()
    assert signed(words, len(words) - 1, 1) == sign


def test_the_polarity_of_a_text_is_the_sign_of_the_sum():
    signs = {"good": 1, "bad": -1}
    assert [polarity_of_text(t.split(), signs) for t in ("good good bad", "not good", "good bad", "")] == [1, -1, 0, 0]


def test_adjectives_that_the_lexicon_lacks_take_the_sign_that_ratings_give_them():
    texts, signs = [], []
    for _ in range(12):
        texts += ["it is very flimsy .", "it is very sturdy ."]
        signs += [-1, 1]
    fitted = fit(texts, signs)
    assert (fitted.signs["flimsy"], fitted.signs["sturdy"]) == (-1, 1)


def test_a_users_list_is_taken_as_it_is(tmp_path):
    file = tmp_path / "features.txt"
    file.write_text("Sound Quality\n\nneck\nneck\n")
    extractor = fitted_extractor([], [], [], options(concept_source="list", concept_list=str(file)), False)
    assert extractor.concepts == ["sound quality", "neck"]
    assert [f.concept for f in extractor.find(tokenised("The neck, the sound quality!").split())] == [1, 0]


@pytest.mark.parametrize("content", [None, b"\n \n", b"\xff\xfe"])
def test_a_list_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "features.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="features.txt"):
        fitted_extractor([], [], [], options(concept_source="list", concept_list=str(file)), False)


def test_noun_chunks_without_spacy_or_its_model_say_what_to_install():
    with pytest.raises(InputError, match=r"spaCy|spacy"):
        fitted_extractor([], [], [], options(concept_source="spacy", concept_model="no_such_model"), False)
