"""Opinion words and their signs: VADER's lexicon (Hutto and Gilbert 2014), words learned from ratings, negation.

The lexicon is the data file of the package vaderSentiment; none of its code runs.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from datamodules.marks import SENTENCE_ENDS
from metrics.phrases import tokenize

NEGATORS = frozenset(
    tokenize("""
not no never n't cannot without hardly barely scarcely neither nor none nothing lack lacks lacked lacking don't
doesn't didn't isn't aren't wasn't weren't won't wouldn't can't couldn't shouldn't haven't hasn't hadn't ain't
dont doesnt didnt isnt wasnt wont cant couldnt
""")
)
ENDS = SENTENCE_ENDS
PAUSES = ENDS | frozenset(',:/&()"-')
# In reviews these rarely judge: "like a", "used to play", "number one", "a lot of help".
_NO_OPINION = frozenset(
    tokenize("""
like no yes play plays played playing number matter please thanks thank alone
""")
)
NEGATION_REACH = 3  # words between a negator and the opinion word it turns


@cache
def lexicon() -> Mapping[str, int]:
    """Opinion word -> 1 or -1; emoticons and what is no single word are left out."""
    lines = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    entries = (line.split("\t")[:2] for line in lines if line.strip())
    return {word: 1 if float(mean) > 0 else -1 for word, mean in entries if word.isalpha() and word not in _NO_OPINION}


def signed(words: Sequence[str], place: int, sign: int) -> int:
    """The sign of the opinion word at `place`, turned by a negator shortly before it and within the same clause."""
    for before in range(place - 1, max(-1, place - 1 - NEGATION_REACH), -1):
        if words[before] in PAUSES:
            break
        if words[before] in NEGATORS:
            return -sign
    return sign


def polarity_of_text(words: Sequence[str], signs: Mapping[str, int]) -> int:
    """-1, 0 or 1: the sign of the sum over its opinion words."""
    total = sum(signed(words, place, signs[word]) for place, word in enumerate(words) if word in signs)
    return (total > 0) - (total < 0)
