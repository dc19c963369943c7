"""Punctuation of all scripts, and which marks of it end a sentence."""

import unicodedata

from metrics.phrases import tokenize

# Unicode 17.0, property Sentence_Terminal (https://www.unicode.org/Public/17.0.0/ucd/PropList.txt), as code points.
# Listed: Python knows the categories of characters and not this property.
_SENTENCE_TERMINAL = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d5 1803
1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f 2024 203c-203d 2047-2049
2cf9-2cfb 2e2e 2e3c 2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f
aaf0-aaf1 abeb fe12 fe15-fe16 fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048
110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 113d4-113d5 1144b-1144c
115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8
11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f 16e98 1bc9f 1da88
"""
# Semicolons part what could be sentences: Latin, Arabic, of full width.
_SEMICOLONS = ";\u061b\uff1b"


def _characters(ranges: str) -> frozenset[str]:
    bounds = [[int(bound, 16) for bound in part.split("-")] for part in tokenize(ranges)]
    return frozenset(chr(code) for bound in bounds for code in range(bound[0], bound[-1] + 1))


SENTENCE_ENDS = _characters(_SENTENCE_TERMINAL) | frozenset(_SEMICOLONS)
# What stands within words: Hebrew maqaf, geresh and gershayim, Armenian apostrophe and the marks of stress, wonder and
# question over a vowel, the Tibetan mark between syllables.
IN_WORDS = "\u05be\u05f3\u05f4\u055a-\u055c\u055e\u0f0b"
# General punctuation and what is below it are listed by who uses this: of them some belong to words.
_FROM, _TO = 0x0300, 0x20000
PUNCTUATION = frozenset(
    character
    for character in map(chr, range(_FROM, _TO))
    if not 0x2000 <= ord(character) < 0x2070
    and (unicodedata.category(character).startswith("P") or character in SENTENCE_ENDS)
)
