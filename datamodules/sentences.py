"""The sentences of a review that explain its rating.

The field's data sets (NLG4RS and what follows it) keep one sentence a review, one that names a feature. Here:

1. Of all sentences with `sentence_min_words` to `sentence_max_words` words those that name a concept are candidates.
2. Candidates with an opinion on a concept come first, then those whose opinions agree with the rating, then those on
   what most other train reviews of the item name too, then those nearest to TYPICAL words, then those that stand
   earlier.
3. The best `sentences` are kept, in the order of the review; a review without a candidate explains nothing and is left
   out, counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from datamodules.extraction import Extractor, Found
from datamodules.opinions import ENDS
from metrics.errors import InputError

TYPICAL = 13  # words: the mean of the field's data sets is 12 to 15
_BEHIND = ENDS | frozenset(")\"'」』）】》〉｣")  # what may follow an end mark in the same sentence


@dataclass(frozen=True)
class SentenceOptions:
    """What explains a rating: the text as it is, or sentences chosen from it."""

    explanation: str = field(
        default="",
        metadata={"help": "whole: the text as it is; sentence: chosen from it by its concepts; empty: by the format"},
    )
    sentences: int = field(default=1, metadata={"help": "explanation=sentence: how many to keep, at most"})
    # Of shorter ones the likeliest is all that a small language model learns to say ("i love this .").
    sentence_min_words: int = field(default=7, metadata={"help": "explanation=sentence: fewest words of one"})
    sentence_max_words: int = field(default=30, metadata={"help": "explanation=sentence: most words of one"})

    def __post_init__(self) -> None:
        if self.explanation not in ("", "whole", "sentence"):
            raise InputError(f"explanation={self.explanation} is unknown: use whole or sentence.")
        if self.sentences < 1:
            raise InputError(f"sentences={self.sentences} must be 1 or more.")
        if not 1 <= self.sentence_min_words <= self.sentence_max_words:
            raise InputError(
                f"sentence_min_words={self.sentence_min_words} must be 1 or more and not above "
                f"sentence_max_words={self.sentence_max_words}."
            )


def split_sentences(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """The sentences of a tokenised text: each with its end marks and the quotes and brackets that close behind them."""
    start, size = 0, len(words)
    for place in [place for place, word in enumerate(words) if word in ENDS]:
        if place >= start:
            end = place + 1
            while end < size and words[end] in _BEHIND:
                end += 1
            yield words[start:end]
            start = end
    if start < size:
        yield words[start:]


class Offer(NamedTuple):
    """A sentence that may explain."""

    words: Sequence[str]
    found: list[Found]


def offers(text: str, extractor: Extractor, options: SentenceOptions) -> list[Offer]:
    """The candidates of a tokenised review, in its order."""
    fitting = (
        words
        for words in split_sentences(text.lower().split())
        if options.sentence_min_words <= len(words) <= options.sentence_max_words
    )
    return [Offer(words, found) for words in fitting if (found := extractor.find(words))]


def concepts_of(offered: list[Offer]) -> set[int]:
    """The concepts of a review's candidates."""
    return {mention.concept for offer in offered for mention in offer.found}


def choose(
    offered: list[Offer], sign: int, others: Callable[[int], int], options: SentenceOptions
) -> tuple[str, list[Found]]:
    """(explanation, its concepts) from the candidates of a review whose rating has `sign`; ("", []) without any.

    `others` tells how many other train reviews of the item name a concept.
    """
    ranked = []
    for place, (words, found) in enumerate(offered):
        judged = [mention for mention in found if mention.opinion]
        agrees = sum(mention.polarity for mention in found) * sign > 0
        known = max(others(mention.concept) for mention in judged or found)
        ranked.append((not judged, not agrees, -known, abs(len(words) - TYPICAL), place))
    kept = [offered[place] for place in sorted(rank[-1] for rank in sorted(ranked)[: options.sentences])]
    mentions: dict[int, Found] = {}
    for offer in kept:
        for mention in offer.found:
            mentions.setdefault(mention.concept, mention)
    return " ".join(word for offer in kept for word in offer.words), list(mentions.values())
