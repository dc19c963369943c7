"""The array counts against loops over words, written from the definitions."""

import random
from collections import Counter

import numpy as np
import pytest

from metrics import text_counts as module
from metrics.text_counts import COLUMNS, lcs_length, text_counts


def grams(words, order):
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def slow_lcs(first, second):
    row = [0] * (len(second) + 1)
    for a in first:
        before, row = row, [0]
        for j, b in enumerate(second):
            row.append(before[j] + 1 if a == b else max(before[j + 1], row[j]))
    return row[-1]


def slow_counts(ours, theirs):
    counts = {}
    words, expected = ours.split(), theirs.split()
    for order in (1, 2, 3, 4):
        a, b = Counter(grams(words, order)), Counter(grams(expected, order))
        counts[f"match_{order}"], counts[f"ours_{order}"] = (a & b).total(), a.total()
    counts |= {"theirs_1": len(expected), "types_1": len(set(words)), "types_2": len(set(grams(words, 2)))}
    words, expected = ours.split(" "), theirs.split(" ")
    for order in (1, 2):
        a, b = set(grams(words, order)), set(grams(expected, order))
        for part, value in (("common", a & b), ("ours", a), ("theirs", b)):
            counts[f"rouge_{order}_{part}"] = len(value)
    lcs = slow_lcs(words, expected)
    counts |= {"rouge_l_common": lcs, "rouge_l_ours": len(words), "rouge_l_theirs": len(expected)}
    return [counts[name] for name in COLUMNS]


def random_text(rng, longest):
    separators = [" "] * 20 + ["  ", "\t", "\n", " \u00a0"]
    words = rng.choices(["a", "b", "c", "d", "the", "x.", "é"], k=rng.randint(0, longest))
    text = "".join(word + rng.choice(separators) for word in words)
    return text if rng.random() < 0.1 else text.rstrip(" ")


@pytest.mark.parametrize("longest", [4, 15, 90])
def test_counts_are_those_of_a_loop(longest):
    rng = random.Random(longest)
    pairs = [(random_text(rng, longest), random_text(rng, longest)) for _ in range(200)]
    counts = text_counts(*zip(*pairs, strict=True))
    assert counts.tolist() == [slow_counts(*pair) for pair in pairs]


def test_counts_do_not_depend_on_the_records_beside(monkeypatch):
    rng = random.Random(3)
    ours, theirs = ([random_text(rng, 12) for _ in range(50)] for _ in range(2))
    together = text_counts(ours, theirs)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert np.array_equal(text_counts(ours, theirs), together)
    assert np.array_equal(np.concatenate([text_counts([a], [b]) for a, b in zip(ours, theirs, strict=True)]), together)


def test_lcs_of_long_texts_equals_the_dynamic_programme():
    rng = random.Random(0)
    for _ in range(50):
        first, second = (rng.choices("abcdef", k=rng.randint(60, 140)) for _ in range(2))
        assert lcs_length(first, second) == slow_lcs(first, second)


def test_nothing_gives_no_rows():
    assert text_counts([], []).shape == (0, len(COLUMNS))
