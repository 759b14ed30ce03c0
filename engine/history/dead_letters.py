"""Dead letters: their messages on the broker, filters, the messages that redrive them, and masked payloads.

A redriven delivery returns to its channel with the same id. A redriven event returns to its subject. If
only one delivery of the event failed, headers name that delivery.

A delivery lists its secrets. The dead letter of an event lists the sensitive fields instead, so the payload
can be masked without the policy.
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

from ..broker import OutgoingMessage, Topology
from ..broker.codec import Redrive, decode_delivery, redrive_headers
from ..broker.reader import StoredMessage
from ..model.errors import NotRedrivable, UndecodableError
from ..model.masking import MASK, longest_first, maskable, masked
from ..model.messages import Delivery, Failure, Kind, RedriveId, Suppressed
from ..planning.planner import Plan

MAX_HEADER_LENGTH = 500  # characters
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_ALL_SENSITIVE = "*"

# Fields of a dead letter that are headers, for example `Mss-Reqid`.
_TEXTS = (
    "detail", "subject", "reqid", "rule", "channel", "delivery", "revision", "chain", "sensitive",
)  # fmt: skip
_NUMBERS = ("attempts", "received", "truncated")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event or a delivery that MSS gave up, without its payload."""

    kind: Kind
    reason: str  # one token, for example refused or render-failed
    detail: str = ""  # secrets are masked
    subject: str = ""  # of the event; "" for a delivery
    reqid: str = ""
    rule: str = ""
    channel: str = ""
    delivery: str = ""  # id, also of a delivery that was never rendered; "" for a whole event
    revision: str = ""
    chain: str = ""  # channels that were tried, at the end of a fallback chain
    sensitive: str = ""  # fields of the event, see `sensitive_header`
    attempts: int = 0
    received: int = 0  # when the broker received the event, microseconds since the epoch
    truncated: int = 0  # original size in bytes, if only the beginning of the payload was stored
    # Set by the broker.
    sequence: int = 0  # in the stream of dead letters
    at: int = 0  # when it was stored, microseconds since the epoch
    size: int = 0  # bytes of the stored payload

    @classmethod
    def from_message(cls, stored: StoredMessage) -> DeadLetter:
        """Parse a stored dead letter. Its subject ends with the kind and the reason."""
        headers = stored.headers
        *_, kind, reason = stored.subject.split(".")
        values: dict[str, Any] = {name: readable(headers.get(_header(name), "")) for name in _TEXTS}
        for name in _NUMBERS:
            text = headers.get(_header(name), "")
            values[name] = int(text) if text.isdecimal() else 0
        values["received"] = values["received"] or stored.at
        values |= {"sequence": stored.sequence, "at": stored.at, "size": stored.size}
        return cls(kind=Kind(kind), reason=reason, **values)

    def to_message(
        self, topology: Topology, payload: bytes, *, id_: str, max_payload: int
    ) -> OutgoingMessage:
        """Build the message to store. A payload of more than ``max_payload`` bytes is truncated."""
        dead_letter, room = self, max(0, max_payload)
        if len(payload) > room:
            dead_letter, payload = replace(self, truncated=len(payload)), payload[:room]
        values = {name: getattr(dead_letter, name) for name in ("reason", *_TEXTS, *_NUMBERS)}
        return OutgoingMessage(
            subject=topology.dead_subject(self.kind, self.reason),
            payload=payload,
            id=f"dead.{id_}",
            headers={_header(name): header_value(str(value)) for name, value in values.items() if value},
        )

    @property
    def id(self) -> str:
        """An id that stays unique if the stream is created again and counts from 1."""
        return f"{self.sequence}-{self.at}"

    @property
    def is_event(self) -> bool:
        """True if the payload is an event; otherwise it is a delivery."""
        return bool(self.subject)


def _header(name: str) -> str:
    return f"Mss-{name.title()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Conditions on dead letters. A field that is not set matches all."""

    kind: Kind | None = None
    reason: str = ""
    rule: str = ""
    channel: str = ""
    reqid: str = ""
    delivery: str = ""
    since: int = 0  # microseconds since the epoch

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Return whether ``dead_letter`` meets all conditions. Texts are compared as they are in headers."""
        return (
            self.kind in (None, dead_letter.kind)
            and self.reason in ("", dead_letter.reason)
            and dead_letter.at >= self.since
            and all(
                header_value(getattr(dead_letter, name)) == header_value(wanted)
                for name in ("rule", "channel", "reqid", "delivery")
                if (wanted := getattr(self, name))
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRedrive:
    """An event to publish again, unchanged, with headers that name its dead letter."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]


def redrive_message(dead_letter: DeadLetter, payload: bytes, *, at: int) -> Delivery | EventRedrive:
    """Return the delivery or event to publish for ``dead_letter``. Raises NotRedrivable with the reason."""
    if dead_letter.truncated:
        raise NotRedrivable("only its beginning was kept: with headers, it is too large for the broker")
    redrive_id = RedriveId(dead_letter=dead_letter.id, at=at)
    if dead_letter.is_event:
        redrive = Redrive(
            id=redrive_id,
            received=dead_letter.received,
            # If there is a rule, only this delivery failed: the others of the event were stored.
            rule=header_value(dead_letter.rule),
            channel=header_value(dead_letter.channel),
            delivery=header_value(dead_letter.delivery),
        )
        return EventRedrive(subject=dead_letter.subject, payload=payload, headers=redrive_headers(redrive))
    try:
        delivery = decode_delivery(payload)
    except UndecodableError as error:
        raise NotRedrivable(f"it cannot be read as a delivery: {error}") from error
    return structs.replace(delivery, redrive=redrive_id)


def only_redriven(plan: Plan, redrive: Redrive) -> Plan:
    """Return the part of ``plan`` that ``redrive`` selects, marked as redriven."""
    if redrive.is_partial:
        plan = _part_of(plan, redrive)
    return replace(
        plan,
        deliveries=tuple(structs.replace(each, redrive=redrive.id) for each in plan.deliveries),
        redrive=redrive.id,
    )


def _part_of(plan: Plan, redrive: Redrive) -> Plan:
    def is_selected(each: Delivery | Failure | Suppressed) -> bool:
        return (header_value(each.rule), header_value(each.channel)) == (redrive.rule, redrive.channel)

    deliveries = tuple(filter(is_selected, plan.deliveries))
    failures = tuple(filter(is_selected, plan.failures))
    same = tuple(each for each in deliveries if each.id == redrive.delivery)
    failed = tuple(each for each in failures if each.delivery == redrive.delivery)
    if same or failed:
        # The other deliveries of the entry, to other addresses, were stored the first time.
        deliveries, failures = same, failed
    return replace(
        plan,
        matches=tuple(match for match in plan.matches if header_value(match.rule.id) == redrive.rule),
        deliveries=deliveries,
        suppressed=tuple(filter(is_selected, plan.suppressed)),
        failures=failures,
    )


def header_value(text: str) -> str:
    """Encode ``text`` as a header value: ASCII, one line, of bounded length."""
    return " ".join(text.split())[:MAX_HEADER_LENGTH].encode("ascii", "backslashreplace").decode()


def readable(value: str) -> str:
    """Decode a header value, as far as ``header_value`` can be reversed."""

    def character(found: re.Match[str]) -> str:
        code = int(found[1] or found[2] or found[3], 16)
        # `header_value` escapes no other code point: such an escape was in the original text.
        is_ours = 0x80 <= code < 0xD800 or 0xE000 <= code < 0x110000
        return chr(code) if is_ours else found[0]

    return _ESCAPED.sub(character, value) if "\\" in value else value


def sensitive_header(paths: tuple[tuple[str, ...], ...]) -> str:
    """List the sensitive fields of an event for a header, as JSON; ``*`` if they do not fit, "" for none."""
    text = json.dumps(paths) if paths else ""
    return text if len(text) <= MAX_HEADER_LENGTH and text.isascii() and "  " not in text else _ALL_SENSITIVE


def masked_payload(dead_letter: DeadLetter, payload: bytes) -> Any:
    """Return the payload as JSON data with secrets masked, or a text that says why it is not shown."""
    return _event(dead_letter, payload) if dead_letter.is_event else _delivery(payload)


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


def _event(dead_letter: DeadLetter, payload: bytes) -> Any:
    listed = dead_letter.sensitive
    try:
        message = json.loads(payload.decode(errors="replace"), object_pairs_hook=_Fields)
        paths = json.loads(listed) if listed and listed != _ALL_SENSITIVE else []
    except (ValueError, RecursionError) as error:
        if listed:
            return f"(not shown: {len(payload)} bytes that are no JSON ({error}), of an event with secrets)"
        return payload.decode(errors="replace")
    if listed == _ALL_SENSITIVE:
        return f"(not shown: {len(payload)} bytes of an event whose secrets are too many to list)"
    payloads = list(_payloads(message))
    found = (value for path in paths for payload in payloads for value in _at(payload, path))
    secrets = [text for value in found for text in _texts(value)]
    return _plain(message, _spellings(tuple(secrets)))


def _payloads(message: Any) -> Iterator[Any]:
    """Yield the payload of the event, or the payloads of all events of a digest."""
    yield from _at(message, ("payload",))
    for events in _at(message, ("batch", "events")):
        for event in events if isinstance(events, list) else ():
            yield from _at(event, ("payload",))


class _Fields(list[tuple[str, Any]]):
    """The pairs of a JSON object, with repeated keys: each of their values may be a secret."""


def _at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield each value at ``path``. Keys match in any case, as in the Go client."""
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
    """Return ``value`` with mappings for objects, and with secrets masked."""
    if isinstance(value, _Fields):
        return {key: _plain(inside, secrets) for key, inside in value}
    if isinstance(value, list):
        return [_plain(inside, secrets) for inside in value]
    if isinstance(value, Mapping) or value is None or isinstance(value, bool):
        return value
    return MASK if str(value) in secrets else masked(value, maskable(secrets))


def _spellings(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the secrets as they appear in texts, in HTML and in links, the longest first."""
    spelled = {
        spelling
        for secret in secrets
        for spelling in (secret, html.escape(secret), html.escape(secret, quote=False), quote(secret),
                         quote(secret, safe=""), quote_plus(secret))
    }  # fmt: skip
    return longest_first(spelled)
