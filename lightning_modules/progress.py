"""Lines that say how far a long piece of work is, where a terminal's bar is not seen."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger("llm2er")

EVERY = 30.0  # seconds between two lines


class Progress:
    """Counts what is done of a piece of work and says so at most every half minute; work that is short says nothing."""

    def __init__(
        self, what: str, total: float, unit: str = "records", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.total, self.unit, self._clock = what, total, unit, clock
        self.done, self._begin = 0.0, clock()
        self._said = self._begin

    def advance(self, count: float) -> None:
        """`count` more are done."""
        self.done += count
        now = self._clock()
        if now - self._said < EVERY or self.done >= self.total:
            return
        self._said = now
        rate = self.done / (now - self._begin)
        left = duration((self.total - self.done) / rate)
        log.info(
            "%s: %d of %d %s, %s a second, about %s left",
            *(self.what, self.done, self.total, self.unit, count_of(rate), left),
        )


def count_of(number: float) -> str:
    """A number of things as people write it: "1,390", "0.31"."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
