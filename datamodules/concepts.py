"""Concepts of a corpus that names none: frequent content words and word pairs, fitted on train alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from metrics.errors import InputError
from metrics.phrases import tokenize

# Function words, and words that judge or count rather than name what is judged.
_STOP_WORDS = """
a about above after again all almost also although always am an and another any anything are aren't around as at
away back be because been before being best better between big bit both but by came can can't cannot come could
couldn't definitely did didn't do does doesn't doing don't done down each either else enough especially even ever
every everyone everything few find first for found from get gets getting give go goes going good got great had has
hasn't have haven't having he her here him his how however i i'd i'll i'm i've if in into is isn't it it's its just
keep know last least less let like liked little long look lot lots love loved made make makes many may maybe me
might more most much must my myself need needs never new next nice no not nothing now of off often ok old on once
one only or other others our out over own perfect place pretty put quite rather really right said same say see
she should so some something soon still such sure take than that that's the their them then there these they thing
things think this those though through time to together too took tried try two under until up us use used using
usually very want wanted was wasn't way we well went were weren't what when where which while who whole why will
with without won't worked works worth would wouldn't yes yet you your bad worse worst awful amazing awesome
excellent fantastic terrible wonderful decent happy disappointed disappointing recommend recommended
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True)
class ConceptOptions:
    """Which words become concepts when the records name none."""

    concept_min_count: int = field(
        default=5,
        metadata={"help": "a word is a concept if at least this many train explanations hold it (when none are given)"},
    )
    concept_max_share: float = field(
        default=0.1,
        metadata={"help": "... and at most this share of the train explanations"},
    )
    concept_top: int = field(
        default=20000,
        metadata={"help": "keep this many, the most frequent ones"},
    )

    def __post_init__(self) -> None:
        if self.concept_min_count < 1:
            raise InputError(f"concept_min_count={self.concept_min_count} must be 1 or more.")
        if not 0 < self.concept_max_share <= 1:
            raise InputError(f"concept_max_share={self.concept_max_share} must lie above 0 and not above 1.")
        if self.concept_top < 1:
            raise InputError(f"concept_top={self.concept_top} must be 1 or more.")


def fit_concepts(texts: Sequence[str], options: ConceptOptions) -> list[str]:
    """Words and pairs of neighbouring words that name what the texts talk about, most frequent first, then by name.

    Frequency is the number of texts that hold the phrase at least once; it must lie within
    [concept_min_count, concept_max_share * number of texts]. Stop words and tokens without a letter take no part,
    and a pair never spans one.
    """
    frequency: Counter[str] = Counter()
    for text in texts:
        frequency.update(set(_phrases(tokenize(text.lower()))))
    most = options.concept_max_share * len(texts)
    fitting = [phrase for phrase, count in frequency.items() if options.concept_min_count <= count <= most]
    return sorted(fitting, key=lambda phrase: (-frequency[phrase], phrase))[: options.concept_top]


def _phrases(tokens: Sequence[str]) -> list[str]:
    content = [_names_something(token) for token in tokens]
    words = [token for token, named in zip(tokens, content, strict=True) if named]
    starts = (i for i in range(len(tokens) - 1) if content[i] and content[i + 1])
    return words + [f"{tokens[i]} {tokens[i + 1]}" for i in starts]


def _names_something(token: str) -> bool:
    return len(token) > 1 and token not in STOP_WORDS and any(character.isalpha() for character in token)
