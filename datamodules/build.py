"""Raw records -> corpus: every record is checked, every one left out is counted, ids are contiguous and stable.

Ids do not depend on the order of the raw file: users, items and concepts are numbered by (train records, descending;
name). Record ids follow the raw file.

Shape suffixes: R records, M mentions, N users or items.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.concepts import ConceptOptions
from datamodules.corpus import SPLITS, Corpus, check_replaceable, write_corpus
from datamodules.extraction import Extractor, Found
from datamodules.languages import refuse_unsegmented
from datamodules.mentions import fitted_extractor, found_in, mentions_of, rating_signs, why_none
from datamodules.narrowing import NarrowOptions, days, narrowed
from datamodules.records import BadRecord, LeftOut, Mentions, RawRecord, Records, accepted
from datamodules.sentences import SentenceOptions, choose, concepts_of, offers
from datamodules.splits import TRAIN, cold, split_records, warmed
from datamodules.tables import Sides, corpus_tables, vocabulary, with_facts
from metrics.errors import InputError
from metrics.phrases import tokenize


@dataclass(frozen=True)
class BuildOptions(ConceptOptions, SentenceOptions, NarrowOptions):
    """What becomes of raw records."""

    on_bad_record: str = field(
        default="error",
        metadata={"help": "error: stop at the first bad record; skip: leave them out, count them and report"},
    )
    split: str = field(
        default="random",
        metadata={"help": "where the records give none: random (8:1:1, all in train), or last_out (in time, by user)"},
    )
    split_seed: int = field(default=0, metadata={"help": "seed of split=random; the field uses five"})
    max_words: int = field(default=0, metadata={"help": "cut explanations to this many words; 0: off"})
    rating_min: float = field(default=1.0, metadata={"help": "lowest rating of the scale"})
    rating_max: float = field(default=5.0, metadata={"help": "highest rating of the scale"})
    rating_map: bool = field(
        default=False, metadata={"help": "map ratings from the scale rating_min..rating_max to 1..5, in proportion"}
    )

    def __post_init__(self) -> None:
        ConceptOptions.__post_init__(self)
        SentenceOptions.__post_init__(self)
        NarrowOptions.__post_init__(self)
        if self.max_words and self.explanation == "sentence":
            raise InputError(
                f"max_words={self.max_words} cuts whole texts: with explanation=sentence use sentence_max_words."
            )
        if self.on_bad_record not in ("error", "skip"):
            raise InputError(f"on_bad_record={self.on_bad_record} is unknown: use error or skip.")
        if self.split not in ("random", "last_out"):
            raise InputError(f"split={self.split} is unknown: use random or last_out.")
        for key in ("split_seed", "max_words"):
            if getattr(self, key) < 0:
                raise InputError(f"{key}={getattr(self, key)} must be 0 or more.")
        if not (math.isfinite(self.rating_min) and math.isfinite(self.rating_max)):
            raise InputError("rating_min and rating_max must be finite numbers.")
        if self.rating_min >= self.rating_max:
            raise InputError(f"rating_min={self.rating_min} must lie below rating_max={self.rating_max}.")


def build_corpus(
    raw: Iterable[RawRecord | BadRecord],
    out: str | Path,
    options: BuildOptions,
    source: dict[str, Any],
    sides: Sides | None = None,
) -> Corpus:
    """Check, split and number raw records and write them as the corpus folder `out`.

    `source` goes into the manifest; its `file`, if any, names the raw file in messages. Raises InputError naming file
    and line of a bad record (policy error), or what makes the whole corpus unusable.
    """
    check_replaceable(out)
    write_corpus(out, *assemble(raw, options, source, sides))
    return Corpus.load(out)


def assemble(
    raw: Iterable[RawRecord | BadRecord], options: BuildOptions, source: dict[str, Any], sides: Sides | None = None
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables and the manifest of `build_corpus`, not yet written."""
    left_out = LeftOut(str(source.get("file", "records")), options.on_bad_record)
    records = narrowed(accepted(raw, options.rating_min, options.rating_max, left_out), options, left_out)
    records, cut = _cut(records, options.max_words)
    _need_records(len(records), left_out)
    refuse_unsegmented(records.explanations, records.line_R, left_out.file)
    split_R, splits = split_records(records, options.split, options.split_seed, left_out.file)
    _need_train(split_R, left_out)
    records, mentions, split_R, reviews, named = _with_concepts(records, split_R, splits, options, left_out)
    no_concept = _no_concept(records, mentions, split_R, options, named)
    unseen_by_name = cold(records, split_R)
    if splits == "given" and options.on_bad_record == "error":
        _refuse_cold(unseen_by_name, left_out.file)
    concepts, mentions, unseen = vocabulary(mentions, split_R)
    if options.rating_map:
        share_R = (records.rating_R - options.rating_min) / (options.rating_max - options.rating_min)
        records = replace(records, rating_R=1 + 4 * share_R)
    tables = corpus_tables(records, split_R, concepts, mentions)
    if reviews is not None:
        tables["reviews"] = reviews
    side_files = with_facts(tables, sides or Sides(), options.on_bad_record)
    chosen = {option.name: getattr(options, option.name) for option in fields(BuildOptions)}
    mapped = {"rating_min": 1.0, "rating_max": 5.0} if options.rating_map else {}
    manifest = {
        "source": {**source, "file": Path(left_out.file).name} if "file" in source else source,
        "options": chosen | mapped,
        "counts": {
            "records": {name: int((split_R == index).sum()) for index, name in enumerate(SPLITS)},
            **{name: tables[name].num_rows for name in ("users", "items", "concepts")},
            "mentions": len(mentions.concept_M),
            "words": sum(len(tokenize(text)) for text in records.explanations),
        },
        "splits": splits,
        "concepts": named,
        "skipped": left_out.by_reason(),
        "cut_explanations": cut,
        "cleaned_of_markup": int(records.cleaned_R.sum()),
        "days": days(records),
        "mentions_unseen_in_train": unseen,
        "cold": {kind: len(names) for kind, names in unseen_by_name.items()},
        **({"no_concept": no_concept} if no_concept else {}),
        **({"side_files": side_files} if side_files else {}),
        **({"ratings_mapped_from": [options.rating_min, options.rating_max]} if options.rating_map else {}),
    }
    return tables, manifest


def _need_records(number: int, left_out: LeftOut) -> None:
    if not number:
        raise InputError(f"{left_out.file} gives no record to build a corpus from: {left_out.summary()}.")


def _need_train(split_R: np.ndarray, left_out: LeftOut) -> None:
    if not (split_R == TRAIN).any():
        raise InputError(f"{left_out.file} gives no train record: mark some records as train, or give no split at all.")


def _refuse_cold(found: Mapping[str, list[str]], file: str) -> None:
    """Raise InputError where users or items of given splits stand in no train record."""
    phrases = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in found.items() if names]
    if phrases:
        raise InputError(
            f"{file}: {' and '.join(phrases)} stand in valid or test but not in train; move a record of each to train, "
            "or keep them, counted as cold, with on_bad_record=skip."
        )


def _with_concepts(
    records: Records, split_R: np.ndarray, splits: str, options: BuildOptions, left_out: LeftOut
) -> tuple[Records, Mentions, np.ndarray, pa.Table | None, str]:
    """(records, their mentions, their split, whole reviews where sentences were chosen, where the concepts come from).

    Concepts are those that the records give (if any record does, one without has none), or are fitted on the train
    texts and looked up in all.
    """
    given = records.mentions
    if options.concept_source == "given" and given is None:
        raise InputError(f"{left_out.file}: no record names concepts; use another concept_source than given.")
    if given is not None and options.concept_source in ("auto", "given"):
        if options.explanation == "sentence":
            raise InputError(
                "explanation=sentence chooses by concepts that it finds itself, and the records give theirs: "
                "use concept_source=statistical, or explanation=whole."
            )
        return records, given, split_R, None, "given"
    sign_R = rating_signs(records.rating_R, options.rating_min, options.rating_max)
    by_sentence = options.explanation == "sentence"
    extractor = fitted_extractor(records.explanations, sign_R, split_R == TRAIN, options, by_sentence)
    named = "extracted" if options.concept_source in ("auto", "statistical") else options.concept_source
    if not by_sentence:
        mentions = mentions_of(found_in(records.explanations, extractor), sign_R, extractor.concepts)
        return records, mentions, split_R, None, named
    texts, found = _explanations(records, sign_R, split_R == TRAIN, extractor, options)
    has_R = np.array([bool(text) for text in texts])
    span = f"{options.sentence_min_words} to {options.sentence_max_words}"
    left_out.count(records.line_R[~has_R].tolist(), f"no sentence of {span} words names a concept")
    if not extractor.concepts:
        why = why_none(records.explanations, sign_R, split_R == TRAIN, options, by_sentence)
        raise InputError(f"{left_out.file} gives no concept, and so no sentence that explains; {why}.")
    _need_records(int(has_R.sum()), left_out)
    reviews = _reviews_table(records.explanations, has_R, sign_R, split_R)
    mentions = mentions_of(found, sign_R, extractor.concepts)
    kept = replace(records, explanations=texts).where(has_R)
    split_R = split_R[has_R]
    # A user whose only train record explains nothing keeps a test record: it moves to train; nothing was fitted on it.
    split_R = warmed(kept, split_R) if splits == "random" else split_R
    return kept, mentions.rows(has_R), split_R, reviews, named


def _no_concept(records: Records, mentions: Mentions, split_R: np.ndarray, options: BuildOptions, named: str) -> str:
    """Why no train record mentions a concept; "" where one does."""
    if mentions.rows(split_R == TRAIN).concept_M.size:
        return ""
    if named == "given":
        return "no train record names one: name them, or let them be extracted by concept_source=statistical"
    sign_R = rating_signs(records.rating_R, options.rating_min, options.rating_max)
    return why_none(records.explanations, sign_R, split_R == TRAIN, options, options.explanation == "sentence")


def _explanations(
    records: Records, sign_R: np.ndarray, train_R: np.ndarray, extractor: Extractor, options: BuildOptions
) -> tuple[list[str], list[list[Found]]]:
    """(the sentences that explain each record, or "", their concepts), item by item."""
    texts = [""] * len(records)
    found: list[list[Found]] = [[] for _ in texts]
    order = np.argsort(records.item_R, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(records.item_R[order])) + 1):
        offered = {row: offers(records.explanations[row], extractor, options) for row in rows.tolist()}
        concepts = {row: concepts_of(one) for row, one in offered.items() if train_R[row]}
        known = Counter(concept for one in concepts.values() for concept in one)
        for row, one in offered.items():
            own = concepts.get(row, set())
            others = partial(_others, known, own)
            texts[row], found[row] = choose(one, int(sign_R[row]), others, options)
    return texts, found


def _others(known: Mapping[int, int], own: set[int], concept: int) -> int:
    return known.get(concept, 0) - (concept in own)


def _reviews_table(texts: list[str], has_R: np.ndarray, sign_R: np.ndarray, split_R: np.ndarray) -> pa.Table:
    """The whole reviews, also those that explain nothing (no record): concepts can be fitted on the same again."""
    return pa.table(
        {
            "record": pa.array(np.cumsum(has_R) - 1, pa.int32(), mask=~has_R),
            "review": pa.array(texts),
            "sign": pa.array(sign_R, pa.int8()),
            "fitted": pa.array(split_R == TRAIN),
        }
    )


def _cut(records: Records, max_words: int) -> tuple[Records, int]:
    """Records whose explanations have at most `max_words` words (0: no limit), and how many were longer."""
    texts, longer = records.explanations, 0
    if max_words:
        texts = list(texts)
        for row, text in enumerate(texts):
            words = tokenize(text)
            if len(words) > max_words:
                texts[row] = " ".join(words[:max_words])
                longer += 1
    return replace(records, explanations=texts), longer
