"""Texts of any source in the form that explanations have."""

import re

from datamodules.marks import IN_WORDS, PUNCTUATION

# ASCII and general punctuation, CJK symbols and full-width forms, pictographs, and the punctuation of all scripts. Not
# "not \w": the vowel signs of Indic scripts are no \w and would be torn off their words.
_MARK = (
    r"!-/:-@\[-`{-~¡§«¶·»¿\u2010-\u2027\u2030-\u205e\u2600-\u27bf\u3001-\u3004\u3008-\u3020\u3030\u3036\u3037"
    r"\u303d-\u303f\uff01-\uff0f\uff1a-\uff20\U0001f300-\U0001faff"
) + "".join(sorted(PUNCTUATION))
# What is not seen: soft hyphens, marks of direction, what joins pictographs into one, the selectors behind them. A word
# must not differ by them, nor they be one. Joiners between letters stay: Persian and Indic scripts spell with them.
_UNSEEN = re.compile(
    r"(?<=[\u2600-\u27bf\U0001f300-\U0001faff])\ufe0f?\u200d|[\u00ad\u200e\u200f\u2060\ufe00-\ufe0f\ufeff]"
)
_APOSTROPHE = re.compile(r"(?<=\w)’(?=\w)")  # as telephones write it; negators and stop words are spelled with "'"
_NO_WIDTH = "\u200b"  # a blank of width zero: parts words
# Separators of numbers: of Latin script, Arabic ones, of full width.
_TOKEN = re.compile(rf"\d+(?:[.,\u066b\u066c\uff0e]\d+)+|[^\s{_MARK}]+(?:['{IN_WORDS}-][^\s{_MARK}]+)*|[{_MARK}]")

# The same for texts of ASCII alone, which most are: three times as fast as with the marks of all scripts.
_ASCII_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\s!-/:-@\[-`{-~]+(?:['-][^\s!-/:-@\[-`{-~]+)*|[!-/:-@\[-`{-~]")


def tokenised(text: str) -> str:
    """Lower case, a single blank between words and punctuation marks, as the field's metrics expect.

    Apostrophes and hyphens inside a word and separators inside a number stay: "don't", "wi-fi", "1,299.50".
    """
    if text.isascii():
        return " ".join(_ASCII_TOKEN.findall(text.lower()))
    text = _APOSTROPHE.sub("'", _UNSEEN.sub("", text.replace(_NO_WIDTH, " ")))
    return " ".join(_TOKEN.findall(text.lower()))
