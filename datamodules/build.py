"""Raw records -> corpus: every record is checked, every one left out is counted, ids are contiguous and stable.

Ids do not depend on the order of the raw file: users, items and concepts are numbered by (train records, descending;
name). Record ids follow the raw file.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.concepts import ConceptOptions, fit_concepts
from datamodules.corpus import SPLITS, Corpus, check_replaceable, write_corpus
from datamodules.records import SPLIT_NAMES, BadRecord, LeftOut, RawRecord, accepted
from metrics.errors import InputError
from metrics.phrases import PhraseMatcher, tokenize

_MENTION = pa.struct([("concept", pa.int32()), ("opinion", pa.string()), ("polarity", pa.int8())])


@dataclass(frozen=True)
class BuildOptions(ConceptOptions):
    """What becomes of raw records."""

    on_bad_record: str = field(
        default="error",
        metadata={"help": "error: stop at the first bad record; skip: leave them out, count them and report"},
    )
    split_seed: int = field(
        default=0, metadata={"help": "seed of the random 8:1:1 split, drawn where the records give none"}
    )
    min_user: int = field(
        default=0, metadata={"help": "leave out users with fewer records (counted once, before any is out); 0: off"}
    )
    min_item: int = field(
        default=0, metadata={"help": "leave out items with fewer records (counted once, before any is out); 0: off"}
    )
    max_words: int = field(default=0, metadata={"help": "cut explanations to this many words; 0: off"})
    rating_min: float = field(default=1.0, metadata={"help": "lowest rating of the scale"})
    rating_max: float = field(default=5.0, metadata={"help": "highest rating of the scale"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_bad_record not in ("error", "skip"):
            raise InputError(f"on_bad_record={self.on_bad_record} is unknown: use error or skip.")
        if self.split_seed < 0:
            raise InputError(f"split_seed={self.split_seed} must be 0 or more.")
        for key in ("min_user", "min_item", "max_words"):
            if getattr(self, key) < 0:
                raise InputError(f"{key}={getattr(self, key)} must be 0 (off) or more.")
        if not (math.isfinite(self.rating_min) and math.isfinite(self.rating_max)):
            raise InputError("rating_min and rating_max must be finite numbers.")
        if self.rating_min >= self.rating_max:
            raise InputError(f"rating_min={self.rating_min} must lie below rating_max={self.rating_max}.")


def build_corpus(
    raw: Iterable[RawRecord | BadRecord], out: str | Path, options: BuildOptions, source: dict[str, Any]
) -> Corpus:
    """Check, split and number raw records and write them as the corpus folder `out`.

    `source` goes into the manifest; its `file`, if any, names the raw file in messages. Raises InputError naming file
    and line of a bad record (policy error), or what makes the whole corpus unusable.
    """
    check_replaceable(out)
    write_corpus(out, *assemble(raw, options, source))
    return Corpus.load(out)


def assemble(
    raw: Iterable[RawRecord | BadRecord], options: BuildOptions, source: dict[str, Any]
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables and the manifest of `build_corpus`, not yet written."""
    left_out = LeftOut(str(source.get("file", "records")), options.on_bad_record)
    records = accepted(raw, options.rating_min, options.rating_max, left_out)
    records, cut = _cut(_frequent(records, options, left_out), options.max_words)
    if not records:
        raise InputError(f"{left_out.file} gives no record to build a corpus from: {left_out.summary()}.")
    splits_given = records[0].split is not None
    split_R = _given_splits(records) if splits_given else random_splits(records, options.split_seed)
    if not (split_R == 0).any():
        raise InputError(f"{left_out.file} gives no train record: mark some records as train, or give no split at all.")
    cold = _cold(records, split_R, options, left_out.file)
    mentions, from_records = _mentions(records, split_R, options)
    concepts, mentions, unseen = _vocabulary(mentions, split_R)
    tables = _tables(records, split_R, concepts, mentions)
    manifest = {
        "source": {**source, "file": Path(left_out.file).name} if "file" in source else source,
        "options": {option.name: getattr(options, option.name) for option in fields(BuildOptions)},
        "counts": {
            "records": {name: int((split_R == index).sum()) for index, name in enumerate(SPLITS)},
            **{name: tables[name].num_rows for name in ("users", "items", "concepts")},
            "mentions": sum(map(len, mentions)),
            "words": sum(len(tokenize(text)) for text in tables["records"]["explanation"].to_pylist()),
        },
        "splits": "given" if splits_given else "random",
        "concepts": "given" if from_records else "extracted",
        "skipped": left_out.by_reason(),
        "cut_explanations": cut,
        "mentions_unseen_in_train": unseen,
        "cold": {kind: len(names) for kind, names in cold.items()},
    }
    return tables, manifest


def random_splits(records: Sequence[RawRecord], seed: int) -> np.ndarray:
    """Index into SPLITS (int8) of each record: 8:1:1, every user and item at least once in train.

    The NLG4RS rule: in random order, the first record of a user or an item goes to train, whatever the shares.
    Of the others, as many as fill the shares of valid and test go there. Does not depend on the order of `records`.
    """
    order = sorted(range(len(records)), key=lambda row: (records[row].user, records[row].item))
    seen_users: set[str] = set()
    seen_items: set[str] = set()
    free = []
    for position in np.random.default_rng(seed).permutation(len(records)).tolist():
        record = records[order[position]]
        if record.user in seen_users and record.item in seen_items:
            free.append(order[position])
        seen_users.add(record.user)
        seen_items.add(record.item)
    share = min(len(records) // 10, len(free) // 2)
    split_R = np.zeros(len(records), dtype=np.int8)
    split_R[free[:share]] = SPLITS.index("valid")
    split_R[free[share : 2 * share]] = SPLITS.index("test")
    return split_R


def _frequent(records: list[RawRecord], options: BuildOptions, left_out: LeftOut) -> list[RawRecord]:
    """Records whose user and item have enough records."""
    users = Counter(record.user for record in records)
    items = Counter(record.item for record in records)
    kept = []
    for record in records:
        if users[record.user] < options.min_user:
            left_out.count(record.line, "user below min_user")
        elif items[record.item] < options.min_item:
            left_out.count(record.line, "item below min_item")
        else:
            kept.append(record)
    return kept


def _cut(records: list[RawRecord], max_words: int) -> tuple[list[RawRecord], int]:
    """Records whose explanations have at most `max_words` words (0: no limit), and how many were longer."""
    words = [tokenize(record.explanation) for record in records] if max_words else []
    longer = [row for row, tokens in enumerate(words) if len(tokens) > max_words]
    for row in longer:
        records[row] = records[row]._replace(explanation=" ".join(words[row][:max_words]))
    return records, len(longer)


def _given_splits(records: Sequence[RawRecord]) -> np.ndarray:
    return np.array([SPLIT_NAMES[str(record.split)] for record in records], dtype=np.int8)


def _cold(records: Sequence[RawRecord], split_R: np.ndarray, options: BuildOptions, file: str) -> dict[str, list[str]]:
    """Users and items that no train record holds, by name; under the policy `error` they raise InputError."""
    train = [record for record, split in zip(records, split_R, strict=True) if split == 0]
    users = {record.user for record in records} - {record.user for record in train}
    items = {record.item for record in records} - {record.item for record in train}
    cold = {"users": sorted(users), "items": sorted(items)}
    if options.on_bad_record == "error" and (users or items):
        found = " and ".join(f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in cold.items() if names)
        raise InputError(
            f"{file}: {found} stand in valid or test but not in train; move a record of each to train, "
            "or keep them, counted as cold, with on_bad_record=skip."
        )
    return cold


def _mentions(
    records: Sequence[RawRecord], split_R: np.ndarray, options: BuildOptions
) -> tuple[list[list[tuple[str, str, int]]], bool]:
    """Mentions of each record, and whether the records gave them (if any does, one without has none).

    Otherwise concepts are fitted on the train texts and looked up in all; their polarity is that of the rating.
    """
    if any(record.mentions is not None for record in records):
        return [record.mentions or [] for record in records], True
    train = [record.explanation for record, split in zip(records, split_R, strict=True) if split == 0]
    phrases = fit_concepts(train, options)
    matcher = PhraseMatcher(phrases)
    middle = (options.rating_min + options.rating_max) / 2
    return [
        [
            (phrases[concept], "", (record.rating > middle) - (record.rating < middle))
            for concept in sorted(matcher.find(record.explanation))
        ]
        for record in records
    ], False


def _vocabulary(
    mentions: list[list[tuple[str, str, int]]], split_R: np.ndarray
) -> tuple[dict[str, int], list[list[tuple[str, str, int]]], int]:
    """(concept -> number of train records that mention it, in order of id), mentions of those, number of others."""
    frequency: Counter[str] = Counter()
    for row in np.flatnonzero(split_R == 0):
        frequency.update({concept for concept, _, _ in mentions[row]})
    known = [[mention for mention in row if mention[0] in frequency] for row in mentions]
    unseen = sum(map(len, mentions)) - sum(map(len, known))
    return {name: frequency[name] for name in _by_frequency(frequency, frequency)}, known, unseen


def _by_frequency(names: Iterable[str], frequency: Counter[str]) -> list[str]:
    return sorted(names, key=lambda name: (-frequency[name], name))


def _tables(
    records: Sequence[RawRecord],
    split_R: np.ndarray,
    concepts: dict[str, int],
    mentions: list[list[tuple[str, str, int]]],
) -> dict[str, pa.Table]:
    train = [record for record, split in zip(records, split_R, strict=True) if split == 0]
    users = _by_frequency({record.user for record in records}, Counter(record.user for record in train))
    items = _by_frequency({record.item for record in records}, Counter(record.item for record in train))
    user_id, item_id, concept_id = ({name: i for i, name in enumerate(names)} for names in (users, items, concepts))
    titles: dict[str, str] = {}
    for record in records:
        if record.item_title:
            titles.setdefault(record.item, record.item_title)
    columns = {
        "record": pa.array(range(len(records)), pa.int32()),
        "user": pa.array([user_id[record.user] for record in records], pa.int32()),
        "item": pa.array([item_id[record.item] for record in records], pa.int32()),
        "rating": pa.array([record.rating for record in records], pa.float32()),
        "explanation": pa.array([record.explanation for record in records], pa.string()),
        "concepts": pa.array(
            [[(concept_id[name], opinion, polarity) for name, opinion, polarity in row] for row in mentions],
            pa.list_(_MENTION),
        ),
        "time": pa.array([record.time for record in records], pa.int64()),
        "split": pa.array([SPLITS[split] for split in split_R], pa.string()),
    }
    item_columns = {
        "id": pa.array(items, pa.string()),
        "title": pa.array([titles.get(item, "") for item in items], pa.string()),
        "attributes": pa.array([json.dumps({})] * len(items), pa.string()),
    }
    return {
        "records": pa.table(columns),
        "users": pa.table({"id": pa.array(users, pa.string())}),
        "items": pa.table(item_columns),
        "concepts": pa.table(
            {
                "concept": pa.array(list(concepts), pa.string()),
                "train_records": pa.array(list(concepts.values()), pa.int32()),
            }
        ),
    }
