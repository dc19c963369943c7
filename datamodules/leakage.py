"""Does anything of valid or test reach what training reads? Each check recounts from the records, on its own path.

A corpus folder states what training builds on: the vocabulary of concepts and how often train names each, the numbering
by train frequency, the graph. Shape suffixes: R records, M mentions, E edges, I incidences.
"""

from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from datamodules.build import BuildOptions
from datamodules.corpus import SPLITS, Corpus
from datamodules.graph import ConceptGraph, GraphConfig, build_graph
from datamodules.mentions import fitted_extractor, rating_signs

OFTEN = 0.05  # share of held-out texts
REPEATED = "held-out texts in train"
LONG = 8  # words: a shorter text may well be written twice


class Finding(NamedTuple):
    """One check: whether it found a leak, and what it saw."""

    check: str
    leak: bool
    seen: str

    @property
    def is_remark(self) -> bool:
        """Texts that stand in train as well: people repeat phrases, so that alone is no fault of the corpus."""
        return self.leak and self.check == REPEATED


def check_leakage(corpus: Corpus, graph: ConceptGraph | None = None) -> list[Finding]:
    """All checks on a corpus and on the graph that training reads (by default the one that would be built now)."""
    return [
        _pairs(corpus),
        _texts(corpus),
        _concept_counts(corpus),
        _numbering(corpus),
        _vocabulary(corpus),
        _edges(corpus, graph or build_graph(corpus, GraphConfig())),
        _blindness(corpus),
    ]


def _pairs(corpus: Corpus) -> Finding:
    """A held-out (user, item) must have no train record: its rating and text would be known."""
    pair_R = corpus.user_R.astype(np.int64) * len(corpus.items) + corpus.item_R
    train = corpus.split_R == 0
    both = np.isin(pair_R[~train], pair_R[train])
    return Finding("held-out pairs in train", bool(both.any()), f"{int(both.sum())} of {len(both)} pairs")


def _texts(corpus: Corpus) -> Finding:
    """A held-out text that its own user or item also has in train, word for word."""
    train: set[tuple[str, int, str]] = set()
    held = same = 0
    for row, text in enumerate(corpus.explanations):
        keys = (("user", int(corpus.user_R[row]), text), ("item", int(corpus.item_R[row]), text))
        if len(text.split()) >= LONG and corpus.split_R[row] == 0:
            train.update(keys)
    for row, text in enumerate(corpus.explanations):
        if corpus.split_R[row] != 0 and len(text.split()) >= LONG:
            held += 1
            same += ("user", int(corpus.user_R[row]), text) in train or ("item", int(corpus.item_R[row]), text) in train
    # People do write the same twice: told, and a leak only where it is no exception.
    seen = f"{same} of {held} texts of {LONG} words or more stand in train with the same user or item"
    return Finding(REPEATED, same > OFTEN * held, seen)


def _concept_counts(corpus: Corpus) -> Finding:
    """Every concept is named by train, as often as the folder says."""
    stated = pq.read_table(corpus.path / "concepts.parquet")["train_records"].to_numpy()
    counted = _train_records_of_concepts(corpus)
    if len(stated) != len(counted):
        seen = f"concepts.parquet lists {len(stated)} concepts and the corpus has {len(counted)}"
        return Finding("concepts known from held-out records", True, seen)
    unseen, wrong = int((counted == 0).sum()), int((counted != stated).sum())
    seen = f"{unseen} concepts that train never names, {wrong} counted over more than train, of {len(counted)}"
    return Finding("concepts known from held-out records", bool(unseen or wrong), seen)


def _train_records_of_concepts(corpus: Corpus) -> np.ndarray:
    record_M, concept_M, _ = corpus.mention_columns(corpus.rows("train"))
    pairs = np.unique(record_M.astype(np.int64) * max(len(corpus.concepts), 1) + concept_M)
    return np.bincount(pairs % max(len(corpus.concepts), 1), minlength=len(corpus.concepts))


def _numbering(corpus: Corpus) -> Finding:
    """Users, items and concepts are numbered by popularity, which must be that of train."""
    train = corpus.rows("train")
    counts = {
        "users": (np.bincount(corpus.user_R[train], minlength=len(corpus.users)), corpus.users),
        "items": (np.bincount(corpus.item_R[train], minlength=len(corpus.items)), corpus.items),
        "concepts": (_train_records_of_concepts(corpus), corpus.concepts),
    }
    wrong = []
    for kind, (count, names) in counts.items():
        keys = list(zip((-count).tolist(), names, strict=True))
        wrong += [kind] if keys != sorted(keys) else []
    seen = f"{', '.join(wrong)} numbered by other counts than train's" if wrong else "users, items, concepts by train"
    return Finding("popularity of held-out records", bool(wrong), seen)


def _vocabulary(corpus: Corpus) -> Finding:
    """Extracted concepts are those that the train texts give when the extractor is fitted again."""
    name = "vocabulary fitted on held-out texts"
    if corpus.manifest["concepts"] != "extracted":
        return Finding(name, False, f"nothing is fitted: concepts are {corpus.manifest['concepts']}")
    known = {field.name for field in fields(BuildOptions)}
    options = BuildOptions(**{key: value for key, value in corpus.manifest["options"].items() if key in known})
    if "reviews.parquet" in corpus.manifest["files"]:
        table = pq.read_table(corpus.path / "reviews.parquet")
        texts, sign_R = table["review"].to_pylist(), table["sign"].to_numpy()
        train_R, by_sentence = table["fitted"].to_numpy(), True
        record_R = table["record"].to_numpy()  # NaN where a review explains nothing
        fitted = record_R[train_R & ~np.isnan(record_R)].astype(np.int64)
        held = int((corpus.split_R[fitted] != 0).sum())
        if held:
            return Finding(name, True, f"{held} held-out reviews were fitted on")
    else:
        texts, by_sentence = corpus.explanations, False
        sign_R = rating_signs(corpus.rating_R, corpus.rating_min, corpus.rating_max)
        train_R = corpus.split_R == 0
    again = set(fitted_extractor(texts, sign_R, train_R, options, by_sentence).concepts)
    foreign = [concept for concept in corpus.concepts if concept not in again]
    seen = f"{len(foreign)} of {len(corpus.concepts)} concepts are not those of train ({', '.join(foreign[:3])})"
    return Finding(name, bool(foreign), seen if foreign else f"fitted again on train: the same {len(corpus.concepts)}")


def _edges(corpus: Corpus, graph: ConceptGraph) -> Finding:
    """Every edge is one that a train record contributes, and counts train records alone."""
    train_R = corpus.split_R == 0
    foreign = wrong = total = 0
    for relation in graph.relations:
        edge_I, record_I = (column.numpy() for column in graph.incidences[relation])
        foreign += int((~train_R[record_I]).sum())
        count_E = graph.data[relation].edge_count.numpy()
        wrong += int((np.bincount(edge_I[train_R[record_I]], minlength=len(count_E)) != count_E).sum())
        total += len(count_E)
    seen = f"{foreign} contributions of held-out records, {wrong} of {total} edges not of train alone"
    return Finding("edges of held-out records", bool(foreign or wrong), seen)


def _blindness(corpus: Corpus) -> Finding:
    """With every held-out rating, text and mention replaced by junk the graph is built the same to the last byte."""
    held_R = corpus.split_R != 0
    middle = (corpus.rating_min + corpus.rating_max) / 2
    junk = replace(
        corpus,
        rating_R=np.where(held_R, 2 * middle - corpus.rating_R, corpus.rating_R).astype(np.float32),
        explanations=["junk" if held else text for held, text in zip(held_R, corpus.explanations, strict=True)],
        mentions=[[] if held else row for held, row in zip(held_R, corpus.mentions, strict=True)],
    )
    one, other = build_graph(corpus, GraphConfig()), build_graph(junk, GraphConfig())
    same = all(
        one.data[relation].edge_index.equal(other.data[relation].edge_index)
        and one.data[relation].edge_count.equal(other.data[relation].edge_count)
        for relation in one.relations
    )
    held = {name: int((corpus.split_R == index).sum()) for index, name in enumerate(SPLITS) if index}
    return Finding("graph built from junk held-out records", not same, f"the same graph: {same}; {held} replaced")
