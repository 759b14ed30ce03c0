"""Dead letters: what each says of itself, which ones are meant, and what one becomes that is brought back.

A delivery goes back to its channel under its own id. An event goes back to the subject it came from;
headers tell the intake which letter it was and, where one delivery of it could not be written, to plan
that one alone. These headers are written and read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import structs

from .codec import decode_delivery
from .errors import NotRedrivable, UndecodableError
from .model import Delivery, Failure, Kind, RedriveId, Suppressed
from .plan import Plan

MAX_HEADER_LENGTH = 500  # characters
_LETTER, _REVIVED, _RECEIVED = "Mss-Dead-Letter", "Mss-Redriven-At", "Mss-Received"
_RULE, _CHANNEL, _DELIVERY = "Mss-Rule", "Mss-Channel", "Mss-Delivery"
_LETTER_ID = re.compile(r"[0-9]+-[0-9]+", re.ASCII)
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """What the broker tells of one dead letter, without its payload."""

    sequence: int  # in the stream of dead letters
    at: int  # when it was given up, microseconds since the epoch
    kind: Kind
    reason: str
    headers: Mapping[str, str]
    size: int  # bytes of the payload

    @property
    def id(self) -> str:
        """No other letter has it, even if the stream is made anew and counts from 1."""
        return f"{self.sequence}-{self.at}"

    @property
    def is_event(self) -> bool:
        """Whether it holds an event; else a delivery."""
        return "Mss-Subject" in self.headers

    @property
    def event(self) -> str:
        """The subject that the event came from; "" for a delivery."""
        return self.headers.get("Mss-Subject", "")

    @property
    def delivery(self) -> str:
        """The id of the delivery, written or not; "" where an event as a whole was given up."""
        return self.headers.get(_DELIVERY, "")

    @property
    def attempts(self) -> int:
        text = self.headers.get("Mss-Attempts", "")
        return int(text) if text.isdecimal() else 0

    @property
    def received(self) -> int:
        """When the broker took the event, microseconds since the epoch."""
        text = self.headers.get(_RECEIVED, "")
        return int(text) if text.isdecimal() else self.at

    @property
    def is_truncated(self) -> bool:
        return "Mss-Truncated" in self.headers

    def header(self, name: str) -> str:
        """One of its headers, for people: ``detail``, ``rule``, ``channel``, ``reqid``, ``revision``."""
        return readable(self.headers.get(f"Mss-{name.title()}", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which letters are meant: those that agree with all that is said."""

    kind: Kind | None = None
    reason: str = ""
    rule: str = ""
    channel: str = ""
    reqid: str = ""
    delivery: str = ""
    since: int = 0  # microseconds since the epoch

    def matches(self, letter: DeadLetter) -> bool:
        named = {"Rule": self.rule, "Channel": self.channel, "Reqid": self.reqid, "Delivery": self.delivery}
        return (
            self.kind in (None, letter.kind)
            and self.reason in ("", letter.reason)
            and letter.at >= self.since
            and all(
                letter.headers.get(f"Mss-{name}") == header_value(value)
                for name, value in named.items()
                if value
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRedrive:
    """An event to be published again, as it was."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """What the headers of an event say that was a dead letter."""

    id: RedriveId
    received: int  # when the broker took it first, microseconds since the epoch
    rule: str = ""  # as in the header; with it, only what this rule
    channel: str = ""  # tells over this channel is planned,
    delivery: str = ""  # and of that this delivery alone, where it is still planned

    @property
    def is_partial(self) -> bool:
        """Whether the rest of the event was planned before."""
        return bool(self.rule)


def dead_letter_of(
    subject: str, headers: Mapping[str, str], *, sequence: int, at: int, size: int
) -> DeadLetter:
    """The letter that lies on ``subject``, which ends with its kind and its reason."""
    *_, kind, reason = subject.split(".")
    return DeadLetter(sequence=sequence, at=at, kind=Kind(kind), reason=reason, headers=headers, size=size)


def redrive_message(letter: DeadLetter, payload: bytes, *, at: int) -> Delivery | EventRedrive:
    """What ``letter`` becomes when it is brought back. Raises StaysDead with the reason."""
    if letter.is_truncated:
        raise NotRedrivable("only its beginning was kept: it was larger than the broker takes with headers")
    revival = RedriveId(letter=letter.id, at=at)
    if letter.is_event:
        headers = {_LETTER: letter.id, _REVIVED: str(at), _RECEIVED: str(letter.received)}
        if _RULE in letter.headers:  # the rest of its deliveries were stored
            headers |= {name: letter.headers.get(name, "") for name in (_RULE, _CHANNEL, _DELIVERY)}
        return EventRedrive(subject=letter.event, payload=payload, headers=headers)
    try:
        delivery = decode_delivery(payload)
    except UndecodableError as error:
        raise NotRedrivable(f"it cannot be read as a delivery: {error}") from error
    return structs.replace(delivery, redrive=revival)


def redrive_of(headers: Mapping[str, str] | None) -> Redrive | None:
    """What the headers of an event say of its earlier death; None of an event that comes for the first time.

    Anybody who may publish the event may write them: what they say can only take away from it.
    """
    if not headers or _LETTER not in headers:
        return None
    letter, at, received = (headers.get(name, "") for name in (_LETTER, _REVIVED, _RECEIVED))
    if not (_LETTER_ID.fullmatch(letter) and _is_time(at) and _is_time(received)):
        return None
    return Redrive(
        id=RedriveId(letter=letter, at=int(at)),
        received=int(received),
        rule=headers.get(_RULE, ""),
        channel=headers.get(_CHANNEL, ""),
        delivery=headers.get(_DELIVERY, ""),
    )


def only_redriven(plan: Plan, again: Redrive) -> Plan:
    """Of ``plan`` what ``again`` asks for, known as brought back."""
    if again.is_partial:
        plan = _part_of(plan, again)
    return replace(
        plan,
        deliveries=tuple(structs.replace(each, redrive=again.id) for each in plan.deliveries),
        redrive=again.id,
    )


def _part_of(plan: Plan, again: Redrive) -> Plan:
    def asked(each: Delivery | Failure | Suppressed) -> bool:
        return (header_value(each.rule), header_value(each.channel)) == (again.rule, again.channel)

    deliveries = tuple(filter(asked, plan.deliveries))
    failures = tuple(filter(asked, plan.failures))
    same = tuple(each for each in deliveries if each.id == again.delivery)
    failed = tuple(each for each in failures if each.delivery == again.delivery)
    if same or failed:
        # Its siblings, for other addresses of the same entry, were written the first time.
        deliveries, failures = same, failed
    return replace(
        plan,
        matches=tuple(match for match in plan.matches if header_value(match.rule.id) == again.rule),
        deliveries=deliveries,
        suppressed=tuple(filter(asked, plan.suppressed)),
        failures=failures,
    )


def header_value(text: str) -> str:
    """``text`` as the value of a header: ASCII, without line breaks, of bounded length."""
    return " ".join(text.split())[:MAX_HEADER_LENGTH].encode("ascii", "backslashreplace").decode()


def readable(value: str) -> str:
    """The text that ``header_value`` was made of, as far as it can be told."""

    def character(found: re.Match[str]) -> str:
        code = int(found[1] or found[2] or found[3], 16)
        # What is below was written by somebody else: nothing of it is escaped by us.
        is_ours = 0x80 <= code < 0xD800 or 0xE000 <= code < 0x110000
        return chr(code) if is_ours else found[0]

    return _ESCAPED.sub(character, value)


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
