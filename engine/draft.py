"""What an event asks for before a word is written: which messages, to whom, and what is not made and why.

Between a draft and its words stand the gates: what they hold back is never rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .audience import addresses_for, recipient_of
from .model import MOST_HOPS, Event, Held, Recipient, Suppressed
from .rulebook import ChannelSpec, Match, Mode, Notify, Rulebook


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One message to be written: an entry of a rule's ``notify``, for one recipient."""

    match: Match
    notify: Notify
    channel: ChannelSpec
    recipient: Recipient
    to: tuple[str, ...]  # addresses; empty where the channel needs none
    released: int = 0  # until when it is held back, microseconds since the epoch; 0: not at all
    id: str = field(init=False)  # of the delivery that it becomes

    def __post_init__(self) -> None:
        rule, to = self.match.rule.id, self.to or (self.recipient.user,)
        id_ = delivery_id(self.match.event, rule, self.channel.name, self.template, to)
        object.__setattr__(self, "id", id_)

    @property
    def template(self) -> str:
        return self.notify.template or self.match.rule.template


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that one event asks for."""

    event: Event
    rulebook: Rulebook
    matches: tuple[Match, ...] = ()
    orders: tuple[Order, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever it is shown


def draft(rulebook: Rulebook, event: Event) -> Draft:
    """All that ``event`` asks for under ``rulebook``; equal arguments give equal drafts."""
    known = rulebook.catalogue.get(event.name)
    matches = rulebook.match(event)
    orders: dict[str, Order] = {}  # by id: an entry written twice is one message
    suppressed: list[Suppressed] = []
    recipients: dict[int, Recipient] = {}
    for match in matches:
        for notify in match.rule.notify:
            for result in _ask(rulebook, match, notify, recipients):
                if isinstance(result, Order):
                    orders.setdefault(result.id, result)
                else:
                    suppressed.append(result)
    return Draft(
        event=event,
        rulebook=rulebook,
        matches=matches,
        orders=tuple(orders.values()),
        suppressed=tuple(suppressed),
        secrets=known.secrets_in(event.payload) if known else (),
    )


def _ask(
    rulebook: Rulebook, match: Match, notify: Notify, recipients: dict[int, Recipient]
) -> Iterator[Order | Suppressed]:
    """What one entry of one rule's ``notify`` asks for: an order for each message it needs.

    ``recipients`` are those of this event that are known already, by the identity of their audience.
    """
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
    audience = notify.to or rule.to
    recipient = recipients.get(id(audience))
    if recipient is None:
        recipient = recipients[id(audience)] = recipient_of(rulebook, event, audience)
    for addressed in addresses_for(channel, recipient):
        if addressed.unusable:
            yield suppress("bad_address", ", ".join(addressed.unusable))
        if addressed.to or channel.address is None:
            yield Order(match=match, notify=notify, channel=channel, recipient=recipient, to=addressed.to)
        elif not addressed.unusable:
            yield suppress("no_address", f"the recipient has no {channel.address}")


def delivery_id(event: Event, rule: str, channel: str, template: str, to: tuple[str, ...]) -> str:
    """The same for the same event, rule, channel, template and addresses, whoever plans it and when."""
    parts = (event.kind, event.key, event.reqid, rule, channel, template, *to)
    # Length before each part: ("ab", "c") and ("a", "bc") must not be the same delivery.
    return hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode()).hexdigest()[:32]
