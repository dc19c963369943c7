"""Answers of a judge: an OpenAI-compatible endpoint or a local model, behind a cache that survives an interruption."""

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metrics.errors import InputError

LONGEST_PAUSE_S = 60.0
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class Answer(NamedTuple):
    """What the judge said, and the tokens it was charged with (0 where the endpoint does not say)."""

    text: str
    prompt_tokens: int
    answer_tokens: int


@dataclass
class Usage:
    """What judging cost."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # of the retries


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint. The key is read from the environment and never written anywhere."""

    url: str = field(default="", metadata={"help": "base URL, such as http://localhost:8000/v1"})
    model: str = field(default="", metadata={"help": "the model's name at the endpoint"})
    key_variable: str = field(default="OPENAI_API_KEY", metadata={"help": "environment variable that holds the key"})
    parallel: int = field(default=8, metadata={"help": "requests at a time"})
    timeout_s: float = field(default=60.0, metadata={"help": "seconds to wait for an answer"})
    retries: int = field(default=6, metadata={"help": "further tries after 429, 5xx, a timeout or a broken answer"})
    pause_s: float = field(default=1.0, metadata={"help": "first pause between tries; doubles, up to a minute"})

    def __post_init__(self) -> None:
        """An HTTP address with a model, and counts that make sense."""
        if self.url and not self.url.startswith(("http://", "https://")):
            raise InputError(f"endpoint.url={self.url}: give an address that starts with http:// or https://")
        if bool(self.url) != bool(self.model):
            raise InputError("`endpoint.url` and `endpoint.model` belong together; give both")
        if self.parallel < 1 or self.retries < 0 or self.timeout_s <= 0 or self.pause_s < 0:
            raise InputError(
                "endpoint.parallel must be at least 1, retries and pause_s not negative, timeout_s above 0"
            )


class Endpoint:
    """Asks over HTTP, again after what may pass; usage is counted under a lock since several threads ask."""

    def __init__(self, config: EndpointConfig, max_tokens: int, usage: Usage) -> None:
        self.config, self.max_tokens, self.usage = config, max_tokens, usage
        self.name = config.model
        self._lock, self._stop = threading.Lock(), threading.Event()

    def ask(self, prompt: str) -> Answer:
        """The answer to one prompt, at temperature 0. Raises InputError when the tries are used up."""
        pause = self.config.pause_s
        for attempt in range(self.config.retries + 1):
            reason, wait_s = "", pause
            try:
                return self._request(prompt)
            except urllib.error.HTTPError as error:
                body = error.read(500).decode("utf-8", "replace")
                if error.code not in TRANSIENT:
                    raise InputError(
                        f"endpoint.url={self.config.url} refused: HTTP {error.code} ({' '.join(body.split())[:200]}); "
                        f"check endpoint.model and the key in {self.config.key_variable}."
                    ) from None
                reason, wait_s = f"HTTP {error.code}", _retry_after(error, pause)
            except TimeoutError:
                reason = "timeout"
            except (OSError, urllib.error.URLError) as error:
                reason = "timeout" if isinstance(getattr(error, "reason", None), TimeoutError) else "no connection"
            except (ValueError, KeyError, IndexError, TypeError, AttributeError, http.client.HTTPException):
                reason = "broken answer"
            self._count_retry(reason)
            if attempt < self.config.retries:
                time.sleep(min(wait_s, LONGEST_PAUSE_S))
                pause *= 2
        raise InputError(
            f"endpoint.url={self.config.url} gave no answer in {self.config.retries + 1} tries (last: {reason}); what "
            "was answered is kept in the cache: run the command again to go on."
        )

    def _request(self, prompt: str) -> Answer:
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        # the scheme is checked by EndpointConfig
        request = urllib.request.Request(  # noqa: S310
            self.config.url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), headers
        )
        with self._lock:
            self.usage.requests += 1
        with urllib.request.urlopen(request, timeout=self.config.timeout_s) as response:  # noqa: S310
            tree = json.loads(response.read().decode("utf-8"))
        text = tree["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("the answer holds no text")
        used = tree.get("usage") or {}
        return Answer(text, int(used.get("prompt_tokens", 0)), int(used.get("completion_tokens", 0)))

    def _count_retry(self, reason: str) -> None:
        with self._lock:
            self.usage.retries += 1
            self.usage.reasons[reason] = self.usage.reasons.get(reason, 0) + 1

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """(place, answer) of every prompt as they come. The first that fails for good stops the others."""
        with ThreadPoolExecutor(self.config.parallel) as pool:
            futures = {pool.submit(self._ask_unless_stopped, prompt): place for place, prompt in enumerate(prompts)}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                failed = [future for future in done if future.exception() is not None]
                for future in done.difference(failed):
                    if (answer := future.result()) is not None:
                        yield futures[future], answer
                if failed:
                    failed[0].result()

    def _ask_unless_stopped(self, prompt: str) -> Answer | None:
        if self._stop.is_set():
            return None
        try:
            return self.ask(prompt)
        except InputError:
            self._stop.set()
            raise


def _retry_after(error: urllib.error.HTTPError, otherwise: float) -> float:
    """Seconds that the server asks to wait; its other form, a date, is not used for such short pauses."""
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.replace(".", "", 1).isdigit() else otherwise


class LocalModel:
    """Asks a Hugging Face causal language model from a folder, greedily, one prompt at a time."""

    def __init__(self, folder: str, max_tokens: int, usage: Usage) -> None:
        from models.text_scores import load, signature

        self.model, self.tokenizer = load("lm", folder)
        self.name, self.max_tokens, self.usage = signature(folder), max_tokens, usage

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """(place, answer) of every prompt, in order."""
        from models.text_scores import complete

        for place, prompt in enumerate(prompts):
            text, asked, said = complete(self.model, self.tokenizer, prompt, self.max_tokens)
            self.usage.requests += 1
            yield place, Answer(text, asked, said)


class Cache:
    """Answers on disk, one JSON line each, written as they come: an interrupted judge goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, dict[str, Answer]()
        if not path.is_file():
            return
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                self.known[row["key"]] = Answer(row["text"], row["prompt_tokens"], row["answer_tokens"])
            except (ValueError, KeyError, TypeError):
                continue  # a line cut by an interruption: its question is asked again

    def answers(self, judge: Any, prompts: Sequence[str], told: Callable[[int, int], None]) -> list[Answer]:
        """The answer to every prompt, asked of the judge where it is not known; `told(done, of)` as it goes on."""
        keys = [_key(judge.name, judge.max_tokens, prompt) for prompt in prompts]
        asked = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.known}
        judge.usage.cached += len(prompts) - len(asked)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                for done, (place, answer) in enumerate(judge.answers(list(asked.values())), start=1):
                    key = list(asked)[place]
                    self.known[key] = answer
                    judge.usage.prompt_tokens += answer.prompt_tokens
                    judge.usage.answer_tokens += answer.answer_tokens
                    file.write("\n" * (done == 1) + json.dumps({"key": key} | answer._asdict()) + "\n")
                    file.flush()
                    told(done, len(asked))
        except OSError as error:
            raise InputError(f"cache={self.path} cannot be written ({error.strerror}); name another file.") from None
        return [self.known[key] for key in keys]


def _key(name: str, max_tokens: int, prompt: str) -> str:
    return hashlib.sha256(json.dumps([name, max_tokens, prompt]).encode()).hexdigest()
