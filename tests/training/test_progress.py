import io

import pytest

from robopref.errors import ConfigError
from robopref.training import progress
from robopref.training.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    with Progress("fit", 100, stream=stream) as bar:
        for step in range(100):
            clock.now += 0.25
            bar.advance(1, note=f"loss {step}")
    assert stream.getvalue().splitlines() == [
        "fit: 40/100 steps (40 %), 4/s, 15 s left, loss 39",
        "fit: 80/100 steps (80 %), 4/s, 5 s left, loss 79",
        "fit: 100/100 steps (100 %), 4/s, loss 99",
    ]


def test_steps_done_before_count_as_done_but_not_towards_the_speed(clock):
    bar = Progress("fit", 1000, done=900, stream=io.StringIO())
    clock.now += 10
    bar.advance(50)
    assert bar.line() == "fit: 950/1000 steps (95 %), 5/s, 10 s left"


def test_a_note_stays_until_the_next_one(clock):
    bar = Progress("fit", 10, stream=io.StringIO())
    bar.advance(1, note="loss 3")
    bar.advance(1)
    assert bar.line().endswith("loss 3")


def test_long_times_are_told_in_minutes_and_hours(clock):
    bar = Progress("fit", 1001, stream=io.StringIO())
    clock.now += 1
    bar.advance(1)
    assert "17 min left" in bar.line()
    clock.now += 99
    assert "27.8 h left" in bar.line()


def test_a_terminal_gets_a_bar_with_the_note():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress("fit", 2, stream=stream) as bar:
        bar.advance(2, note="loss 0.25")
    assert "fit" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "loss 0.25" in stream.getvalue()


def test_nothing_to_do_prints_nothing():
    stream = io.StringIO()
    with Progress("fit", 5, done=5, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_more_done_than_there_is_is_refused():
    with pytest.raises(ConfigError, match=r"done must lie in 0\.\.5, got 6"):
        Progress("fit", 5, done=6)
