"""What the importers cannot do in a language: texts without blanks have no words, the extractor knows English."""

import re
from collections.abc import Sequence

import numpy as np

from datamodules.concepts import STOP_WORDS
from metrics.errors import InputError
from metrics.phrases import tokenize

MOST = 0.1  # share of texts without blanks: a few among others do no harm
ENGLISH = 0.1  # share of words that are English function words; of reviews in English it is 0.4 to 0.5
SEEN = 2000  # texts that are looked at

# Of scripts that put no blank between words: their letters and vowel signs, and more letters than words that are parted
# have in the mean over the letters of a text.
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_SPACELESS = (
    (re.compile(f"[{_HAN}{_KANA}]*[{_KANA}][{_HAN}{_KANA}]*"), 5.5, "Japanese, such as fugashi"),
    (re.compile(f"[{_HAN}]+"), 3.5, "Chinese, such as jieba"),
    (re.compile("[\u0e00-\u0e7f]+"), 9.0, "Thai, such as PyThaiNLP"),
    (re.compile("[\u0e80-\u0eff]+"), 9.0, "Lao, such as LaoNLP"),
    (re.compile("[\u1780-\u17d3\u17d7\u17dc\u17dd]+"), 10.0, "Khmer, such as khmer-nltk"),
    (re.compile("[\u1000-\u1049\u104c-\u109f\uaa60-\uaa7f]+"), 12.0, "Burmese, such as pyidaungsu"),
)


def segmenter_for(text: str) -> str:
    """What must part the words of a tokenised text whose script puts no blank between them; "" if they are parted."""
    if text.isascii():
        return ""
    for letters, most, language in _SPACELESS:
        sizes = [len(word) for word in tokenize(text) if letters.fullmatch(word)]
        if sizes and sum(size * size for size in sizes) > most * sum(sizes):
            return language
    return ""


def refuse_unsegmented(texts: Sequence[str], line_R: np.ndarray, file: str) -> None:
    """Raise InputError where too many texts have no blanks between their words: each clause would count as one word."""
    told = [segmenter_for(text) for text in texts]
    rows = [row for row, language in enumerate(told) if language]
    if len(rows) > MOST * len(texts):
        raise InputError(
            f"{file}: {len(rows)} of {len(texts)} texts (the first on line {line_R[rows[0]]}) have no blanks between "
            f"words: part their words by blanks with a segmenter for {told[rows[0]]}, and give the texts so."
        )


def is_english(texts: Sequence[str]) -> bool:
    """Whether so many words of the texts are function words as in English; no text is taken as English."""
    words = [word for text in texts[:SEEN] for word in tokenize(text.lower()) if any(map(str.isalpha, word))]
    return sum(word in STOP_WORDS for word in words) >= ENGLISH * len(words)
