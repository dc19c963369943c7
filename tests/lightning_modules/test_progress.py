"""A long piece of work says every half minute how far it is."""

import logging

import pytest

from lightning_modules.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_half_minute_with_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm2er")
    clock = Clock()
    progress = Progress("explanation: epoch 1 of 2", 1000, clock=clock)
    for _ in range(20):  # 50 records in 10 seconds, twenty times
        clock.now += 10
        progress.advance(50)
    # After 30 s: 150 records, 5 a second, 850 left at 5 a second.
    assert caplog.messages[0] == "explanation: epoch 1 of 2: 150 of 1000 records, 5 a second, about 3 min left"
    assert len(caplog.messages) == 6  # after 30, 60, ... 180 s; at 200 s all is done


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm2er")
    clock = Clock()
    progress = Progress("ccr", 10, clock=clock)
    clock.now += 29
    progress.advance(9)
    clock.now += 29
    progress.advance(1)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (5940, "99 min"), (9000, "2.5 h")]
)
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
