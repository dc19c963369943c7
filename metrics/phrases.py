"""Find the phrases of a vocabulary (concepts) in a text, word by word.

The field's scripts test single tokens and miss every phrase of two words; substring search finds "art" in
"start". Whole words, longest phrase first, does neither.
"""

from collections.abc import Sequence


def tokenize(text: str) -> list[str]:
    """The words of a text: split at whitespace, nothing else changed."""
    return text.split()


def ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """The runs of `order` words, in their order; none where there are fewer words."""
    return list(zip(*(words[start:] for start in range(order)), strict=False))


class PhraseMatcher:
    """Matches a fixed list of phrases in texts, whatever their letter case.

    Phrases that differ in letter case or spacing alone are found together; one without words is never found.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self._indices: dict[tuple[str, ...], list[int]] = {}
        lengths: dict[str, set[int]] = {}
        for index, phrase in enumerate(phrases):
            words = tuple(tokenize(phrase.lower()))
            if words:
                self._indices.setdefault(words, []).append(index)
                lengths.setdefault(words[0], set()).add(len(words))
        # Most words start no phrase: one look-up dismisses them.
        self._lengths = {word: sorted(known, reverse=True) for word, known in lengths.items()}

    def find(self, text: str) -> set[int]:
        """Indices into `phrases` of those in `text`: left to right, longest first, each word used once."""
        return {index for indices, _ in self._matches(text) for index in indices}

    def covered(self, text: str) -> int:
        """How many words of `text` belong to the phrases found in it."""
        return sum(length for _, length in self._matches(text))

    def _matches(self, text: str) -> list[tuple[list[int], int]]:
        """(indices, number of words) of each phrase found."""
        words = tokenize(text.lower())
        matches, start = [], 0
        while start < len(words):
            step = 1
            for length in self._lengths.get(words[start], ()):
                indices = self._indices.get(tuple(words[start : start + length]))
                if indices is not None and start + length <= len(words):
                    matches.append((indices, length))
                    step = length
                    break
            start += step
        return matches
