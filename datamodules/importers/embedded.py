"""The embedded corpus: synthetic hotel reviews whose reasons are known, to test whether a system finds them.

The planted truth: a user cares about a few concepts (weights), a hotel does some things well or badly (qualities in
[-1, 1]). Their affinity is the sum of weight * quality over the concepts both have; the rating follows it, and so does
the explanation: it names the one or two concepts with the largest |weight * quality|, the drivers, with the sign of
that product. Users and hotels lean to themes, so that alike users show in the ratings.

Shape suffixes: U users, I items, C concepts.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.build import BuildOptions, assemble
from datamodules.corpus import Corpus, check_replaceable, write_corpus
from datamodules.importers.embedded_text import CONCEPTS, THEMES, explain, explain_badly
from datamodules.records import RawRecord
from metrics.errors import InputError

TRUTH = "truth.parquet"
LOW_QUALITY = 0.15  # share of texts of low quality: HQAR has to tell them apart
PRAISED = 0.65  # share of positive qualities
# rating = clip(round(BASE + SCALE * affinity + noise)): all of 1 to 5 occur, with a mean near 3.6.
BASE, SCALE, NOISE = 3.3, 1.6, 0.25
FIRST_DAY, DAY = 1_600_000_000, 86_400  # unix seconds

_NAMES = (
    ("harbour", "maple", "silver", "royal", "lantern", "meadow", "granite", "violet", "falcon", "cedar", "amber"),
    ("house", "inn", "lodge", "palace", "court", "manor", "hotel", "suites", "residence", "retreat", "plaza", "rooms"),
)
_DRIVERS = pa.list_(pa.struct([("concept", pa.string()), ("polarity", pa.int8())]))


class Truth(NamedTuple):
    """Why one user rated one item as they did."""

    user: str
    item: str
    drivers: list[tuple[str, int]]  # (concept, polarity), strongest first
    affinity: float


def generate(users: int, items: int, seed: int) -> tuple[list[RawRecord], list[Truth]]:
    """Records and, row by row, their truth. Raises InputError where there are too few users or items for it."""
    if users < 2 or items < 10 or seed < 0:
        raise InputError(f"users={users} items={items} seed={seed}: use at least 2 users, 10 items and seed 0.")
    rng = np.random.default_rng(seed)
    quality_IC = _qualities(items, rng)
    weight_UC = _weights(users, quality_IC, rng)
    popularity_I = rng.permutation(np.arange(1, items + 1) ** -0.7)
    records: list[RawRecord] = []
    truths: list[Truth] = []
    for user in range(users):
        worth_IC = weight_UC[user] * quality_IC
        for visit, item in enumerate(_visits(worth_IC, popularity_I, rng)):
            truth = Truth(
                user=f"guest-{user + 1:05d}",
                item=f"hotel-{item + 1:05d}",
                drivers=_drivers(worth_IC[item]),
                affinity=float(worth_IC[item].sum()),
            )
            time = FIRST_DAY + DAY * int(user % 30 + 30 * visit)
            records.append(_record(len(records) + 1, truth, _title(item), time, rng))
            truths.append(truth)
    return records, truths


def write_embedded(users: int, items: int, seed: int, out: str | Path, options: BuildOptions | None = None) -> Corpus:
    """Generate, write the corpus folder `out` with truth.parquet (record, drivers, affinity) in it, and load it."""
    check_replaceable(out)
    records, truths = generate(users, items, seed)
    source = {"format": "embedded", "users": users, "items": items, "seed": seed}
    tables, manifest = assemble(records, options or BuildOptions(), source)
    tables["truth"] = _truth_table(tables, truths)
    write_corpus(out, tables, manifest)
    return Corpus.load(out)


def load_truth(corpus: Corpus) -> list[dict[int, int]]:
    """Record id -> {concept id: polarity} of its drivers, strongest first.

    A driver that no train explanation names has no concept id and is left out. Raises InputError where the corpus is
    not an embedded one.
    """
    if TRUTH not in corpus.manifest["files"]:
        raise InputError(
            f"{corpus.path} has no {TRUTH}: make an embedded corpus with "
            f"`python launch/prepare.py format=embedded out={corpus.path}`."
        )
    concept_id = {name: index for index, name in enumerate(corpus.concepts)}
    return [
        {concept_id[d["concept"]]: d["polarity"] for d in drivers if d["concept"] in concept_id}
        for drivers in pq.read_table(corpus.path / TRUTH)["drivers"].to_pylist()
    ]


def _qualities(items: int, rng: np.random.Generator) -> np.ndarray:
    """quality_IC: 6 to 10 concepts an item, two thirds of them from its own two themes."""
    quality_IC = np.zeros((items, len(CONCEPTS)))
    for item in range(items):
        number = int(rng.integers(6, 11))
        concepts = _leaning(rng.choice(len(THEMES), size=2, replace=False), number, rng)
        signs = np.where(rng.random(number) < PRAISED, 1, -1)
        quality_IC[item, concepts] = signs * rng.uniform(0.3, 1.0, number)
    return quality_IC


def _weights(users: int, quality_IC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """weight_UC: 6 to 9 concepts a user, two thirds from two themes; drawn again until three items touch on them."""
    weight_UC = np.zeros((users, len(CONCEPTS)))
    for user in range(users):
        while np.count_nonzero((weight_UC[user] * quality_IC).any(axis=1)) < 3:
            number = int(rng.integers(6, 10))
            weight_UC[user] = 0
            concepts = _leaning(rng.choice(len(THEMES), size=2, replace=False), number, rng)
            weight_UC[user, concepts] = rng.uniform(0.3, 1.0, number)
    return weight_UC


def _leaning(themes: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Concept ids: two thirds of `number` from the themes, the others from anywhere else."""
    names = list(THEMES)
    preferred = {concept for theme in themes for concept in THEMES[names[theme]]}
    inside = np.array([concept in preferred for concept in CONCEPTS])
    core = rng.choice(np.flatnonzero(inside), size=number * 2 // 3, replace=False)
    return np.concatenate([core, rng.choice(np.flatnonzero(~inside), size=number - len(core), replace=False)])


def _visits(worth_IC: np.ndarray, popularity_I: np.ndarray, rng: np.random.Generator) -> list[int]:
    """8 to 14 items, popular ones more often, among those that have something the user cares about."""
    chance_I = popularity_I * worth_IC.any(axis=1)
    number = min(int(rng.integers(8, 15)), int(np.count_nonzero(chance_I)))
    return rng.choice(len(chance_I), size=number, replace=False, p=chance_I / chance_I.sum()).tolist()


def _drivers(worth_C: np.ndarray) -> list[tuple[str, int]]:
    """The concept with the largest |worth|, and the next if it weighs at least half as much."""
    first, second = np.argsort(-np.abs(worth_C), kind="stable")[:2].tolist()
    chosen = [first, second] if abs(worth_C[second]) >= abs(worth_C[first]) / 2 else [first]
    return [(CONCEPTS[concept], int(np.sign(worth_C[concept]))) for concept in chosen]


def _record(line: int, truth: Truth, title: str, time: int, rng: np.random.Generator) -> RawRecord:
    rating = float(np.clip(np.round(BASE + SCALE * truth.affinity + rng.normal(0, NOISE)), 1, 5))
    if rng.random() < LOW_QUALITY:
        text, mentions = explain_badly(truth.drivers, rng)
    else:
        named = truth.drivers[:1] if rng.random() < 0.2 else truth.drivers
        text, mentions = explain(named, rng)
    return RawRecord(line, truth.user, truth.item, rating, text, mentions, time=time, item_title=title)


def _title(item: int) -> str:
    first, second = _NAMES
    title = f"{first[item % len(first)]} {second[item % len(second)]}"
    again = item // (len(first) * len(second))
    return f"{title} {again + 1}" if again else title


def _truth_table(tables: dict[str, pa.Table], truths: Iterable[Truth]) -> pa.Table:
    """Truth in the order of the records that the build kept."""
    by_pair = {(truth.user, truth.item): truth for truth in truths}
    users, items = (tables[name]["id"].to_pylist() for name in ("users", "items"))
    records = tables["records"]
    pairs = zip(records["user"].to_pylist(), records["item"].to_pylist(), strict=True)
    kept = [by_pair[users[user], items[item]] for user, item in pairs]
    return pa.table(
        {
            "record": records["record"],
            "drivers": pa.array([truth.drivers for truth in kept], _DRIVERS),
            "affinity": pa.array([truth.affinity for truth in kept], pa.float32()),
        }
    )
