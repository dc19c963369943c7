"""Concepts by spaCy's noun chunks, for those who have a model installed: `pip install 'llm2er[spacy]'` and a model."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from datamodules.concepts import STOP_WORDS, ConceptOptions
from datamodules.extraction import Extractor
from datamodules.opinions import lexicon
from metrics.errors import InputError


def fit_noun_chunks(texts: Iterable[tuple[Sequence[str], int]], options: ConceptOptions) -> Extractor:
    """An extractor of the noun chunks of tokenised texts, without determiners, pronouns and opinion words before.

    Forms of one lemma are one concept under the most frequent form. The window of frequency is that of `options`.
    Raises InputError where spaCy or the model is not installed.
    """
    try:
        import spacy
        from spacy.tokens import Doc
    except ImportError:
        raise InputError("concept_source=spacy needs spaCy: pip install 'llm2er[spacy]', and a model.") from None
    try:
        nlp = spacy.load(options.concept_model, exclude=["ner"])
    except OSError:
        raise InputError(
            f"concept_model={options.concept_model} is no installed spaCy model: install it, or name another."
        ) from None
    signs = dict(lexicon())
    forms: defaultdict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
    frequency: Counter[tuple[str, ...]] = Counter()
    number = 0
    # The words are given: spaCy would split "wi-fi" and never find it again.
    for doc in nlp.pipe(Doc(nlp.vocab, words=list(words)) for words, _ in texts):
        number += 1
        seen = set()
        for chunk in doc.noun_chunks:
            words = list(chunk)
            while words and (words[0].text in STOP_WORDS or words[0].text in signs or not words[0].is_alpha):
                words.pop(0)
            if words and words[-1].pos_ in ("NOUN", "PROPN") and words[-1].text not in STOP_WORDS:
                lemma = tuple(word.lemma_ for word in words)
                forms[lemma][tuple(word.text for word in words)] += 1
                seen.add(lemma)
        frequency.update(seen)
    most = options.concept_max_share * number
    kept = [lemma for lemma, count in frequency.items() if options.concept_min_count <= count <= most]
    kept = sorted(kept, key=lambda lemma: (-frequency[lemma], lemma))[: options.concept_top]
    named: dict[tuple[str, ...], str] = {}
    for lemma in kept:
        _, form = min((-count, form) for form, count in forms[lemma].items())
        name = " ".join(form)
        named |= dict.fromkeys(forms[lemma], name)
    return Extractor(named, signs)
