"""From a judge's answers to figures: parsing that survives talkative judges, both orders, shares with intervals."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metrics.families import means
from metrics.measures import Measures
from metrics.suite import figures

PAIR = re.compile(r"\b(1|2|one|two|first|second|tie|equal|both)\b", re.IGNORECASE)
MEANING = {
    **dict.fromkeys(("1", "one", "first"), "1"),
    **dict.fromkeys(("2", "two", "second"), "2"),
    **dict.fromkeys(("tie", "equal", "both"), "tie"),
}
# "The better one is explanation 2", "**Answer:** 2", '{"winner": "1"}'
CONCLUSION = re.compile(
    r"(?:answer|winner|verdict|better|choice|choose|prefer|score|rating|rate)\w*\W*"
    r"(?:(?:is|it|this|one|would|be|as|a|of|explanation|text|option|number)\b\W*)*"
    r"\b(\d+|one|two|first|second|tie|equal)\b",
    re.IGNORECASE,
)


def parse_pair(text: str) -> str | None:
    """ "1", "2" or "tie"; None for an answer that says none of them or several without a conclusion."""
    plain = text.strip().strip("*_#`\"'.()[]{} \n").lower()
    if plain in MEANING:
        return MEANING[plain]
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if lines and lines[-1].strip("*_#`\"'.()[]{} ").lower() in MEANING:
        return MEANING[lines[-1].strip("*_#`\"'.()[]{} ").lower()]
    concluded = [MEANING.get(word.lower()) for word in CONCLUSION.findall(text)]
    if concluded and concluded[-1]:
        return concluded[-1]
    found = {MEANING[word.lower()] for word in PAIR.findall(text)}
    return found.pop() if len(found) == 1 else None


def parse_score(text: str, lowest: int, highest: int) -> int | None:
    """The whole number from `lowest` to `highest` that an answer gives; None where it gives none or several."""
    text = re.sub(rf"(\d+)\s*(?:/|out of)\s*{highest}\b", r"\1", text)
    last_line = (text.strip().splitlines() or [""])[-1]
    for found in (re.fullmatch(r"\W*(\d+)\W*", text), re.fullmatch(r"\W*(\d+)\W*", last_line)):
        if found and lowest <= int(found[1]) <= highest:
            return int(found[1])
    concluded = [int(word) for word in CONCLUSION.findall(text) if word.isdigit()]
    numbers = set(map(int, re.findall(r"(?<![\d.-])(\d+)(?![\d]|\.\d)", text)))
    for values in (concluded[-1:], list(numbers) if len(numbers) == 1 else []):
        if values and lowest <= values[0] <= highest:
            return values[0]
    return None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The prompt with its {names} replaced, all at once: what a text holds in braces stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template)


def pairwise(forth: Sequence[str | None], back: Sequence[str | None], resamples: int, seed: int) -> dict[str, Any]:
    """Figures of answers to (ours, theirs) and to (theirs, ours); a win counts only where both orders agree on it.

    `majority_class_rate`: share of the most frequent answer, which is what a judge gets for always giving it;
    `first_rate`: share of answers for the text that came first, 0.5 without a position bias. `p`: sign test of wins.
    """
    outcomes = [_outcome(a, b) for a, b in zip(forth, back, strict=True)]
    kinds = ("win", "loss", "tie", "disagree", "unparsed")
    columns = {f"{kind}_rate": np.array([outcome == kind for outcome in outcomes], dtype=float) for kind in kinds}
    scores = figures(Measures(len(outcomes), [means(columns, "record")]), resamples, seed)
    answers = Counter(answer for answer in (*forth, *back) if answer is not None)
    said, decided = answers.total(), answers["1"] + answers["2"]
    wins, losses = outcomes.count("win"), outcomes.count("loss")
    return scores | {
        "wins": wins,
        "losses": losses,
        "p": sign_test(wins, losses),
        "majority_class_rate": max(answers.values()) / said if said else None,
        "first_rate": answers["1"] / decided if decided else None,
    }


def _outcome(forth: str | None, back: str | None) -> str:
    if forth is None or back is None:
        return "unparsed"
    turned = {"1": "2", "2": "1", "tie": "tie"}[back]
    if forth != turned:
        return "disagree"
    return {"1": "win", "2": "loss", "tie": "tie"}[forth]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of as unequal a split of wins under a fair coin; 1 without any."""
    n, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(n, k) for k in range(most, n + 1))
    return min(1.0, 2 * tail / 2**n)


def likert(scores: Sequence[int | None], resamples: int, seed: int) -> dict[str, Any]:
    """Mean, standard deviation, distribution and share of the most frequent score, of the answers that were parsed."""
    values_N = np.array([math.nan if score is None else score for score in scores])
    unparsed_N = np.isnan(values_N)
    columns = {"unparsed_rate": unparsed_N.astype(float)} | ({} if unparsed_N.all() else {"score": values_N})
    found = figures(Measures(len(scores), [means(columns, "record")]), resamples, seed)
    counts = Counter(int(value) for value in values_N[~unparsed_N])
    return found | {
        "score_sd": float(values_N[~unparsed_N].std()) if counts else None,
        "majority_class_rate": max(counts.values()) / counts.total() if counts else None,
        **{f"score_{value}": count for value, count in sorted(counts.items())},
    }
