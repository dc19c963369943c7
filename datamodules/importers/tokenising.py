"""Texts of any source in the form that explanations have."""

import re

# ASCII and general punctuation, CJK punctuation and full-width forms, dandas, pictographs. Listed rather than "not \w":
# the vowel signs of Indic scripts are no \w and would be torn off their words.
_MARK = (
    r"!-/:-@\[-`{-~¡§«¶·»¿\u0964\u0965\u2010-\u2027\u2030-\u205e\u2600-\u27bf\u3001-\u303f"
    r"\uff01-\uff0f\uff1a-\uff20\U0001f300-\U0001faff"
)
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)+|[^\s{_MARK}]+(?:['’-][^\s{_MARK}]+)*|[{_MARK}]")


def tokenised(text: str) -> str:
    """Lower case, a single blank between words and punctuation marks, as the field's metrics expect.

    Apostrophes and hyphens inside a word and separators inside a number stay: "don't", "wi-fi", "1,299.50".
    """
    return " ".join(_TOKEN.findall(text.lower()))
