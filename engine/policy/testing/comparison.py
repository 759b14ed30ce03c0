"""Compare expected with actual messages: pair them in any order, then compare field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Generic, TypeVar

from ...model.addresses import usable_address
from ...model.messages import Delivery, Suppressed
from ...model.times import from_micros
from ...model.wording import shorten
from ...planning.requests import ActionResponse
from ...rules.rulebook import Rulebook
from ...templates import library
from ...templates.library import as_text

_MAX_TEXT_LENGTH = 300  # characters of a message in a comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldComparison:
    """One field of both sides; "" if a side has none."""

    field: str
    expected: str
    actual: str
    agrees: bool


def compare_delivery(
    rulebook: Rulebook, wanted: Mapping[str, Any], delivery: Delivery
) -> list[FieldComparison]:
    """Compare each field that the test names."""
    return [_FIELDS[name](rulebook, want, delivery) for name, want in wanted.items()]


def compare_suppressed(wanted: Mapping[str, Any], suppressed: Suppressed) -> list[FieldComparison]:
    """Compare each field that the test names."""
    return [_row(name, want, getattr(suppressed, name)) for name, want in wanted.items()]


def compare_reply(wanted: Mapping[str, Any], response: ActionResponse) -> list[FieldComparison]:
    """Compare each field that the test names."""
    actual = {"code": str(response.code), "message": response.message}
    return [_row(name, str(want), actual[name]) for name, want in wanted.items()]


def align(wanted: Sequence[str], actual: Sequence[str]) -> Iterator[FieldComparison]:
    """Yield both lists side by side, with equal entries on one line."""
    matcher = SequenceMatcher(a=wanted, b=actual, autojunk=False)
    for operation, a1, a2, b1, b2 in matcher.get_opcodes():
        for left, right in zip_longest(wanted[a1:a2], actual[b1:b2], fillvalue=""):
            yield FieldComparison(field="rule", expected=left, actual=right, agrees=operation == "equal")


def only_expected(wanted: Mapping[str, Any]) -> tuple[FieldComparison, ...]:
    """Return the fields of an expectation without a message."""
    return tuple(
        FieldComparison(field=name, expected=_text(want), actual="", agrees=False)
        for name, want in wanted.items()
    )


def only_actual(found: Delivery | Suppressed) -> tuple[FieldComparison, ...]:
    """Return the fields of a message that no expectation names."""
    if isinstance(found, Delivery):
        seen = _seen(found)
    else:
        seen = {"rule": found.rule, "channel": found.channel, "reason": found.reason}
    return tuple(_row(name, "", value) for name, value in seen.items() if value)


def _row(name: str, wanted: Any, actual: str) -> FieldComparison:
    return FieldComparison(field=name, expected=_text(wanted), actual=actual, agrees=wanted == actual)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _seen(delivery: Delivery) -> dict[str, str]:
    """Return the fields of a delivery, by the names that tests use."""
    return {
        "channel": delivery.channel,
        "rule": delivery.rule,
        "to": ", ".join(delivery.to),
        "locale": delivery.locale,
        "title": delivery.message.title,
        "contains": shorten(delivery.message.text, _MAX_TEXT_LENGTH),
    }


def _plain(name: str) -> Callable[[Rulebook, Any, Delivery], FieldComparison]:
    return lambda _, wanted, delivery: _row(name, wanted, _seen(delivery)[name])


def _locale(_: Rulebook, wanted: Any, delivery: Delivery) -> FieldComparison:
    agrees = library.normalise_locale(wanted) == library.normalise_locale(delivery.locale)
    return FieldComparison(field="locale", expected=wanted, actual=delivery.locale, agrees=agrees)


def _to(rulebook: Rulebook, wanted: Any, delivery: Delivery) -> FieldComparison:
    kind = rulebook.channels[delivery.channel].address
    given = wanted if isinstance(wanted, list) else [wanted]
    addresses = [usable_address(kind, text) or text if kind else text for text in given]
    actual = ", ".join(delivery.to)
    agrees = addresses == list(delivery.to)
    return FieldComparison(field="to", expected=_text(wanted), actual=actual, agrees=agrees)


def _title(_: Rulebook, wanted: Any, delivery: Delivery) -> FieldComparison:
    title = delivery.message.title
    agrees = _folded(wanted) == _folded(title)
    return FieldComparison(field="title", expected=wanted, actual=title, agrees=agrees)


def _contains(_: Rulebook, wanted: Any, delivery: Delivery) -> FieldComparison:
    """Each text must be in the title, or in every part of the body: a recipient sees only one part."""
    message = delivery.message
    parts = {"text": message.text.strip(), "HTML": as_text(message.html)}
    parts = {name: part for name, part in parts.items() if part}
    for text in wanted if isinstance(wanted, list) else [wanted]:
        if _folded(text) in _folded(message.title):
            continue
        without = [name for name, part in parts.items() if _folded(text) not in _folded(part)]
        if without or not parts:
            actual = shorten(next((parts[name] for name in without), ""), _MAX_TEXT_LENGTH)
            note = f"(the {' and the '.join(without)} without it)\n" if without and len(parts) > 1 else ""
            return FieldComparison(field="contains", expected=text, actual=note + actual, agrees=False)
    return FieldComparison(field="contains", expected=_text(wanted), actual="(has it)", agrees=True)


def _folded(text: str) -> str:
    """Return ``text`` with single spaces: white space depends on the layout."""
    return " ".join(text.split())


def _at(_: Rulebook, wanted: Any, delivery: Delivery) -> FieldComparison:
    """Compare the time of the send, to the second, in the UTC offset of the test."""
    expected = datetime.fromisoformat(wanted.strip().upper())
    actual = from_micros(max(delivery.created, delivery.not_before))
    actual = actual.astimezone(expected.tzinfo).replace(microsecond=0)
    agrees = actual == expected.replace(microsecond=0)
    return FieldComparison(field="at", expected=wanted, actual=actual.isoformat(), agrees=agrees)


_FIELDS: Mapping[str, Callable[[Rulebook, Any, Delivery], FieldComparison]] = {
    "channel": _plain("channel"),
    "rule": _plain("rule"),
    "to": _to,
    "locale": _locale,
    "title": _title,
    "contains": _contains,
    "at": _at,
}


E = TypeVar("E")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing(Generic[E, A]):
    """The expected and the actual messages that do not agree."""

    near: tuple[tuple[E, A, list[FieldComparison]], ...]  # pairs that differ, likely meant for each other
    missing: tuple[E, ...]
    surplus: tuple[A, ...]


def match_expectations(
    expected: Sequence[E], actual: Sequence[A], compare: Callable[[E, A], list[FieldComparison]]
) -> Pairing[E, A]:
    """Pair as many as agree, then those over the same channel that differ least."""
    rows = {(e, a): compare(one, other) for e, one in enumerate(expected) for a, other in enumerate(actual)}
    fits = {pair for pair, row in rows.items() if all(each.agrees for each in row)}
    # A message that nearly fits another expectation comes last: it will be shown with that one.
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


def _related(rows: Sequence[FieldComparison]) -> bool:
    """Return whether a pair that differs is likely one message: it has the expected channel."""
    channel = next((row for row in rows if row.field == "channel"), None)
    return channel.agrees if channel else any(row.agrees for row in rows)


def _maximum_matching(candidates: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return the largest pairing: an expectation with few fields must not take the message of another one."""
    taken: dict[int, int] = {}  # actual -> expected
    for e in range(len(candidates)):
        _augment(e, candidates, taken, set())
    return {e: a for a, e in taken.items()}


def _augment(e: int, candidates: Sequence[Sequence[int]], taken: dict[int, int], seen: set[int]) -> bool:
    """Pair ``e``, and move other pairs if needed. Returns whether that worked; ``seen`` are those tried."""
    for a in candidates[e]:
        if a not in seen:
            seen.add(a)
            if a not in taken or _augment(taken[a], candidates, taken, seen):
                taken[a] = e
                return True
    return False
