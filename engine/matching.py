"""Expected things and actual things in any order: which go together, which are left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Compared(Protocol):
    """One field of both sides."""

    @property
    def field(self) -> str: ...

    @property
    def agrees(self) -> bool: ...


E = TypeVar("E")
A = TypeVar("A")
R = TypeVar("R", bound=Compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing(Generic[E, A, R]):
    """What does not go together. Every pair that does is left out."""

    near: tuple[tuple[E, A, list[R]], ...]  # not alike, and likely meant for each other
    missing: tuple[E, ...]
    surplus: tuple[A, ...]


def match_expectations(
    expected: Sequence[E], actual: Sequence[A], compare: Callable[[E, A], list[R]]
) -> Pairing[E, A, R]:
    """Pair as many as go together, then those over the same channel that differ least."""
    rows = {(e, a): compare(one, other) for e, one in enumerate(expected) for a, other in enumerate(actual)}
    fits = {pair for pair, row in rows.items() if all(each.agrees for each in row)}
    # Those that something else is nearly about come last: it will be shown beside them.
    sought = Counter(a for (e, a), row in rows.items() if (e, a) not in fits and _related(row))
    candidates = [
        sorted((a for a in range(len(actual)) if (e, a) in fits), key=lambda a: sought[a])
        for e in range(len(expected))
    ]
    paired = _maximum_matching(candidates)
    left = [e for e in range(len(expected)) if e not in paired]
    over = [a for a in range(len(actual)) if a not in paired.values()]
    near: list[tuple[int, int]] = []
    ranked = sorted(
        ((e, a) for e in left for a in over if _related(rows[e, a])),
        key=lambda pair: -sum(each.agrees for each in rows[pair]),
    )
    for e, a in ranked:
        if e in left and a in over:
            near.append((e, a))
            left.remove(e)
            over.remove(a)
    return Pairing(
        near=tuple((expected[e], actual[a], rows[e, a]) for e, a in sorted(near)),
        missing=tuple(expected[e] for e in left),
        surplus=tuple(actual[a] for a in over),
    )


def _related(rows: Sequence[Compared]) -> bool:
    """Whether two that differ are the same message gone wrong: over the channel that was named."""
    channel = next((row for row in rows if row.field == "channel"), None)
    return channel.agrees if channel else any(row.agrees for row in rows)


def _maximum_matching(candidates: Sequence[Sequence[int]]) -> dict[int, int]:
    """The largest pairing: an entry that names few fields must not take what another one needs."""
    taken: dict[int, int] = {}  # actual -> expected
    for e in range(len(candidates)):
        _augment(e, candidates, taken, set())
    return {e: a for a, e in taken.items()}


def _augment(e: int, candidates: Sequence[Sequence[int]], taken: dict[int, int], seen: set[int]) -> bool:
    """Whether ``e`` got one, others having made way; ``seen`` are those that were asked for already."""
    for a in candidates[e]:
        if a not in seen:
            seen.add(a)
            if a not in taken or _augment(taken[a], candidates, taken, seen):
                taken[a] = e
                return True
    return False
