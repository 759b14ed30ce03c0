"""The circuit breaker pauses a channel that fails, and tries it with single sends."""

from __future__ import annotations

from engine.channels.circuit_breaker import BreakerState, CircuitBreaker


def broken(breaker: CircuitBreaker, now: float = 0.0) -> None:
    for _ in range(5):
        assert breaker.wait(now) == 0.0
        breaker.record_failure(now)


def test_a_few_failures_do_not_open_the_breaker() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(0.0)
    assert breaker.wait(0.0) == 0.0
    breaker.record_success()
    for _ in range(4):
        breaker.record_failure(0.0)
    assert not breaker.is_open


def test_an_open_breaker_lets_one_probe_through_at_growing_intervals() -> None:
    breaker = CircuitBreaker(first=2.0, longest=10.0)
    broken(breaker)
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(breaker.wait(now))
        now += waits[-1]
        assert breaker.wait(now) == 0.0  # the probe
        assert breaker.wait(now) == 10.0  # every other send
        breaker.record_failure(now)
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_failures_of_earlier_sends_do_not_make_the_wait_longer() -> None:
    breaker = CircuitBreaker(first=2.0, longest=60.0)
    assert [breaker.wait(0.0) for _ in range(32)] == [0.0] * 32
    for _ in range(32):
        breaker.record_failure(0.5)
    assert breaker.wait(0.5) == 2.0


def test_a_successful_probe_closes_the_breaker() -> None:
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
    assert breaker.state(2.1) is BreakerState.HALF_OPEN  # the probe is in flight
    breaker.record_failure(2.2)
    assert breaker.state(2.3) is BreakerState.OPEN
    assert breaker.wait(100.0) == 0.0
    breaker.record_success()
    assert breaker.state(100.0) is BreakerState.CLOSED


def test_a_requested_pause_is_respected_up_to_the_maximum() -> None:
    breaker = CircuitBreaker(first=2.0, longest=60.0)
    broken(breaker)
    breaker.wait(100.0)
    breaker.record_failure(100.0, retry_after=30.0)
    assert breaker.wait(100.0) == 30.0
    breaker.wait(130.0)
    breaker.record_failure(130.0, retry_after=86400.0)
    assert breaker.wait(130.0) == 60.0


def test_after_a_lost_probe_another_one_follows() -> None:
    breaker = CircuitBreaker(longest=60.0)
    broken(breaker)
    assert breaker.wait(10.0) == 0.0
    assert breaker.wait(70.0) == 0.0
