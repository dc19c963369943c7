"""The language of the embedded corpus: reviews of hotels that name given concepts with fitting opinion words.

Texts are lower case and tokenised. Nothing but the concepts themselves is a concept name, so a text names what it was
asked to name and no more.
"""

import numpy as np

# theme -> its concepts; a name in PLURAL takes "were".
THEMES: dict[str, tuple[str, ...]] = {
    "comfort": ("bed", "pillows", "bathroom", "shower", "air conditioning", "soundproofing", "curtains"),
    "food": ("breakfast", "dinner menu", "coffee", "cocktails", "wine list", "vegetarian options", "room service"),
    "leisure": ("pool", "gym", "spa", "sauna", "beach access", "garden", "rooftop terrace"),
    "family": ("playground", "kids club", "babysitting", "laundry", "kitchenette", "board games"),
    "business": ("wifi", "desk", "meeting rooms", "reception", "airport shuttle", "parking", "power sockets"),
    "city": ("neighbourhood", "train connections", "city view", "bike rental", "concierge", "luggage storage"),
}
CONCEPTS = tuple(concept for theme in THEMES.values() for concept in theme)
PLURAL = frozenset(
    (
        "pillows", "curtains", "cocktails", "vegetarian options", "board games", "meeting rooms", "power sockets",
        "train connections",
    )
)  # fmt: skip

# polarity -> theme -> opinion words; "any" fits every concept.
OPINIONS: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "any": ("excellent", "lovely", "superb", "delightful", "impressive", "wonderful", "outstanding", "great"),
        "comfort": ("comfy", "spotless", "soothing", "modern"),
        "food": ("tasty", "fresh", "generous", "flavoursome"),
        "leisure": ("relaxing", "inviting", "well kept", "sunny"),
        "family": ("handy", "thoughtful", "cheerful", "safe"),
        "business": ("reliable", "efficient", "convenient", "speedy"),
        "city": ("charming", "helpful", "central", "memorable"),
    },
    -1: {
        "any": ("poor", "dreadful", "disappointing", "mediocre", "shabby", "awful", "unpleasant", "terrible"),
        "comfort": ("worn", "grubby", "noisy", "dated"),
        "food": ("bland", "stale", "overpriced", "tasteless"),
        "leisure": ("crowded", "neglected", "dirty", "gloomy"),
        "family": ("broken", "careless", "dull", "unsafe"),
        "business": ("unreliable", "chaotic", "inconvenient", "sluggish"),
        "city": ("dreary", "unhelpful", "remote", "forgettable"),
    },
}
OPENINGS = (
    "", "", "", "overall", "for us", "to be honest", "in the end", "this time", "once again", "as a couple",
    "in my view", "all things considered", "as regular guests",
)  # fmt: skip
INTENSIFIERS = ("", "", "", "really", "very", "quite", "truly", "rather", "simply", "absolutely")
# {c} concept, {o} opinion with its intensifier, {was} was/were.
CLAUSES: dict[int, tuple[str, ...]] = {
    0: (
        "the {c} {was} {o}",
        "we found the {c} {o}",
        "i thought the {c} {was} {o}",
        "the {c} turned out to be {o}",
        "my partner called the {c} {o}",
        "there is no denying that the {c} {was} {o}",
        "everybody agreed that the {c} {was} {o}",
        "what i noticed first {was} the {o} {c}",
        "i would describe the {c} as {o}",
    ),
    1: (
        "we enjoyed the {o} {c}",
        "the {o} {c} made our stay",
        "i keep thinking about the {o} {c}",
        "we would return for the {o} {c} alone",
        "the {c} {was} {o} beyond what we had hoped",
    ),
    -1: (
        "we had to put up with the {o} {c}",
        "the {o} {c} spoiled our stay",
        "i cannot forgive the {o} {c}",
        "nobody warned us about the {o} {c}",
        "the {c} {was} {o} for this amount of money",
    ),
}
SAME = ("and", ", and", "; also ,", ", while", ", plus")
OPPOSITE = (", but", ", although", ", yet", "; however ,", ", even if")
OCCASIONS = (
    "after a long flight", "during our anniversary weekend", "on a rainy tuesday", "while visiting my sister",
    "on our way to the coast", "for three nights in october", "after a tiring drive", "when we came with friends",
    "in the middle of summer", "on my third visit here", "during the holidays", "between two appointments",
)  # fmt: skip
# Low quality: no concept at all, or one that is only listed or repeated.
EMPTY: dict[int, tuple[str, ...]] = {
    1: (
        "good .",
        "nice .",
        "nice place .",
        "good good good .",
        "all ok .",
        "very very very nice .",
        "would stay again .",
    ),
    -1: ("bad .", "not good .", "bad bad bad .", "never again .", "no no no .", "not worth it .", "very very bad ."),
}
LISTED: dict[int, tuple[str, ...]] = {
    1: ("good {c} .", "{c} {c} good .", "{c} good good good ."),
    -1: ("bad {c} .", "{c} {c} bad .", "{c} bad bad bad ."),
}
SHORTEST, LONGEST = 8, 20  # words of a text of good quality

Mentions = list[tuple[str, str, int]]
_THEME_OF = {concept: theme for theme, concepts in THEMES.items() for concept in concepts}


def explain(drivers: list[tuple[str, int]], rng: np.random.Generator) -> tuple[str, Mentions]:
    """A text of 8 to 20 words that names each (concept, polarity), and its mentions (concept, opinion, polarity)."""
    mentions = [(concept, _choice(_opinions(concept, polarity), rng), polarity) for concept, polarity in drivers]
    while True:
        text = _sentence(mentions, rng)
        if SHORTEST <= len(text.split()) <= LONGEST:
            return text, mentions


def explain_badly(drivers: list[tuple[str, int]], rng: np.random.Generator) -> tuple[str, Mentions]:
    """A text of low quality: boilerplate, or the first driver with nothing said about it."""
    concept, polarity = drivers[0]
    if rng.random() < 0.6:
        return _choice(EMPTY[polarity], rng), []
    text = _choice(LISTED[polarity], rng).format(c=concept)
    return text, [(concept, "good" if polarity > 0 else "bad", polarity)]


def _sentence(mentions: Mentions, rng: np.random.Generator) -> str:
    opening = _choice(OPENINGS, rng)
    parts = [f"{opening} ," if opening else "", _clause(mentions[0], rng)]
    if len(mentions) > 1:
        same = mentions[0][2] == mentions[1][2]
        parts += [_choice(SAME if same else OPPOSITE, rng), _clause(mentions[1], rng)]
    if rng.random() < 0.35:
        parts.append(_choice(OCCASIONS, rng))
    return " ".join(part for part in [*parts, "."] if part)


def _clause(mention: tuple[str, str, int], rng: np.random.Generator) -> str:
    concept, opinion, polarity = mention
    intensifier = _choice(INTENSIFIERS, rng)
    return _choice(CLAUSES[0] + CLAUSES[polarity], rng).format(
        c=concept, o=f"{intensifier} {opinion}".strip(), was="were" if concept in PLURAL else "was"
    )


def _opinions(concept: str, polarity: int) -> tuple[str, ...]:
    words = OPINIONS[polarity]
    return words["any"] + words[_THEME_OF[concept]]


def _choice(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
