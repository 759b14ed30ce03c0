"""Dead letters: headers, filters, how each is redriven, and its payload with secrets masked.

A delivery goes back to its channel under its own id. An event goes back to its subject; headers name the
dead letter and, where only one delivery could not be stored, that delivery. These headers are written and
read here.

A delivery names its secrets. For an event, the dead letter names the sensitive fields, so that it can be
read without the policy.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, quote_plus

from msgspec import structs

from ..broker.codec import _CHANNEL, _DELIVERY, _LETTER, _RECEIVED, _REVIVED, _RULE, Redrive, decode_delivery
from ..model.errors import NotRedrivable, UndecodableError
from ..model.masking import MASK, longest_first, masked
from ..model.messages import Delivery, Failure, Kind, RedriveId, Suppressed
from ..planning.planner import Plan

MAX_HEADER_LENGTH = 500  # characters
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")

SENSITIVE = "sensitive"  # the name of the header that lists fields, to ``Letter.said``
_EVERYTHING = "*"


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


def sensitive_header(paths: tuple[tuple[str, ...], ...]) -> str:
    """What a letter's header says of an event's sensitive fields; "" where there are none."""
    text = json.dumps(paths) if paths else ""
    return text if len(text) <= MAX_HEADER_LENGTH and text.isascii() and "  " not in text else _EVERYTHING


def masked_payload(letter: DeadLetter, payload: bytes) -> Any:
    """The payload for people and programs: JSON data, or words on why it cannot be shown."""
    return _event(letter, payload) if letter.is_event else _delivery(payload)


def _delivery(payload: bytes) -> Any:
    try:
        delivery = decode_delivery(payload)
    except UndecodableError as error:
        return f"(not shown: {len(payload)} bytes that cannot be read as a delivery: {error})"
    return masked(_fields(delivery), _spellings(delivery.secrets))


def _fields(delivery: Delivery) -> dict[str, Any]:
    message = delivery.message
    return {
        "id": delivery.id,
        "event": f"{delivery.kind}.{delivery.key}" if delivery.key else str(Kind(delivery.kind)),
        "reqid": delivery.reqid,
        "rule": delivery.rule,
        "revision": delivery.revision,
        "channel": delivery.channel,
        "user": delivery.user,
        "to": list(delivery.to),
        "locale": delivery.locale,
        "severity": str(delivery.severity),
        "title": message.title,
        "text": message.text,
        "html": message.html,
        "pictures": [picture.name for picture in message.inline],
        "payload": delivery.payload,
        "failed_channels": list(delivery.fell_back_from.channels) if delivery.fell_back_from else [],
        "fallbacks": [{"channel": each.channel, "to": list(each.to)} for each in delivery.fallbacks],
    }


def _event(letter: DeadLetter, payload: bytes) -> Any:
    listed = letter.header(SENSITIVE)
    try:
        message = json.loads(payload.decode(errors="replace"), object_pairs_hook=_Fields)
        paths = json.loads(listed) if listed and listed != _EVERYTHING else []
    except (ValueError, RecursionError) as error:
        if listed:
            return f"(not shown: {len(payload)} bytes that are no JSON ({error}), of an event with secrets)"
        return payload.decode(errors="replace")
    if listed == _EVERYTHING:
        return f"(not shown: {len(payload)} bytes of an event whose secrets are too many to list)"
    payloads = list(_payloads(message))
    found = (value for path in paths for payload in payloads for value in _at(payload, path))
    secrets = [text for value in found for text in _texts(value)]
    return _plain(message, _spellings(tuple(secrets)))


def _payloads(message: Any) -> Iterator[Any]:
    """That of the event; of a digest those of all events that it tells of."""
    yield from _at(message, ("payload",))
    for events in _at(message, ("batch", "events")):
        for event in events if isinstance(events, list) else ():
            yield from _at(event, ("payload",))


class _Fields(list[tuple[str, Any]]):
    """An object as it is written: a key may come twice, in two spellings, and each value is a secret."""


def _at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Everything that ``path`` leads to, without regard to case, as the sender's programs read it."""
    if not path:
        yield value
    elif isinstance(value, _Fields):
        for key, inside in value:
            if key.lower() == str(path[0]).lower():
                yield from _at(inside, path[1:])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, _Fields):
        for _, inside in value:
            yield from _texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)
    elif value is not None and not isinstance(value, bool) and str(value):
        yield str(value)


def _plain(value: Any, secrets: tuple[str, ...]) -> Any:
    """``value`` with mappings for objects; what is sensitive is masked however short it is."""
    if isinstance(value, _Fields):
        return {key: _plain(inside, secrets) for key, inside in value}
    if isinstance(value, list):
        return [_plain(inside, secrets) for inside in value]
    if isinstance(value, Mapping) or value is None or isinstance(value, bool):
        return value
    return MASK if str(value) in secrets else masked(value, tuple(s for s in secrets if len(s) >= 4))


def _spellings(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets as they stand in texts, in HTML and in links, the longest first."""
    spelled = {
        spelling
        for secret in secrets
        for spelling in (secret, html.escape(secret), html.escape(secret, quote=False), quote(secret),
                         quote(secret, safe=""), quote_plus(secret))
    }  # fmt: skip
    return longest_first(spelled)
