"""Metrics as text: systems by rows, metrics by columns, each interval under its value."""

from collections.abc import Mapping
from typing import Any

from metrics.catalog import ALL

# COR stands beside the concept rate because texts without concepts win it; lists of concepts win CMR and FMR.
BLOCKS = (
    ("bleu_1", "bleu_3", "bleu_4", "rouge_1_f", "rouge_2_f", "rouge_l_f", "n"),
    ("fmr", "fcr", "div", "cor", "cmr", "concept_rate", "list_rate"),
    ("distinct_1", "distinct_2", "usr", "words", "rmse", "mae", "sentiment_match_balanced"),
    ("sacrebleu", "chrf", "rouge_score_1_f", "rouge_score_2_f", "rouge_score_l_f", "self_bleu"),
    ("bert_score_f", "sentence_cosine", "perplexity", "bart_score", "mauve"),
)
CAPTION = (
    "suite paper: corpus BLEU unsmoothed, ROUGE on sets, ROUGE-L F with beta = P/R, corpus Distinct (these x100);\n"
    "cor: mean Jaccard within an item; cmr: share of named concepts in K_u | K_v; [low, high]: 95 % interval\n"
    "(bootstrap; of Distinct, USR and FCR jackknife)."
)
STANDARD_CAPTION = (
    "suite standard: sacreBLEU, chrF and rouge-score with the signatures below; [low, high]: 95 % interval\n"
    "(bootstrap; of self-BLEU and MAUVE jackknife)."
)


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The main metrics of several systems (name -> result of `evaluate`), aligned; `-` where one has no value."""
    blocks = []
    for keys in BLOCKS:
        shown = [key for key in keys if any(key in scores for scores in rows.values())]
        if shown:
            blocks.append(_align(_block(rows, shown)))
    captions = [
        caption
        for key, caption in (("bleu_1", CAPTION), ("sacrebleu", STANDARD_CAPTION))
        if any(key in scores for scores in rows.values())
    ]
    return "\n\n".join([*blocks, *captions])


def _block(rows: Mapping[str, Mapping[str, Any]], keys: list[str]) -> list[list[str]]:
    cells = [["system", *keys]]
    for system, scores in rows.items():
        cells.append([system, *(_value(key, scores.get(key)) for key in keys)])
        intervals = [_interval(key, scores.get(f"{key}_ci")) for key in keys]
        if any(intervals):
            cells.append(["", *intervals])
    return cells


def _align(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *values in cells:
        right = (value.rjust(width) for value, width in zip(values, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def _value(key: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{ALL[key].digits if key in ALL else 4}f}"


def _interval(key: str, bounds: list[float] | None) -> str:
    return f"[{_value(key, bounds[0])}, {_value(key, bounds[1])}]" if bounds else ""
