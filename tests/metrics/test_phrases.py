import random

from metrics.phrases import PhraseMatcher, tokenize


def test_words_are_split_at_any_whitespace():
    assert tokenize(" a  b\tc\n") == ["a", "b", "c"]


def test_the_longest_phrase_takes_the_words():
    matcher = PhraseMatcher(["pool", "swimming pool", "open swimming pool bar"])
    assert matcher.find("an open swimming pool area") == {1}


def test_a_word_outside_the_longer_match_is_still_found():
    matcher = PhraseMatcher(["pool", "swimming pool"])
    assert matcher.find("swimming pool and another pool") == {0, 1}


def test_phrases_are_matched_left_to_right():
    matcher = PhraseMatcher(["a b", "b c d"])
    assert matcher.find("a b c d") == {0}


def test_a_longer_phrase_that_does_not_fit_the_end_covers_no_word_too_many():
    assert PhraseMatcher(["pool", "pool bar"]).covered("bar pool") == 1


def test_letter_case_is_ignored_on_both_sides():
    assert PhraseMatcher(["George Lucas"]).find("GEORGE lucas made it") == {0}


def test_a_phrase_inside_a_word_is_not_found():
    assert PhraseMatcher(["art"]).find("a good start") == set()


def test_phrases_that_are_spelt_alike_are_found_together():
    assert PhraseMatcher(["Room", "bar", "room"]).find("the room") == {0, 2}


def test_nothing_is_found_in_an_empty_text_or_with_an_empty_vocabulary():
    assert PhraseMatcher(["room", ""]).find("") == set()
    assert PhraseMatcher([]).find("the room") == set()


def test_agrees_with_a_scan_of_the_whole_vocabulary():
    def slow(phrases: list[str], text: str) -> set[int]:
        words, found = text.split(), set()
        while words:
            fits = [p for p in phrases if words[: len(p.split())] == p.split()]
            longest = max(fits, key=lambda p: len(p.split()), default=None)
            if longest is not None:
                found.add(phrases.index(longest))
            words = words[len(longest.split()) if longest else 1 :]
        return found

    rng = random.Random(0)
    for _ in range(200):
        phrases = sorted({" ".join(rng.choices("abc", k=rng.randint(1, 3))) for _ in range(5)})
        text = " ".join(rng.choices("abcd", k=rng.randint(0, 12)))
        assert PhraseMatcher(phrases).find(text) == slow(phrases, text)
