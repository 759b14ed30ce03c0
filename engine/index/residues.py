"""What is left to ask of a rule once it is found: the same tuple of tests wherever the same are left.

A tuple, not one function of several: an event's rules are somewhere else in memory than those of the
event before, and a function with what it refers to is in half a dozen places.
"""

from __future__ import annotations

from .demands import PayloadTest

RemainingTests = tuple[PayloadTest, ...]


class InternedTests:
    """Tuples of tests, each once."""

    def __init__(self) -> None:
        self._known: dict[RemainingTests, RemainingTests] = {}

    def intern(self, tests: RemainingTests) -> RemainingTests:
        return self._known.setdefault(tests, tests)
