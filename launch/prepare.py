"""Makes a corpus folder from raw files.

    python launch/prepare.py raw=reviews.jsonl.gz format=nlg4rs_jsonl out=corpora/mine
    python launch/prepare.py raw=reviews.csv format=table columns.text=review_body out=corpora/mine
    python launch/prepare.py format=embedded users=300 items=120 seed=7 out=corpora/embedded

Formats: nlg4rs_jsonl (lines with feature, opinion, sentence, sentiment), table (CSV, TSV, JSON Lines or Parquet with
user, item, rating, text), embedded (synthetic hotel reviews with known reasons).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING
from tqdm import tqdm

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import Corpus, check_replaceable, sha256_of
from datamodules.importers import nlg4rs_jsonl, table
from datamodules.importers.embedded import write_embedded
from datamodules.records import BadRecord, RawRecord
from launch.config import command
from metrics.errors import InputError


@dataclass(frozen=True)
class PrepareConfig(BuildOptions):
    """Keys of launch/prepare.py."""

    raw: str = field(default="", metadata={"help": "raw file, gzipped or not (format=embedded needs none)"})
    format: str = field(default=MISSING, metadata={"help": "nlg4rs_jsonl, table or embedded"})
    out: str = field(
        default=MISSING, metadata={"help": "corpus folder to write; a corpus that stands there is replaced"}
    )
    splits: str = field(
        default="",
        metadata={
            "help": "nlg4rs_jsonl: folder of train.index, validation.index, test.index; empty: splits of the lines"
        },
    )
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
        for owner, keys in KEYS_OF.items():
            for key in keys:
                if key not in KEYS_OF[self.format] and getattr(self, key) != default[key]:
                    raise InputError(f"{key} belongs to format={owner} and means nothing to format={self.format}.")
        if "raw" in KEYS_OF[self.format] and not self.raw:
            raise InputError(f"raw must be given for format={self.format}: the file to read.")


# The keys that not every format knows.
KEYS_OF = {
    "nlg4rs_jsonl": ("raw", "splits"),
    "table": ("raw", "columns"),
    "embedded": ("users", "items", "seed"),
}
IMPORTERS: dict[str, Callable[[PrepareConfig], Iterator[RawRecord | BadRecord]]] = {
    "nlg4rs_jsonl": lambda cfg: nlg4rs_jsonl.read(Path(cfg.raw), Path(cfg.splits) if cfg.splits else None),
    "table": lambda cfg: table.read(Path(cfg.raw), cfg.columns, (cfg.rating_min + cfg.rating_max) / 2),
}


def main(cfg: PrepareConfig) -> None:
    """Builds the corpus and prints what is in it, what was left out, and what to type next."""
    corpus = write_embedded(cfg.users, cfg.items, cfg.seed, cfg.out, cfg) if cfg.format == "embedded" else _import(cfg)
    print(report(corpus))
    print(f"\nnext: torchrun launch/train.py configs/llm2er_eqr.yaml data.path={cfg.out}")


def report(corpus: Corpus) -> str:
    """The contents of a corpus as a short table."""
    manifest = corpus.manifest
    counts, skipped, cold = manifest["counts"], manifest["skipped"], manifest["cold"]
    total = len(corpus.explanations)
    rows = [(f"{split} records", str(n)) for split, n in counts["records"].items()]
    rows += [(name, str(counts[name])) for name in ("users", "items")]
    rows += [
        ("concepts", f"{counts['concepts']} ({manifest['concepts']})"),
        ("mentions a record", f"{counts['mentions'] / total:.2f}"),
        ("words an explanation", f"{counts['words'] / total:.1f}"),
        ("splits", manifest["splits"]),
    ]
    rows += [(f"left out: {reason}", _with_lines(entry)) for reason, entry in skipped.items()]
    if manifest["cut_explanations"]:
        rows.append(("explanations cut", str(manifest["cut_explanations"])))
    if manifest["mentions_unseen_in_train"]:
        rows.append(("mentions left out: concept not in train", str(manifest["mentions_unseen_in_train"])))
    rows += [(f"cold {kind} (in no train record)", str(number)) for kind, number in cold.items() if number]
    rows.append(("written to", str(corpus.path)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _import(cfg: PrepareConfig) -> Corpus:
    raw = Path(cfg.raw)
    if not raw.is_file():
        raise InputError(f"raw={raw} is no file: check the path.")
    check_replaceable(cfg.out)
    source = {"format": cfg.format, "file": str(raw), "sha256": sha256_of(raw)}
    # disable=None: no bar where the output is not a terminal.
    records = tqdm(IMPORTERS[cfg.format](cfg), unit=" records", disable=None)
    return build_corpus(records, cfg.out, cfg, source)


def _with_lines(entry: dict) -> str:
    lines = ", ".join(map(str, entry["lines"]))
    return f"{entry['count']} (lines {lines}{', ...' if entry['count'] > len(entry['lines']) else ''})"


if __name__ == "__main__":
    command(main, PrepareConfig, __doc__)
