"""The parts of a rulebook that compute something."""

from __future__ import annotations

from engine.rules.rulebook import Budget

HOUR = 3_600_000_000  # microseconds


def test_windows_of_a_budget_begin_at_multiples_of_their_length() -> None:
    budget = Budget(limit=5, per=3600.0)
    assert [budget.begins(now) for now in (0, HOUR - 1, HOUR)] == [0, 0, HOUR]
    assert budget.ends(HOUR - 1) == HOUR
