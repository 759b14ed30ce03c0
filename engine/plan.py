"""From an event to finished deliveries: no clock, no socket, no log.

``serve``, ``test`` and ``explain`` all call ``plan``; what it returns is all that they may do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from . import locales
from .addresses import parse_mailbox, parse_phone
from .catalogue import LOCALE, USER
from .errors import TemplateError
from .model import MOST_HOPS, Delivery, Event, Failure, Message, Recipient, Revival, Suppressed
from .paths import resolve
from .rulebook import Audience, ChannelSpec, Match, Mode, Notify, Rule, Rulebook
from .templates import Words, render

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one event leads to."""

    event: Event
    revision: str
    matches: tuple[Match, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    failures: tuple[Failure, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever it is shown
    revival: Revival | None = None  # it was a dead letter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One entry of one rule's ``notify``, and whom it tells."""

    rulebook: Rulebook
    match: Match
    notify: Notify
    channel: ChannelSpec
    recipient: Recipient
    secrets: tuple[str, ...]

    @property
    def template(self) -> str:
        return self.notify.template or self.match.rule.template


@dataclass(frozen=True, slots=True, kw_only=True)
class _Addressed:
    """One message's addresses, and what had to be left out."""

    to: tuple[str, ...]
    unusable: tuple[str, ...] = ()


def plan(rulebook: Rulebook, event: Event) -> Plan:
    """All that ``event`` leads to under ``rulebook``; equal arguments give equal plans."""
    known = rulebook.catalogue.get(event.name)
    secrets = known.secrets_in(event.payload) if known else ()
    matches = rulebook.match(event)
    deliveries: dict[str, Delivery] = {}  # by id: an entry written twice is one delivery
    suppressed: list[Suppressed] = []
    failures: list[Failure] = []
    for match in matches:
        for notify in match.rule.notify:
            for result in _deliver(rulebook, match, notify, secrets):
                match result:
                    case Delivery():
                        deliveries.setdefault(result.id, result)
                    case Suppressed():
                        suppressed.append(result)
                    case Failure():
                        failures.append(result)
    return Plan(
        event=event,
        revision=rulebook.revision,
        matches=matches,
        deliveries=tuple(deliveries.values()),
        suppressed=tuple(suppressed),
        failures=tuple(failures),
        secrets=secrets,
    )


def _deliver(
    rulebook: Rulebook, match: Match, notify: Notify, secrets: tuple[str, ...]
) -> Iterator[Delivery | Suppressed | Failure]:
    """What one entry of one rule's ``notify`` leads to: a delivery for each message it needs."""
    rule, event = match.rule, match.event

    def suppress(reason: str, detail: str = "") -> Suppressed:
        return Suppressed(rule=rule.id, channel=notify.channel, reason=reason, detail=detail)

    if rule.mode is Mode.SHADOW:
        yield suppress("shadow")
        return
    if event.hops > MOST_HOPS:
        yield suppress("hops", f"{event.hops} messages of MSS's own led to this event")
        return
    if notify.when is not None and not notify.when.holds(event.payload):
        yield suppress("condition")
        return
    channel = rulebook.channels[notify.channel]
    order = _Order(
        rulebook=rulebook,
        match=match,
        notify=notify,
        channel=channel,
        recipient=recipient_of(rulebook, event, notify.to or rule.to),
        secrets=secrets,
    )
    for addressed in _addresses(channel, order.recipient):
        if addressed.unusable:
            yield suppress("bad_address", ", ".join(addressed.unusable))
        if not addressed.to and channel.address is not None:
            if not addressed.unusable:
                yield suppress("no_address", f"the recipient has no {channel.address}")
            continue
        try:
            yield _write(order, addressed.to)
        except TemplateError as error:
            yield Failure(
                rule=rule.id, channel=channel.name, detail=str(error), delivery=_id(order, addressed.to)
            )


def recipient_of(rulebook: Rulebook, event: Event, audience: Audience) -> Recipient:
    """Who ``audience`` means for this event; the catalogue's marks say what ``to`` leaves out."""
    if audience.person:
        return rulebook.people[audience.person]
    known = rulebook.catalogue.get(event.name)
    paths = {**(known.roles if known else {}), **audience.fields}
    found = {role: tuple(texts(resolve(event.payload, path))) for role, path in paths.items()}
    return Recipient(
        user=next(iter(found.pop(USER, ())), ""),
        locale=next(iter(found.pop(LOCALE, ())), ""),
        addresses={kind: values for kind, values in found.items() if values},
    )


def _addresses(channel: ChannelSpec, recipient: Recipient) -> Iterator[_Addressed]:
    """The addresses of each message: all in one where the channel can, else one message each."""
    if channel.address is None:
        yield _Addressed(to=())
        return
    usable: dict[str, None] = {}
    unusable: list[str] = []
    for text in recipient.addresses.get(channel.address, ()):
        address = usable_address(channel.address, text)
        if address is None:
            unusable.append(text[:100])
        else:
            usable[address] = None
    together = [tuple(usable)] if channel.many or not usable else [(address,) for address in usable]
    for position, to in enumerate(together):
        yield _Addressed(to=to, unusable=() if position else tuple(unusable))


def usable_address(kind: str, text: str) -> str | None:
    """The address in the form a channel can use, or None where it is none."""
    if kind == "email":
        mailbox = parse_mailbox(text)
        return None if mailbox is None else str(mailbox)
    if kind == "phone":
        return parse_phone(text)
    return text if text.isprintable() else None


def texts(values: list[Any]) -> Iterator[str]:
    """The non-empty texts among what a path leads to; numbers, as user ids are, become texts."""
    for value in values:
        if isinstance(value, list):
            yield from texts(value)
        elif isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


def find_words(rulebook: Rulebook, template: str, channel: ChannelSpec, locale: str) -> Words | None:
    """The words of ``template`` for a reader of ``locale``; None for a channel that says nothing.

    Raises TemplateError where a channel that speaks has none.
    """
    wanted = locales.chain(locale, rulebook.defaults.locale)
    words = rulebook.library.find(template, (channel.name, channel.type), wanted)
    if words is None and channel.words:
        raise TemplateError(f"template {template!r} has no words for channel {channel.name!r}")
    return words


def _write(order: _Order, to: tuple[str, ...]) -> Delivery:
    """The finished delivery to ``to``. Raises TemplateError."""
    rulebook, rule, event, channel = order.rulebook, order.match.rule, order.match.event, order.channel
    words = find_words(rulebook, order.template, channel, order.recipient.locale)
    return Delivery(
        id=_id(order, to),
        kind=event.kind,
        key=event.key,
        reqid=event.reqid,
        rule=rule.id,
        revision=rulebook.revision,
        channel=channel.name,
        user=order.recipient.user,
        to=to,
        locale=(words.locale if words else "") or rulebook.defaults.locale,
        severity=rule.severity,
        message=render(words, _context(order, to)) if words else Message(),
        payload=None if channel.words else event.payload,
        secrets=order.secrets,
        created=event.received,
        hops=event.hops,
    )


def _id(order: _Order, to: tuple[str, ...]) -> str:
    event, rule, channel = order.match.event, order.match.rule, order.channel
    return delivery_id(event, rule.id, channel.name, order.template, to or (order.recipient.user,))


def _context(order: _Order, to: tuple[str, ...]) -> dict[str, Any]:
    match = order.match
    return context(
        order.rulebook, match.event, match.rule, order.notify, order.recipient, address=to[0] if to else ""
    )


def context(
    rulebook: Rulebook, event: Event, rule: Rule, notify: Notify, recipient: Recipient, *, address: str
) -> dict[str, Any]:
    """What a template sees. Times are aware datetimes in UTC."""
    return {
        "payload": event.payload,
        "event": event_in_words(event, str(event.kind)),
        "rule": {"id": rule.id, "description": rule.description, "severity": str(rule.severity)},
        "recipient": {"user": recipient.user, "address": address, "locale": recipient.locale},
        "vars": {**rule.vars, **notify.vars},
        "site": rulebook.defaults.site,
    }


def event_in_words(event: Event, kind: str) -> dict[str, Any]:
    """``event`` as templates see it; times are aware datetimes in UTC."""
    return {
        "kind": kind,
        "key": event.key,
        "reqid": event.reqid,
        "sent": _EPOCH + timedelta(microseconds=event.sent),
        "received": _EPOCH + timedelta(microseconds=event.received),
    }


def rest_of(delivery: Delivery, remaining: tuple[str, ...]) -> Delivery:
    """The same message for the addresses that are left; the same id whenever they are the same."""
    digest = hashlib.sha256("\0".join((delivery.id, *remaining)).encode())
    return replace(delivery, id=digest.hexdigest()[:32], to=remaining)


def delivery_id(event: Event, rule: str, channel: str, template: str, to: tuple[str, ...]) -> str:
    """The same for the same event, rule, channel, template and addresses, whoever plans it and when."""
    parts = (event.kind, event.key, event.reqid, rule, channel, template, *to)
    # Length before each part: ("ab", "c") and ("a", "bc") must not be the same delivery.
    digest = hashlib.sha256(b"".join(b"%d:%s" % (len(p), p.encode()) for p in map(str, parts)))
    return digest.hexdigest()[:32]
