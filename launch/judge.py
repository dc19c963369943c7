"""Let a language model judge explanations: two systems against each other in both orders, or one on a scale.

    python launch/judge.py predictions=a.jsonl against=b.jsonl endpoint.url=http://HOST/v1 endpoint.model=NAME
    python launch/judge.py predictions=a.jsonl model=FOLDER

With `against` each record is judged twice, the order of the two texts swapped, and a win counts only where both
verdicts agree; without it the judge gives a score. Answers are cached beside the predictions: the command can be
interrupted and run again. The texts of the predictions are sent to the endpoint; its key is read from the environment.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.answers import Cache, Endpoint, EndpointConfig, LocalModel, Usage
from launch.config import command
from launch.systems import predictions_of, read_systems, rows_of
from launch.verdicts import fill, likert, pairwise, parse_pair, parse_score
from metrics.errors import InputError

PROMPTS = Path(__file__).with_name("prompts")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges what."""

    predictions: str = field(default="???", metadata={"help": "predictions or run folder to judge"})
    against: str = field(default="", metadata={"help": "predictions of another system: pairwise; empty: scores"})
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    model: str = field(default="", metadata={"help": "instead of an endpoint: folder of a local language model"})
    prompt: str = field(default="", metadata={"help": "prompt file; empty: launch/prompts/pairwise.txt or likert.txt"})
    lowest: int = field(default=1, metadata={"help": "lowest score"})
    highest: int = field(default=5, metadata={"help": "highest score"})
    max_tokens: int = field(default=16, metadata={"help": "tokens of an answer"})
    limit: int = field(default=0, metadata={"help": "judge that many records, drawn by seed; 0: all"})
    cache: str = field(default="", metadata={"help": "file of answers; empty: PREDICTIONS.judge.jsonl"})
    price_prompt: float = field(default=0.0, metadata={"help": "price of a million prompt tokens"})
    price_answer: float = field(default=0.0, metadata={"help": "price of a million answer tokens"})
    json: bool = field(default=False, metadata={"help": "print one flat JSON object"})
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples; 0: no intervals"})
    seed: int = field(default=0, metadata={"help": "of the draw of records and the bootstrap"})

    def __post_init__(self) -> None:
        """One judge, a scale, and something to say."""
        if bool(self.endpoint.url) == bool(self.model):
            raise InputError("give one judge: `endpoint.url` with `endpoint.model`, or `model`, a local folder")
        if self.lowest >= self.highest or self.lowest < 0:
            raise InputError(f"lowest={self.lowest} must be below highest={self.highest} and not negative")
        if self.max_tokens < 1 or min(self.limit, self.resamples, self.seed) < 0:
            raise InputError("max_tokens must be at least 1; limit, resamples and seed not negative")


def main(cfg: JudgeConfig) -> None:
    """Asks, counts, prints."""
    usage = Usage()
    with contextlib.redirect_stdout(sys.stderr):  # libraries greet; standard output is for the figures
        judge, template, found = _judged(cfg, usage)
    scores = {"judge": judge.name, "prompt": hashlib.sha256(template.encode()).hexdigest()[:12]} | found
    scores |= _cost(usage, cfg)
    if cfg.json:
        print(json.dumps(scores))
        return
    for line in _lines(scores):
        print(line)


def _judged(cfg: JudgeConfig, usage: Usage) -> tuple[Any, str, dict[str, Any]]:
    entries = [cfg.predictions, *([cfg.against] if cfg.against else [])]
    sides = [rows_of(*seed) for seeds in read_systems(entries).values() for seed in seeds.items()]
    rows, template = _drawn(len(sides[0]), cfg), _template(cfg)
    judge: Any = LocalModel(cfg.model, cfg.max_tokens, usage) if cfg.model else None
    judge = judge or Endpoint(cfg.endpoint, cfg.max_tokens, usage)
    cache = Cache(Path(cfg.cache or f"{predictions_of(cfg.predictions)}.judge.jsonl"))

    def ask(prompts: list[str]) -> list[str]:
        return [answer.text for answer in cache.answers(judge, prompts, _progress)]

    return judge, template, (_pairwise if cfg.against else _likert)(sides, rows, template, ask, cfg)


def _drawn(n: int, cfg: JudgeConfig) -> list[int]:
    if not cfg.limit or cfg.limit >= n:
        return list(range(n))
    return sorted(np.random.default_rng(cfg.seed).choice(n, cfg.limit, replace=False).tolist())


def _template(cfg: JudgeConfig) -> str:
    path = Path(cfg.prompt) if cfg.prompt else PROMPTS / ("pairwise.txt" if cfg.against else "likert.txt")
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt={path} cannot be read ({error}); give a text file.") from None
    needed = ("{first}", "{second}") if cfg.against else ("{explanation}",)
    if absent := [name for name in needed if name not in template]:
        raise InputError(f"prompt={path} has no {absent[0]}: the text to judge must stand in the prompt.")
    return template


def _pairwise(
    sides: list[Rows], rows: list[int], template: str, ask: Callable[[list[str]], list[str]], cfg: JudgeConfig
) -> dict[str, Any]:
    ours, theirs = ([side[row] for row in rows] for side in sides)
    prompts = [
        fill(template, ours[place] | {"first": first[place]["explanation"], "second": second[place]["explanation"]})
        for first, second in ((ours, theirs), (theirs, ours))
        for place in range(len(rows))
    ]
    answers = [parse_pair(text) for text in ask(prompts)]
    return pairwise(answers[: len(rows)], answers[len(rows) :], cfg.resamples, cfg.seed)


def _likert(
    sides: list[Rows], rows: list[int], template: str, ask: Callable[[list[str]], list[str]], cfg: JudgeConfig
) -> dict[str, Any]:
    scale = {"lowest": cfg.lowest, "highest": cfg.highest}
    prompts = [fill(template, sides[0][row] | scale) for row in rows]
    return likert([parse_score(text, cfg.lowest, cfg.highest) for text in ask(prompts)], cfg.resamples, cfg.seed)


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty() or done == of or done % 100 == 0:
        print(f"\rjudged {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def _cost(usage: Usage, cfg: JudgeConfig) -> dict[str, Any]:
    """Requests of this call, answers from the cache, retries with their reasons, tokens and price."""
    price = (usage.prompt_tokens * cfg.price_prompt + usage.answer_tokens * cfg.price_answer) / 1e6
    return {
        "requests": usage.requests,
        "cached": usage.cached,
        "retries": usage.retries,
        "retry_reasons": ", ".join(f"{reason}: {count}" for reason, count in sorted(usage.reasons.items())),
        "prompt_tokens": usage.prompt_tokens,
        "answer_tokens": usage.answer_tokens,
        "cost": round(price, 6),
    }


def _lines(scores: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in scores.items():
        if key.endswith("_ci") or value in (None, "", []):
            continue
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        bounds = scores.get(f"{key}_ci")
        lines.append(f"{key:<20} {text}" + (f"  [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""))
    return lines


if __name__ == "__main__":
    command(main, JudgeConfig, __doc__)
