"""From a request to a finished delivery over one channel. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..audience import texts, usable_address
from ..catalogue import LOCALE, USER
from ..draft import delivery_id
from ..model import Delivery, Event, Kind, Message, Severity
from ..paths import resolve
from ..plan import event_in_words, find_words
from ..rulebook import ActionSpec, ChannelSpec, Rulebook
from ..templates import render
from . import Request

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_SECRET = 4  # characters; masking "1" wherever it occurs would destroy the text


class UnreachableError(Exception):
    """There is no usable address; the text is what the caller hears."""


def tell(
    rulebook: Rulebook, spec: ActionSpec, channel: ChannelSpec, request: Request, payload: Mapping[str, Any]
) -> Delivery:
    """The delivery that ``request`` asks for. Raises UnreachableError or TemplateError."""
    found = {role: tuple(texts(resolve(payload, path))) for role, path in spec.to.items()}
    to = _addresses(channel, found)
    user = next(iter(found.get(USER, ())), "")
    wanted = next(iter(found.get(LOCALE, ())), "")
    words = find_words(rulebook, spec.template, channel, wanted)
    # A channel knows three kinds; what an action says is for one person's eyes, as an audit is.
    event = Event(
        kind=Kind.AUDIT,
        key=request.key,
        reqid=request.reqid,
        payload=payload,
        sent=request.sent,
        received=request.received,
    )
    context = {
        "payload": payload,
        "event": event_in_words(event, "action"),
        "rule": {"id": spec.key, "description": "", "severity": str(Severity.NONE)},
        "recipient": {"user": user, "address": to[0] if to else "", "locale": wanted},
        "vars": spec.vars,
        "site": rulebook.defaults.site,
    }
    return Delivery(
        id=delivery_id(event, spec.key, channel.name, spec.template, to or (user,)),
        kind=event.kind,
        key=request.key,
        reqid=request.reqid,
        rule=spec.key,
        revision=rulebook.revision,
        channel=channel.name,
        user=user,
        to=to,
        locale=(words.locale if words else "") or rulebook.defaults.locale,
        severity=Severity.NONE,
        message=render(words, context) if words else Message(),
        payload=None if channel.words else payload,
        secrets=secrets_in(spec, payload),
        created=request.received,
    )


def secrets_in(spec: ActionSpec, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The sensitive values of a payload, longest first, so that no part of one is left over."""
    values = {text for path in spec.sensitive for text in texts(resolve(payload, path))}
    return tuple(sorted((v for v in values if len(v) >= _SHORTEST_SECRET), key=len, reverse=True))


def _addresses(channel: ChannelSpec, found: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where the channel is to send: all in one message, or the request is refused as a whole."""
    kind = channel.address
    if kind is None:
        return ()
    given = found.get(kind, ())
    if not given:
        raise UnreachableError(_bad_address(kind, "no address"))
    usable = dict.fromkeys(usable_address(kind, text) for text in given)
    if None in usable:
        raise UnreachableError(_bad_address(kind, "no angle-addr"))
    if len(usable) > 1 and not channel.many:
        raise UnreachableError(f"one {kind} address at a time")
    return tuple(address for address in usable if address is not None)


def _bad_address(kind: str, why: str) -> str:
    """For mail in the words of the original, which are those of Go's parser."""
    return f"email address invalid: mail: {why}" if kind == "email" else f"{kind} address invalid"
