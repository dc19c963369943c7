"""Explain (user, item) pairs with a finished run: text, predicted rating, concepts with the paths behind them.

python launch/explain.py run=runs/mine user=A195EZSQDW3E21 item=B000068NW5
python launch/explain.py run=runs/mine pairs=pairs.jsonl json=true > explained.jsonl
python launch/explain.py run=runs/mine user=newcomer user_concepts="sound quality,price" item=B000068NW5

A user or item that train does not know is served through concepts: those it is said to care about or to be praised for,
and those in an item's title. The graph network reads them as it reads those of any node, but for the predicted rating,
which no telling changes; the output has them in `cold`.
"""

import difflib
import json
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers

from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.graph import build_graph, with_new_nodes
from datamodules.importers.reading import Row, Unusable, optional_text, read_json_lines, text_of
from datamodules.importers.tokenising import tokenised
from datamodules.predictions import predictions
from datamodules.prompts import PromptBuilder
from datamodules.records import BadRecord, normalised_id
from launch.config import command, load
from launch.report_folder import BACKBONE, FULL
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from lightning_modules.rating import infer_evidence, load_rating_model
from metrics.errors import InputError
from metrics.phrases import PhraseMatcher
from models.explainer import load_explainer
from models.generation import generate
from models.language_model import load_tokenizer

BATCH = 64
EXPLAINERS = {"ppo": FULL, "explanation": BACKBONE}  # the last comes first
TELLING = {"user": "user_concepts", "item": "item_concepts or item_title"}


@dataclass(frozen=True)
class ExplainConfig:
    """What to explain, and by which run."""

    run: str = field(default="???", metadata={"help": "folder of a finished run"})
    user: str = field(default="", metadata={"help": "original user id", "is_id": True})
    item: str = field(default="", metadata={"help": "original item id", "is_id": True})
    user_concepts: str = field(default="", metadata={"help": "a,b: what a user new to the run cares about"})
    item_concepts: str = field(default="", metadata={"help": "a,b: what an item new to the run is praised for"})
    item_title: str = field(default="", metadata={"help": "title of an item new to the run, searched for concepts"})
    pairs: str = field(
        default="",
        metadata={"help": "JSON lines of {user, item (, user_concepts, item_concepts, item_title)} instead"},
    )
    new: bool = field(
        default=False, metadata={"help": "users and items that the run does not know are newcomers, not mistakes"}
    )
    stage: str = field(
        default="",
        metadata={"help": "ppo explains by LLM2ER-EQR, explanation by LLM2ER; empty: the last that is finished"},
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object a pair"})

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.user or self.item) or bool(self.user) != bool(self.item):
            raise InputError("give user=ID and item=ID, or pairs=FILE")
        if self.pairs and (self.user_concepts or self.item_concepts or self.item_title):
            raise InputError(
                "user_concepts, item_concepts and item_title stand in the lines of pairs=FILE, where it is given"
            )
        if self.stage not in ("", *EXPLAINERS):
            raise InputError(f"stage={self.stage}: use {' or '.join(EXPLAINERS)}")


def main(config: ExplainConfig) -> None:
    """Explains and prints."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"transformers|peft")
    for row in explain(Path(config.run), wanted_pairs(config), config.stage):
        print(json.dumps(row, ensure_ascii=False) if config.json else as_text(row))


class Pair(NamedTuple):
    """A (user, item) to explain, and what is told of them in case the run does not know them."""

    user: str
    item: str
    user_concepts: tuple[str, ...] = ()
    item_concepts: tuple[str, ...] = ()
    item_title: str = ""
    new: bool = False  # an id that the run does not know is no mistake


def wanted_pairs(config: ExplainConfig) -> list[Pair]:
    """The pairs that are asked for, with original ids."""
    if not config.pairs:
        told = (_named(config.user_concepts.split(",")), _named(config.item_concepts.split(",")), config.item_title)
        return [Pair(config.user, config.item, *told, config.new)]
    path, pairs = Path(config.pairs), []
    if not path.is_file():
        raise InputError(f"pairs={path}: no such file")
    for line, row in read_json_lines(path):
        try:
            pairs.append(_pair(row, config.new))
        except Unusable as fault:
            raise InputError(
                f'{path}:{line}: {fault.args[1]}; expected {{"user": ..., "item": ...}}, with "user_concepts": [...], '
                '"item_concepts": [...], "item_title": ..., "new": true where they are new'
            ) from None
    if not pairs:
        raise InputError(f'pairs={path}: holds no pair; write {{"user": ..., "item": ...}}, one a line')
    return pairs


def _pair(row: Row | BadRecord, new: bool) -> Pair:
    """A line of a file of pairs; raises Unusable. `new` holds where the line says nothing of it."""
    if isinstance(row, BadRecord):
        raise Unusable(row.reason, row.detail)
    told = []
    for key in ("user_concepts", "item_concepts"):
        concepts = row.get(key) or []
        if not isinstance(concepts, list) or not all(isinstance(concept, str) for concept in concepts):
            raise Unusable("wrong type", f"'{key}' is {concepts!r:.40} where a list of texts is due")
        told.append(_named(concepts))
    if not isinstance(row.get("new", new), bool):
        raise Unusable("wrong type", f"'new' is {row['new']!r:.40} where true or false is due")
    title = optional_text(row, "item_title") or ""
    pair = Pair(text_of(row, "user"), text_of(row, "item"), *told, title, row.get("new", new))
    try:
        " ".join([pair.user, pair.item, pair.item_title]).encode()
    except UnicodeEncodeError:
        raise Unusable("not UTF-8", "holds bytes or escapes that are not valid UTF-8 text") from None
    return pair


def _named(concepts: list[str]) -> tuple[str, ...]:
    return tuple(concept.strip() for concept in concepts if concept.strip())


def explain(run: Path, pairs: list[Pair], stage: str) -> list[dict]:
    """Prediction records of pairs; `rating` and `reference` are those of the corpus where it knows the pair.

    A pair that is a train record is explained from the graph without its own fold, as in training. `cold` holds the
    concepts by which a user or item (its keys) is served that stands in no train record.
    """
    config, corpus, folder = opened(run)
    users, items = set(corpus.users), set(corpus.items)
    pairs = [as_known(pair, users, items) for pair in pairs]
    for pair in pairs:
        refuse_strangers(pair, corpus, users, items)
    stage = stage or last_explainer(folder)
    nodes = {kind: cold_nodes(corpus, pairs, kind) for kind in ("user", "item")}
    asked, evidence = evidence_of(config, corpus, folder, pairs, nodes, stage)
    source = folder.need(stage, "explain")
    tokenizer, explainer = load_tokenizer(str(source / "lm")), load_explainer(source).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    explainer.to(device)
    builder, texts = PromptBuilder(asked, evidence, tokenizer, config.prompt), {}
    for start in range(0, len(pairs), BATCH):
        batch = builder.batch(list(range(start, min(start + BATCH, len(pairs)))), None)
        parts = (batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B)
        with torch.no_grad():
            prompt_BPW = explainer.embed_prompt(*(part.to(device) for part in parts))
        end, fill = tokenizer.eos_token_id, tokenizer.pad_token_id
        mask_BP, length = batch.prompt_mask_BP.to(device), config.prompt.max_new_tokens
        made = generate(explainer.lm, prompt_BPW, mask_BP, end, fill, length, None)
        decoded = tokenizer.batch_decode(made.response_BT, skip_special_tokens=True)
        texts |= {row: " ".join(text.split()) for row, text in zip(batch.record_B.tolist(), decoded, strict=True)}
    rows = predictions(asked, evidence, texts)
    for row, user, item in zip(rows, asked.user_R.tolist(), asked.item_R.tolist(), strict=True):
        served = {kind: nodes[kind].concepts.get(node) for kind, node in (("user", user), ("item", item))}
        row["cold"] = {kind: [corpus.concepts[c] for c in found] for kind, found in served.items() if found is not None}
    return rows


def as_known(pair: Pair, users: set[str], items: set[str]) -> Pair:
    """The pair with ids as the corpus spells them: without blanks and marks that are not seen, unless it has those."""
    user, item = normalised_id(pair.user), normalised_id(pair.item)
    return pair._replace(user=pair.user if pair.user in users else user, item=pair.item if pair.item in items else item)


def refuse_strangers(pair: Pair, corpus: Corpus, users: set[str], items: set[str]) -> None:
    """Refuses an id that the run does not know unless something is told of it: it is more often mistyped than new."""
    told = {"user": pair.user_concepts, "item": pair.item_concepts or pair.item_title}
    for kind, name, known in (("user", pair.user, users), ("item", pair.item, items)):
        if name in known or told[kind] or pair.new:
            continue
        near = difflib.get_close_matches(name, corpus.users if kind == "user" else corpus.items, n=3, cutoff=0.6)
        hint = f"near are {', '.join(near)}; " if near else ""
        raise InputError(
            f"{kind}={name}: {corpus.path} knows no such {kind}; {hint}give new=true for one that is new to the run, "
            f"or tell of it by {TELLING[kind]}"
        )


def last_explainer(folder: RunFolder) -> str:
    """The last stage that can explain and is finished; says which where it is not the last of the system."""
    for stage, name in EXPLAINERS.items():
        if folder.done(stage):
            if stage != next(iter(EXPLAINERS)):
                print(f"explained by {name}: the stages after {stage} are not finished", file=sys.stderr)
            return stage
    raise InputError(
        f"run={folder.path}: no stage that explains is finished ({', '.join(reversed(EXPLAINERS))}); run "
        f"launch/train.py {folder.path / 'config.yaml'} to go on"
    )


def opened(run: Path) -> tuple[TrainConfig, Corpus, RunFolder]:
    """A run to read from. Raises InputError where there is none."""
    if not (run / "config.yaml").is_file():
        raise InputError(f"run={run}: no config.yaml there; give the folder of a run of launch/train.py")
    config, _ = load(TrainConfig, [str(run / "config.yaml"), f"run_dir={run}"])
    corpus = Corpus.load(config.data.path or run / "data")
    folder = RunFolder(config)
    folder.corpus = corpus.manifest["files"]["records.parquet"]
    return config, corpus, folder


class ColdNodes(NamedTuple):
    """The users or items of a corpus and those asked for beyond it; of those without a train record, their concepts."""

    names: list[str]
    concepts: dict[int, list[int]]


def cold_nodes(corpus: Corpus, pairs: list[Pair], kind: str) -> ColdNodes:
    """The users or items (`kind`: user or item) that train does not know, numbered behind those of the corpus.

    Their concepts are those that any pair tells of them, and those in the title of an item. Raises InputError for a
    concept that the corpus does not have.
    """
    known, column = (corpus.users, corpus.user_R) if kind == "user" else (corpus.items, corpus.item_R)
    names, index = list(known), {name: i for i, name in enumerate(known)}
    seen = set(np.unique(column[corpus.rows("train")]).tolist())
    concept_id = {name: i for i, name in enumerate(corpus.concepts)}
    matcher = PhraseMatcher(corpus.concepts)
    found: dict[int, dict[int, None]] = {}
    for pair in pairs:
        name = pair.user if kind == "user" else pair.item
        if name not in index:
            index[name] = len(names)
            names.append(name)
        node = index[name]
        if node in seen:
            continue
        told = pair.user_concepts if kind == "user" else pair.item_concepts
        unknown = [concept for concept in told if concept.lower() not in concept_id]
        if unknown:
            near = difflib.get_close_matches(unknown[0].lower(), corpus.concepts, n=3, cutoff=0.5)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise InputError(f"{kind}_concepts: {unknown[0]!r} is no concept of {corpus.path}{hint}")
        mine = found.setdefault(node, {})
        mine |= dict.fromkeys(concept_id[concept.lower()] for concept in told)
        if kind == "item":
            title = pair.item_title or (corpus.item_titles[node] if node < len(known) else "")
            mine |= dict.fromkeys(sorted(matcher.find(tokenised(title))))
    return ColdNodes(names, {node: list(concepts) for node, concepts in found.items()})


def evidence_of(
    config: TrainConfig,
    corpus: Corpus,
    folder: RunFolder,
    pairs: list[Pair],
    nodes: dict[str, ColdNodes],
    stage: str,
) -> tuple[Corpus, Evidence]:
    """A corpus whose records are the asked pairs, and the evidence for them."""
    users, items = (_indices([getattr(pair, kind) for pair in pairs], nodes[kind].names) for kind in ("user", "item"))
    rating = folder.need("rating", stage)
    graph = build_graph(corpus, config.graph)
    model = load_rating_model(rating, graph)
    counts = graph.node_counts | {kind: len(cold.names) for kind, cold in nodes.items()}
    told = with_new_nodes(graph, {kind: cold.concepts for kind, cold in nodes.items()}, counts)
    # What is told of newcomers is praise alone, which made ratings worse (docs/data.md): they are rated without it.
    anything = any(concepts for cold in nodes.values() for concepts in cold.concepts.values())
    untold = with_new_nodes(graph, {}, counts) if anything else None
    model.add_nodes(counts)
    known = {(int(u), int(v)): r for r, (u, v) in enumerate(zip(corpus.user_R, corpus.item_R, strict=True))}
    rows = [known.get(pair) for pair in zip(users.tolist(), items.tolist(), strict=True)]
    asked = replace(
        corpus,
        users=nodes["user"].names,
        items=nodes["item"].names,
        user_R=users,
        item_R=items,
        rating_R=np.array([np.nan if r is None else corpus.rating_R[r] for r in rows], dtype=np.float32),
        split_R=np.full(len(pairs), 2, dtype=np.int8),
        explanations=["" if r is None else corpus.explanations[r] for r in rows],
        mentions=[[] if r is None else corpus.mentions[r] for r in rows],
    )
    whole_R = np.zeros(len(pairs), dtype=np.int16)
    fresh = infer_evidence(model, told, asked, whole_R, config.graph, config.seed, rated_on=untold)
    new = (list(nodes["user"].concepts), list(nodes["item"].concepts))
    # A pair of the corpus whose user or item train does not know: the run had nothing told of them to go by.
    cold = [u in new[0] or v in new[1] for u, v in zip(users.tolist(), items.tolist(), strict=True)]
    rows = [None if is_cold else row for row, is_cold in zip(rows, cold, strict=True)]
    return asked, fresh.with_rows_of(Evidence.load(rating / "evidence.safetensors"), rows, *new)


def _indices(ids: list[str], known: list[str]) -> np.ndarray:
    index = {original: i for i, original in enumerate(known)}
    return np.array([index[original] for original in ids], dtype=np.int32)


def as_text(row: dict) -> str:
    """A prediction for a person."""
    lines = [f"user {row['user']}, item {row['item']}"]
    for kind, concepts in row["cold"].items():
        known_by = ", ".join(concepts) or f"nothing; tell something by {TELLING[kind]}"
        lines.append(f"  the {kind} is new, known by {known_by}")
    lines.append(f"  {row['explanation']}")
    lines.append(f"  predicted rating {row['predicted_rating']:.2f}")
    for concept in row["concepts"]:
        sign = {1: "+", -1: "-", 0: " "}[concept["polarity"]]
        path = " - ".join(concept["path"])
        lines.append(f"  {sign} {concept['concept']:<20} {concept['score']:<7.3g}  {concept['kind']:<9} {path}")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main, ExplainConfig, __doc__)
