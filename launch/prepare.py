"""Makes a corpus folder from raw files.

    python launch/prepare.py raw=reviews_Movies_and_TV_5.json.gz format=amazon_5core out=data/movies
    python launch/prepare.py raw=yelp_academic_dataset_review.json format=yelp min_user=20 min_item=20 out=data/yelp
    python launch/prepare.py raw=reviews.pickle format=nlg4rs splits=1/ out=data/tripadvisor
    python launch/prepare.py raw=my.csv format=table columns.user=uid columns.text=body out=data/mine
    python launch/prepare.py format=embedded users=300 items=120 seed=7 out=data/embedded

docs/data.md tells what each format reads, how explanations are chosen and where concepts come from.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING
from tqdm import tqdm

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import Corpus, check_replaceable, sha256_of
from datamodules.importers import amazon, nlg4rs, nlg4rs_jsonl, recbole, table, tripadvisor, xrec, yelp
from datamodules.importers.embedded import write_embedded
from datamodules.languages import is_english
from datamodules.mentions import ENGLISH_ALONE, OWN_CONCEPTS
from datamodules.records import BadRecord, Facts, RawRecord
from datamodules.tables import Sides
from launch.config import command
from metrics.errors import InputError
from metrics.text_files import PACKED


@dataclass(frozen=True)
class PrepareConfig(BuildOptions):
    """Keys of launch/prepare.py."""

    raw: str = field(default="", metadata={"help": "raw file, plain, gzip or zstd (xrec: a folder, too)"})
    format: str = field(
        default=MISSING,
        metadata={
            "help": "amazon_5core, yelp, tripadvisor, nlg4rs, nlg4rs_jsonl, xrec, recbole, table (CSV, TSV, "
            "JSON Lines, Parquet) or embedded (synthetic)"
        },
    )
    out: str = field(
        default=MISSING, metadata={"help": "corpus folder to write; a corpus that stands there is replaced"}
    )
    splits: str = field(
        default="",
        metadata={
            "help": "nlg4rs, nlg4rs_jsonl: folder of train.index, validation.index, test.index; empty: the lines' own"
        },
    )
    item_file: str = field(
        default="",
        metadata={"help": "amazon_5core, yelp, tripadvisor, recbole: file of the items' titles and attributes"},
    )
    user_file: str = field(default="", metadata={"help": "yelp, recbole: file of the users' attributes"})
    columns: table.Columns = field(default_factory=table.Columns)
    users: int = field(default=300, metadata={"help": "embedded: number of users"})
    items: int = field(default=120, metadata={"help": "embedded: number of items"})
    seed: int = field(default=0, metadata={"help": "embedded: seed of the generator"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in KEYS_OF:
            raise InputError(f"format={self.format} is unknown: use {', '.join(KEYS_OF)}.")
        if not self.out:
            raise InputError("out= names no folder.")
        default = {name: key.default for name, key in self.__dataclass_fields__.items()}
        default["columns"] = table.Columns()
        for key in dict.fromkeys(key for keys in KEYS_OF.values() for key in keys):
            if key not in KEYS_OF[self.format] and getattr(self, key) != default[key]:
                owners = ", ".join(name for name, keys in KEYS_OF.items() if key in keys)
                raise InputError(f"{key} means nothing to format={self.format}: it belongs to {owners}.")
        if "raw" in KEYS_OF[self.format] and not self.raw:
            raise InputError(f"raw must be given for format={self.format}: the file to read.")


# The keys that not every format knows.
KEYS_OF = {
    "amazon_5core": ("raw", "item_file"),
    "yelp": ("raw", "item_file", "user_file"),
    "tripadvisor": ("raw", "item_file"),
    "nlg4rs": ("raw", "splits"),
    "nlg4rs_jsonl": ("raw", "splits"),
    "xrec": ("raw",),
    "recbole": ("raw", "item_file", "user_file"),
    "table": ("raw", "columns"),
    "embedded": ("users", "items", "seed"),
}
# Whole reviews: the sentences that explain are chosen from them, unless asked otherwise.
REVIEWS = ("amazon_5core", "yelp", "tripadvisor", "recbole")
IMPORTERS: dict[str, Callable[[PrepareConfig], Iterator[RawRecord | BadRecord]]] = {
    "amazon_5core": lambda cfg: amazon.read(Path(cfg.raw)),
    "yelp": lambda cfg: yelp.read(Path(cfg.raw)),
    "tripadvisor": lambda cfg: tripadvisor.read(Path(cfg.raw)),
    "nlg4rs": lambda cfg: nlg4rs.read(Path(cfg.raw), _splits(cfg), _middle(cfg)),
    "nlg4rs_jsonl": lambda cfg: nlg4rs_jsonl.read(Path(cfg.raw), _splits(cfg), _middle(cfg)),
    "xrec": lambda cfg: xrec.read(Path(cfg.raw), cfg.rating_max),
    "recbole": lambda cfg: recbole.read(Path(cfg.raw)),
    "table": lambda cfg: table.read(Path(cfg.raw), cfg.columns, _middle(cfg)),
}
FACTS: dict[tuple[str, str], Callable[[Path], Iterator[Facts | BadRecord]]] = {
    ("amazon_5core", "item"): amazon.read_items,
    ("yelp", "item"): yelp.read_items,
    ("yelp", "user"): yelp.read_users,
    ("tripadvisor", "item"): tripadvisor.read_items,
    ("recbole", "item"): recbole.read_items,
    ("recbole", "user"): recbole.read_users,
}


def main(cfg: PrepareConfig) -> None:
    """Builds the corpus and prints what is in it, what was left out, and what to type next."""
    corpus = write_embedded(cfg.users, cfg.items, cfg.seed, cfg.out, cfg) if cfg.format == "embedded" else _import(cfg)
    print(report(corpus))
    if lacking := lacks(corpus):
        print(f"\nnot enough to train on: {lacking}")
    elif corpus.manifest["concepts"] == "extracted" and not is_english(corpus.explanations):
        print(f"\nnote: {ENGLISH_ALONE}: few of these concepts may be right; {OWN_CONCEPTS}")
    print(f"\nnext: {next_commands(cfg.out, trains=not lacking)}")


def next_commands(out: str, trains: bool) -> str:
    """What to type next, as it can be pasted: into a run folder of its own, on the hardware of this machine.

    `trains`: whether the corpus has what a run needs.
    """
    hardware, ranks = ("gpu", "gpu") if shutil.which("nvidia-smi") else ("cpu", str(min(2, os.cpu_count() or 1)))
    folder, run_dir = shlex.quote(f"data.path={out}"), shlex.quote(f"run_dir=runs/{Path(out).resolve().name}")
    look = f"python launch/inspect_corpus.py {folder}"
    if not trains:
        return look
    return (
        f"{look}\n"
        f"      torchrun --standalone --nproc-per-node={ranks} launch/train.py configs/llm2er_eqr.yaml "
        f"configs/hardware/{hardware}.yaml {folder} {run_dir}"
    )


def lacks(corpus: Corpus) -> str:
    """What no run of all stages can do without and the corpus does not have, each with what to do."""
    counts = corpus.manifest["counts"]
    absent = ", ".join(f"no {split} record" for split, number in counts["records"].items() if not number)
    parts = [f"{absent}; give more records, or see split= in --help"] if absent else []
    if not counts["concepts"]:
        parts.append(f"no concept; {corpus.manifest.get('no_concept', 'give more records')}")
    return "; ".join(parts)


def report(corpus: Corpus) -> str:
    """The contents of a corpus as a short table."""
    manifest = corpus.manifest
    counts, skipped, cold = manifest["counts"], manifest["skipped"], manifest["cold"]
    total = len(corpus.explanations)
    rows = [(f"{split} records", str(n)) for split, n in counts["records"].items()]
    rows += [(name, str(counts[name])) for name in ("users", "items")]
    rows += [
        ("concepts", f"{counts['concepts']} ({manifest['concepts']})"),
        ("concepts named a record", f"{counts['mentions'] / total:.2f}"),
        ("words an explanation", f"{counts['words'] / total:.1f}"),
        ("splits", manifest["splits"]),
    ]
    rows += [(f"left out: {reason}", _with_lines(entry)) for reason, entry in skipped.items()]
    if manifest["cleaned_of_markup"]:
        rows.append(("texts cleaned of markup", str(manifest["cleaned_of_markup"])))
    if manifest["days"]:
        rows.append(("days", " to ".join(manifest["days"])))
    if manifest["cut_explanations"]:
        rows.append(("explanations cut", str(manifest["cut_explanations"])))
    if manifest["mentions_unseen_in_train"]:
        rows.append(("mentions left out: concept not in train", str(manifest["mentions_unseen_in_train"])))
    rows += [(f"cold {kind} (in no train record)", str(number)) for kind, number in cold.items() if number]
    if "ratings" in manifest["source"]:
        rows.append(("ratings", manifest["source"]["ratings"]))
    if "ratings_mapped_from" in manifest:
        low, high = manifest["ratings_mapped_from"]
        rows.append(("ratings", f"mapped from {low:g}-{high:g} to 1-5"))
    for kind, side in manifest.get("side_files", {}).items():
        rows.append((f"{kind} told of by {side['file']}", f"{side['found']} of {counts[kind]}"))
        rows += [(f"left out of {side['file']}: {why}", _with_lines(entry)) for why, entry in side["skipped"].items()]
    rows.append(("written to", str(corpus.path)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _splits(cfg: PrepareConfig) -> Path | None:
    return Path(cfg.splits) if cfg.splits else None


def _middle(cfg: PrepareConfig) -> float:
    """What parts the ratings that count as praise from those that count as criticism."""
    return (cfg.rating_min + cfg.rating_max) / 2


def _import(cfg: PrepareConfig) -> Corpus:
    raw = Path(cfg.raw)
    if not raw.is_file() and not (cfg.format == "xrec" and raw.is_dir()):
        found = "no file but a folder: name the file in it" if raw.is_dir() else "no file: check the path"
        raise InputError(f"raw={raw} is {found}.")
    check_replaceable(cfg.out)
    source: dict[str, object] = {"format": cfg.format, "file": str(raw)}
    if raw.is_file():
        source["sha256"] = _checksum(raw)
    else:
        source["sha256"] = {file.name: _checksum(file) for file, _ in xrec.tables(raw)}
    if cfg.format == "xrec":
        source["ratings"] = f"none in the source: all set to {cfg.rating_max:g}"
    # disable=None: no bar where the output is not a terminal.
    records = tqdm(IMPORTERS[cfg.format](cfg), unit=" records", disable=None)
    by_format = "sentence" if cfg.format in REVIEWS else "whole"
    options = replace(cfg, explanation=cfg.explanation or by_format)
    return build_corpus(records, cfg.out, options, source, _sides(cfg))


def _sides(cfg: PrepareConfig) -> Sides:
    """Where titles and attributes come from: side files, or the raw file itself."""
    files = {"item": cfg.item_file, "user": cfg.user_file}
    if cfg.format == "recbole":
        files = {kind: file or _beside(Path(cfg.raw), kind) for kind, file in files.items()}
    streams: dict[str, Iterator[Facts | BadRecord]] = {
        kind: FACTS[cfg.format, kind](Path(file)) for kind, file in files.items() if file
    }
    for kind in ("item", "user"):
        if cfg.format == "xrec":
            streams[kind], files[kind] = xrec.read_facts(Path(cfg.raw), kind), cfg.raw
        elif cfg.format == "table" and getattr(cfg.columns, f"{kind}_attributes"):
            streams[kind], files[kind] = table.read_facts(Path(cfg.raw), cfg.columns, kind), cfg.raw
    return Sides(streams.get("item", ()), streams.get("user", ()), files["item"], files["user"])


def _beside(raw: Path, kind: str) -> str:
    """RecBole's NAME.item or NAME.user beside NAME.inter, each plain or packed; "" where there is none."""
    plain = (raw.with_suffix("") if raw.suffix in PACKED else raw).with_suffix(f".{kind}")
    packed = (plain.with_name(plain.name + ending) for ending in ("", *PACKED))
    return next((str(file) for file in packed if file.is_file()), "")


def _checksum(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions.") from None


def _with_lines(entry: dict) -> str:
    lines = ", ".join(map(str, entry["lines"]))
    return f"{entry['count']} (lines {lines}{', ...' if entry['count'] > len(entry['lines']) else ''})"


if __name__ == "__main__":
    command(main, PrepareConfig, __doc__)
