"""What an event asks for before a word is written: which messages, to whom, and what is not made and why.

Between a draft and its words stand the gates: what they hold back is never rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from .audience import addresses_for, personal, recipient_of
from .choices import Choices, ChoicesOf, nobody
from .intervals import Interval
from .limits import UsedUp
from .model import MOST_HOPS, Event, Held, Recipient, Suppressed
from .preferring import prefer
from .rulebook import Audience, ChannelSpec, Entry, FirstOf, Match, Mode, Notify, Preferred, Rule, Rulebook


class Order(Struct, frozen=True, kw_only=True):
    """One message to be written: an entry of a rule's ``notify``, for one recipient.

    A chain is the order for its first step that can be taken, with those behind it.
    """

    match: Match
    notify: Notify
    channel: ChannelSpec
    recipient: Recipient
    to: tuple[str, ...]  # addresses; empty where the channel needs none
    quiet: tuple[Interval, ...] = ()  # when the recipient wants no message
    released: int = 0  # until when it is held back, microseconds since the epoch; 0: not at all
    instead: tuple[Order, ...] = ()  # its fall-backs, in order
    within: float = 0.0  # seconds in which each step but the last has to be sent; 0.0: no limit
    merged: Merged | None = None  # it tells of several events
    id: str = ""  # of the delivery that it becomes; "": made here of what is above

    def __post_init__(self) -> None:
        if not self.id:
            rule, to = self.match.rule.id, self.to or (self.recipient.user,)
            id_ = delivery_id(self.match.event, rule, self.channel.name, self.template, to)
            force_setattr(self, "id", id_)

    @property
    def template(self) -> str:
        own = self.merged.template if self.merged else ""
        return own or self.notify.template or self.match.rule.template

    @property
    def steps(self) -> tuple[Order, ...]:
        """Itself and its fall-backs, each for itself."""
        return (replace(self, instead=()), *self.instead) if self.instead else (self,)


class Merged(Struct, frozen=True, kw_only=True):
    """What one digest tells of."""

    events: tuple[Event, ...]  # in the order in which they came
    more: int = 0  # that are only counted
    template: str = ""  # "": that of the entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """That something has to be looked at again, and when."""

    key: str  # of what waits
    rule: str
    at: int  # microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Digested:
    """A digest: which one, and of what."""

    key: str  # where its events lie
    number: int
    events: tuple[Event, ...]
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that one event asks for."""

    event: Event
    rulebook: Rulebook
    matches: tuple[Match, ...] = ()
    orders: tuple[Order, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    used_up: tuple[UsedUp, ...] = ()  # budgets that had not enough left
    digest: Digested | None = None  # it is one
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever it is shown

    def orders_of(self, rule: Rule) -> tuple[Order, ...]:
        return tuple(order for order in self.orders if order.match.rule is rule)


def draft(rulebook: Rulebook, event: Event, choices_of: ChoicesOf = nobody) -> Draft:
    """All that ``event`` asks for under ``rulebook``; equal arguments give equal drafts."""
    known = rulebook.catalogue.get(event.name)
    matches = rulebook.match(event)
    orders: dict[str, Order] = {}  # by id: an entry written twice is one message
    suppressed: list[Suppressed] = []
    readers = Readers(rulebook, event, choices_of)
    for match in matches:
        for entry in match.rule.notify:
            for result in ask(match, entry, readers):
                if isinstance(result, Suppressed):
                    suppressed.append(result)
                elif result.instead and not orders.setdefault(result.id, result).instead:
                    orders[result.id] = result
                else:
                    orders.setdefault(result.id, result)
    return Draft(
        event=event,
        rulebook=rulebook,
        matches=matches,
        orders=tuple(orders.values()),
        suppressed=tuple(suppressed),
        secrets=known.secrets_in(event.payload) if known else (),
    )


@dataclass(frozen=True, slots=True)
class Readers:
    """Whom one event is for, each looked up once."""

    rulebook: Rulebook
    event: Event
    choices_of: ChoicesOf
    _known: dict[int, tuple[Recipient, Choices | None]] = field(default_factory=dict)  # by audience

    def find(self, audience: Audience) -> tuple[Recipient, Choices | None]:
        """The recipient, and what they have chosen; who is named in the policy chooses nothing."""
        known = self._known.get(id(audience))
        if known is None:
            recipient = recipient_of(self.rulebook, self.event, audience)
            of_event = recipient.user and not audience.person
            choices = self.choices_of(recipient.user) if of_event else None
            known = self._known[id(audience)] = personal(recipient, choices), choices
        return known


def chained(steps: Sequence[Order], within: float) -> Order:
    """One order for the first of ``steps``, with the others as its fall-backs."""
    first, *others = steps
    if not (others or first.instead or first.within):
        return first
    return replace(first, instead=tuple(others), within=within if others else 0.0)


def ask(match: Match, entry: Entry, readers: Readers) -> Iterator[Order | Suppressed]:
    """What one entry of one rule's ``notify`` asks for: an order for each message it needs."""
    event = match.event
    if match.rule.mode is Mode.SHADOW:
        yield _suppress(match, entry, "shadow")
    elif event.hops > MOST_HOPS:
        yield _suppress(match, entry, "hops", f"{event.hops} messages of MSS's own led to this event")
    elif entry.when is not None and not entry.when.holds(event.payload):
        yield _suppress(match, entry, "condition")
    elif isinstance(entry, FirstOf):
        yield from _chain(match, entry, readers)
    elif isinstance(entry, Preferred):
        for step in entry.steps:
            yield from _tell(match, step, readers)
    else:
        yield from _tell(match, entry, readers)


def _chain(match: Match, chain: FirstOf, readers: Readers) -> Iterator[Order | Suppressed]:
    """One order for the first step that can be taken, with the steps behind it as its fall-backs."""
    usable: dict[str, Order] = {}  # by id: what is there twice would fail twice
    for step in chain.steps:
        if step.when is not None and not step.when.holds(match.event.payload):
            yield _suppress(match, step, "condition")
            continue
        for result in _tell(match, step, readers):
            if isinstance(result, Order):
                usable.setdefault(result.id, result)
            else:
                yield result
    if usable:
        yield chained(tuple(usable.values()), chain.within)


def _tell(match: Match, notify: Notify, readers: Readers) -> Iterator[Order | Suppressed]:
    """What one channel asks for: an order for each message that it needs."""
    rule, channel = match.rule, readers.rulebook.channels[notify.channel]
    recipient, choices = readers.find(notify.to or rule.to)
    if notify.among or choices is not None:
        verdict = prefer(readers.rulebook, rule, notify, recipient, choices)
        yield from (_suppress(match, notify, "preference", detail) for detail in verdict.details)
        if not verdict.wanted:
            return
    for addressed in addresses_for(channel, recipient):
        if addressed.unusable:
            yield _suppress(match, notify, "bad_address", ", ".join(addressed.unusable))
        if addressed.to or channel.address is None:
            yield Order(
                match=match,
                notify=notify,
                channel=channel,
                recipient=recipient,
                to=addressed.to,
                quiet=choices.hours if choices and not rule.critical else (),
            )
        elif not addressed.unusable:
            yield _suppress(match, notify, "no_address", f"the recipient has no {channel.address}")


def _suppress(match: Match, entry: Entry, reason: str, detail: str = "") -> Suppressed:
    return Suppressed(rule=match.rule.id, channel=entry.channel, reason=reason, detail=detail)


def delivery_id(event: Event, rule: str, channel: str, template: str, to: tuple[str, ...]) -> str:
    """The same for the same event, rule, channel, template and addresses, whoever plans it and when."""
    parts = (event.kind, event.key, event.reqid, rule, channel, template, *to)
    # Length before each part: ("ab", "c") and ("a", "bc") must not be the same delivery.
    return hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode()).hexdigest()[:32]
