"""What a dead letter holds, as it may be shown: never with a secret in it.

A delivery knows its secrets. Of an event the letter says which fields are sensitive, so that it can be
read by somebody who does not have the policy.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

from .catalogue import MASK, longest_first, masked
from .codec import decode_delivery
from .dead import MAX_HEADER_LENGTH, DeadLetter
from .errors import UndecodableError
from .model import Delivery, Kind

SENSITIVE = "sensitive"  # the name of the header that lists fields, to ``Letter.said``
_EVERYTHING = "*"


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
