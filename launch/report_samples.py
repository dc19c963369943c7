"""Explanations to read: the same records in the words of both systems, with the concepts they were offered."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launch.report_html import Html, join, tag, unseen
from metrics.rouge import rouge_l

COUNT = 20
EXTREMES = 5
SEARCHED = 400  # records under the search box: the page stays small
SHORT = 300  # characters of a text there
REFERENCE = "Reference"
MAX_CHARACTERS = 3000  # of a text; a policy that has collapsed can write pages

Record = dict[str, Any]
POLARITY = {1: ("+", "positive", "liked"), -1: ("\N{MINUS SIGN}", "negative", "disliked")}
KIND = {
    "shared": "both user and item are connected with it",
    "via_item": "an item that the user rated shares it with this item",
    "of_item": "the item is connected with it",
    "frequent": "frequent in train; no path of user or item led to it",
}


def choose(records: Sequence[Record], count: int = COUNT, seed: int = 0) -> list[Record]:
    """`count` records from low to high predicted ratings: one at random of each of as many equal parts."""
    draw = random.Random(seed)
    ordered = sorted(records, key=lambda r: (r.get("predicted_rating") or 0.0, str(r.get("record"))))
    count = min(count, len(ordered))
    edges = [len(ordered) * part // count for part in range(count + 1)] if count else []
    return [ordered[draw.randrange(low, high)] for low, high in zip(edges[:-1], edges[1:], strict=True)]


def samples(predictions: Mapping[str, Sequence[Record]], leading: str) -> Html:
    """Cards: the best and worst of the `leading` system, some from low to high ratings, and all that can be searched.

    Good is what shares a long subsequence with its reference (ROUGE-L F). A record that only one system explained
    shows that one alone.
    """
    others = {name: _by_record(rows) for name, rows in predictions.items() if name != leading}

    def cards(records: Sequence[Record]) -> list[Html]:
        return [_card(record, _texts(record, leading, predictions, others)) for record in records]

    rows = predictions[leading]
    score_N = rouge_l([row["explanation"] for row in rows], [row["reference"] for row in rows]).f_N
    order = sorted(range(len(rows)), key=lambda place: (-score_N[place], str(rows[place].get("record")), place))
    parts = [tag("h3", "From low to high predicted rating"), *cards(choose(rows))]
    if len(rows) >= 2 * EXTREMES:
        best, worst = ([rows[place] for place in part] for part in (order[:EXTREMES], order[: -EXTREMES - 1 : -1]))
        parts += [tag("h3", f"Nearest to the reference ({leading}, ROUGE-L)"), *cards(best)]
        parts += [tag("h3", f"Farthest from the reference ({leading}, ROUGE-L)"), *cards(worst)]
    found = choose(rows, SEARCHED)
    lines = [_line(record, _texts(record, leading, predictions, others)) for record in found]
    label = f"{len(found):,} of {len(rows):,} records" if len(found) < len(rows) else f"All {len(rows):,} records"
    box = tag("input", type="search", id="search", data_search="#searched", aria_label="Search the explanations")
    field = tag("p", tag("label", "Search ", for_="search"), box, " ", tag("span", "", id="search-count"), hidden="")
    return join([*parts, tag("h3", label), field, tag("div", *lines, id="searched")])


def _texts(
    record: Record,
    leading: str,
    predictions: Mapping[str, Sequence[Record]],
    others: Mapping[str, Mapping[Any, Record]],
) -> dict[str, str]:
    found = {name: record if name == leading else others[name].get(record.get("record"), {}) for name in predictions}
    return {name: other["explanation"] for name, other in found.items() if other}


def _line(record: Record, texts: Mapping[str, str]) -> Html:
    """A record in a few lines, for the search."""
    who = f"{record.get('user', '?')} on {record.get('item', '?')}"
    ratings = [
        f"{name} {record[key]:.{digits}f}"
        for name, key, digits in (("rated", "rating", 1), ("predicted", "predicted_rating", 2))
        if record.get(key) is not None
    ]
    shown = {REFERENCE: record["reference"], **texts}.items()
    parts = [
        tag("p", tag("b", name), " ", highlight(text[:SHORT], record.get("concepts") or [])) for name, text in shown
    ]
    return tag("article", tag("p", ", ".join([who, *ratings]), class_="quiet"), *parts, class_="line-card")


def _by_record(records: Sequence[Record]) -> dict[Any, Record]:
    return {record["record"]: record for record in records if record.get("record") is not None}


def _card(record: Record, texts: Mapping[str, str]) -> Html:
    concepts = record.get("concepts") or []
    heading = tag(
        "h3", f"User {record.get('user', '?')}", tag("span", " on ", class_="quiet"), f"item {record.get('item', '?')}"
    )
    ratings = [
        tag("span", f"{name} ", tag("b", f"{record[key]:.{digits}f}"))
        for name, key, digits in (("rated", "rating", 1), ("predicted", "predicted_rating", 2))
        if record.get(key) is not None
    ]
    chips = tag("div", *map(_chip, concepts), class_="chips", role="group", aria_label="Candidate concepts")
    columns = [
        tag(
            "div",
            tag("h4", name),
            tag("p", highlight(text, concepts)),
            class_="reference" if name == REFERENCE else None,
        )
        for name, text in {REFERENCE: record["reference"], **texts}.items()
    ]
    header = tag("header", heading, tag("p", *ratings, class_="ratings"))
    return tag("article", header, chips, tag("div", *columns, class_="texts"), class_="card")


def _chip(concept: Mapping[str, Any]) -> Html:
    sign, word, class_ = POLARITY.get(concept.get("polarity", 0), ("", "", ""))
    path = " \N{RIGHTWARDS ARROW} ".join(map(str, concept.get("path") or [concept["concept"]]))
    reason = KIND.get(concept.get("kind", ""), concept.get("kind", ""))
    score = f"score {concept['score']:.3g}" if isinstance(concept.get("score"), int | float) else ""
    label = [tag("span", sign, class_="sign", aria_hidden="true"), unseen(f"{word} ")] if sign else []
    detail = "; ".join(part for part in (reason, score) if part)
    return tag(
        "details",
        tag("summary", *label, str(concept["concept"]), title=path),
        tag("p", tag("span", path, class_="path"), *([tag("span", detail)] if detail else [])),
        class_=f"chip {class_}".strip(),
    )


def highlight(text: str, concepts: Sequence[Mapping[str, Any]]) -> Html:
    """The text with the concepts marked that the metrics find in it: whole words, longest phrase first, any case."""
    text, more = text[:MAX_CHARACTERS], len(text) - MAX_CHARACTERS
    classes = {
        " ".join(concept["concept"].lower().split()): POLARITY.get(concept.get("polarity", 0), ("", "", ""))[2]
        for concept in reversed(concepts)
        if concept["concept"].split()
    }
    ending = [tag("em", f" \N{HORIZONTAL ELLIPSIS} ({more} more characters)")] if more > 0 else []
    if not text.strip():
        return tag("em", "(no text)")
    if not classes:
        return join([text, *ending])
    phrases = sorted(classes, key=lambda phrase: -len(phrase.split()))
    pattern = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases)
    parts: list[str] = []
    end = 0
    for match in re.finditer(rf"(?<!\S)(?:{pattern})(?!\S)", text, re.IGNORECASE):
        class_ = classes.get(" ".join(match.group().lower().split()))
        parts += [text[end : match.start()], tag("mark", match.group(), class_=class_ or None)]
        end = match.end()
    return join([*parts, text[end:], *ending])
