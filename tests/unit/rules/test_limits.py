"""What is left alone, and how much may go out: the pure halves."""

from __future__ import annotations

import pytest

from engine.channels.circuit_breaker import BreakerState, CircuitBreaker
from engine.model.times import parse_count_per, parse_rate
from engine.rules.rulebook import Budget

HOUR = 3_600_000_000  # microseconds


def broken(breaker: CircuitBreaker, now: float = 0.0) -> None:
    for _ in range(5):
        assert breaker.wait(now) == 0.0
        breaker.record_failure(now)


def test_a_few_failures_change_nothing() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(0.0)
    assert breaker.wait(0.0) == 0.0
    breaker.record_success()
    for _ in range(4):
        breaker.record_failure(0.0)
    assert not breaker.is_open


def test_what_fails_steadily_is_probed_by_one_at_growing_intervals() -> None:
    breaker = CircuitBreaker(first=2.0, longest=10.0)
    broken(breaker)
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(breaker.wait(now))
        now += waits[-1]
        assert breaker.wait(now) == 0.0  # the probe
        assert breaker.wait(now) == 10.0  # everybody else
        breaker.record_failure(now)
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_what_was_begun_before_does_not_make_the_wait_longer() -> None:
    breaker = CircuitBreaker(first=2.0, longest=60.0)
    assert [breaker.wait(0.0) for _ in range(32)] == [0.0] * 32
    for _ in range(32):
        breaker.record_failure(0.5)
    assert breaker.wait(0.5) == 2.0


def test_a_probe_that_succeeds_lets_everybody_in() -> None:
    breaker = CircuitBreaker()
    broken(breaker)
    assert breaker.wait(5.0) == 0.0
    breaker.record_success()
    assert [breaker.wait(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_breaker_is_closed_then_open_then_half_open_until_a_probe_succeeds() -> None:
    breaker = CircuitBreaker(first=2.0, longest=60.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    broken(breaker)
    assert [breaker.state(now) for now in (0.0, 1.9)] == [BreakerState.OPEN] * 2
    assert breaker.state(2.0) is BreakerState.HALF_OPEN
    assert breaker.wait(2.0) == 0.0
    assert breaker.state(2.1) is BreakerState.HALF_OPEN  # the probe is out
    breaker.record_failure(2.2)
    assert breaker.state(2.3) is BreakerState.OPEN
    assert breaker.wait(100.0) == 0.0
    breaker.record_success()
    assert breaker.state(100.0) is BreakerState.CLOSED


def test_what_asks_for_a_pause_gets_it_within_reason() -> None:
    breaker = CircuitBreaker(first=2.0, longest=60.0)
    broken(breaker)
    breaker.wait(100.0)
    breaker.record_failure(100.0, asked=30.0)
    assert breaker.wait(100.0) == 30.0
    breaker.wait(130.0)
    breaker.record_failure(130.0, asked=86400.0)
    assert breaker.wait(130.0) == 60.0


def test_a_probe_that_is_never_heard_of_again_does_not_close_the_way_for_ever() -> None:
    breaker = CircuitBreaker(longest=60.0)
    broken(breaker)
    assert breaker.wait(10.0) == 0.0
    assert breaker.wait(70.0) == 0.0


def test_windows_of_a_budget_begin_at_multiples_of_their_length() -> None:
    budget = Budget(limit=5, per=3600.0)
    assert [budget.begins(now) for now in (0, HOUR - 1, HOUR)] == [0, 0, HOUR]
    assert budget.ends(HOUR - 1) == HOUR


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10/s", (10, 1.0)), ("100/m", (100, 60.0)), ("5/2h", (5, 7200.0)), ("1/500ms", (1, 0.5))],
)
def test_rates(text: str, expected: tuple[int, float]) -> None:
    assert parse_count_per(text) == expected
    assert parse_rate(text) == expected[0] / expected[1]


@pytest.mark.parametrize(
    "text", ["", "10", "10/", "/s", "0/s", "-1/s", "1.5/s", "10/x", "10/0s", "10/s/s", "١/s", 5]
)
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)  # type: ignore[arg-type]
