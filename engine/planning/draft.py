"""Route an event: the messages that it asks for, to whom, and the reasons for those it does not make.

Limits apply between routing and rendering, so a suppressed message is never rendered. A fallback chain is
one delivery that carries the others, rendered: a later policy does not change them. The next one is sent
only after the one before has definitely failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from ..model.messages import MAX_HOPS, Delivery, Event, FallbackFrom, Held, Recipient, Suppressed
from ..rules.rulebook import (
    Audience,
    BudgetExhausted,
    ChannelSpec,
    FirstOf,
    Match,
    Mode,
    Notify,
    NotifyEntry,
    PreferredChannel,
    Rule,
    Rulebook,
)
from ..rules.schedule import Interval
from .recipients import (
    Choices,
    ChoicesOf,
    addresses_for,
    apply_preferences,
    no_preferences,
    recipient_of,
    with_preferences,
)


class Notification(Struct, frozen=True, kw_only=True):
    """One message to be written: an entry of a rule's ``notify``, for one recipient.

    A chain is the order for its first step that can be taken, with those behind it.
    """

    match: Match
    notify: Notify
    channel: ChannelSpec
    recipient: Recipient
    to: tuple[str, ...]  # addresses; empty where the channel needs none
    quiet: tuple[Interval, ...] = ()  # when the recipient wants no message
    not_before: int = 0  # until when it is held back, microseconds since the epoch; 0: not at all
    fallbacks: tuple[Notification, ...] = ()  # its fall-backs, in order
    fallback_after: float = 0.0  # seconds in which each step but the last has to be sent; 0.0: no limit
    merged: DigestContents | None = None  # it tells of several events
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
    def steps(self) -> tuple[Notification, ...]:
        """Itself and its fall-backs, each for itself."""
        return (replace(self, fallbacks=()), *self.fallbacks) if self.fallbacks else (self,)


class DigestContents(Struct, frozen=True, kw_only=True):
    """What one digest tells of."""

    events: tuple[Event, ...]  # in the order in which they came
    more: int = 0  # that are only counted
    template: str = ""  # "": that of the entry


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestTimer:
    """That something has to be looked at again, and when."""

    key: str  # of what waits
    rule: str
    at: int  # microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestRef:
    """A digest: which one, and of what."""

    key: str  # where its events lie
    number: int
    events: tuple[Event, ...]
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """All that one event asks for."""

    event: Event
    rulebook: Rulebook
    matches: tuple[Match, ...] = ()
    notifications: tuple[Notification, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    timers: tuple[DigestTimer, ...] = ()
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()  # budgets that had not enough left
    digest: DigestRef | None = None  # it is one
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever it is shown

    def notifications_of(self, rule: Rule) -> tuple[Notification, ...]:
        return tuple(order for order in self.notifications if order.match.rule is rule)


def route(rulebook: Rulebook, event: Event, choices_of: ChoicesOf = no_preferences) -> Routing:
    """All that ``event`` asks for under ``rulebook``; equal arguments give equal drafts."""
    known = rulebook.catalogue.get(event.name)
    matches = rulebook.match(event)
    orders: dict[str, Notification] = {}  # by id: an entry written twice is one message
    suppressed: list[Suppressed] = []
    readers = RecipientResolver(rulebook, event, choices_of)
    for match in matches:
        for entry in match.rule.notify:
            for result in route_entry(match, entry, readers):
                if isinstance(result, Suppressed):
                    suppressed.append(result)
                elif result.fallbacks and not orders.setdefault(result.id, result).fallbacks:
                    orders[result.id] = result
                else:
                    orders.setdefault(result.id, result)
    return Routing(
        event=event,
        rulebook=rulebook,
        matches=matches,
        notifications=tuple(orders.values()),
        suppressed=tuple(suppressed),
        secrets=known.secrets_in(event.payload) if known else (),
    )


@dataclass(frozen=True, slots=True)
class RecipientResolver:
    """Whom one event is for, each looked up once."""

    rulebook: Rulebook
    event: Event
    choices_of: ChoicesOf
    _known: dict[int, tuple[Recipient, Choices | None]] = field(default_factory=dict)  # by audience

    def resolve(self, audience: Audience) -> tuple[Recipient, Choices | None]:
        """The recipient, and what they have chosen; who is named in the policy chooses nothing."""
        known = self._known.get(id(audience))
        if known is None:
            recipient = recipient_of(self.rulebook, self.event, audience)
            of_event = recipient.user and not audience.person
            choices = self.choices_of(recipient.user) if of_event else None
            known = self._known[id(audience)] = with_preferences(recipient, choices), choices
        return known


def with_fallbacks(steps: Sequence[Notification], within: float) -> Notification:
    """One order for the first of ``steps``, with the others as its fall-backs."""
    first, *others = steps
    if not (others or first.fallbacks or first.fallback_after):
        return first
    return replace(first, fallbacks=tuple(others), fallback_after=within if others else 0.0)


def route_entry(
    match: Match, entry: NotifyEntry, readers: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """What one entry of one rule's ``notify`` asks for: an order for each message it needs."""
    event = match.event
    if match.rule.mode is Mode.SHADOW:
        yield _suppress(match, entry, "shadow")
    elif event.hops > MAX_HOPS:
        yield _suppress(match, entry, "hops", f"{event.hops} messages of MSS's own led to this event")
    elif entry.when is not None and not entry.when.holds(event.payload):
        yield _suppress(match, entry, "condition")
    elif isinstance(entry, FirstOf):
        yield from _route_fallbacks(match, entry, readers)
    elif isinstance(entry, PreferredChannel):
        for step in entry.steps:
            yield from _route_channel(match, step, readers)
    else:
        yield from _route_channel(match, entry, readers)


def _route_fallbacks(
    match: Match, chain: FirstOf, readers: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """One order for the first step that can be taken, with the steps behind it as its fall-backs."""
    usable: dict[str, Notification] = {}  # by id: what is there twice would fail twice
    for step in chain.steps:
        if step.when is not None and not step.when.holds(match.event.payload):
            yield _suppress(match, step, "condition")
            continue
        for result in _route_channel(match, step, readers):
            if isinstance(result, Notification):
                usable.setdefault(result.id, result)
            else:
                yield result
    if usable:
        yield with_fallbacks(tuple(usable.values()), chain.within)


def _route_channel(
    match: Match, notify: Notify, readers: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """What one channel asks for: an order for each message that it needs."""
    rule, channel = match.rule, readers.rulebook.channels[notify.channel]
    recipient, choices = readers.resolve(notify.to or rule.to)
    if notify.among or choices is not None:
        verdict = apply_preferences(readers.rulebook, rule, notify, recipient, choices)
        yield from (_suppress(match, notify, "preference", detail) for detail in verdict.details)
        if not verdict.wanted:
            return
    for addressed in addresses_for(channel, recipient):
        if addressed.unusable:
            yield _suppress(match, notify, "bad_address", ", ".join(addressed.unusable))
        if addressed.to or channel.address is None:
            yield Notification(
                match=match,
                notify=notify,
                channel=channel,
                recipient=recipient,
                to=addressed.to,
                quiet=choices.hours if choices and not rule.critical else (),
            )
        elif not addressed.unusable:
            yield _suppress(match, notify, "no_address", f"the recipient has no {channel.address}")


def _suppress(match: Match, entry: NotifyEntry, reason: str, detail: str = "") -> Suppressed:
    return Suppressed(rule=match.rule.id, channel=entry.channel, reason=reason, detail=detail)


def delivery_id(event: Event, rule: str, channel: str, template: str, to: tuple[str, ...]) -> str:
    """The same for the same event, rule, channel, template and addresses, whoever plans it and when."""
    parts = (event.kind, event.key, event.reqid, rule, channel, template, *to)
    # Length before each part: ("ab", "c") and ("a", "bc") must not be the same delivery.
    return hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode()).hexdigest()[:32]


def link_fallbacks(steps: Sequence[Delivery], within: float) -> Delivery:
    """The first of ``steps`` with the others as its fall-backs.

    The first keeps its id. The others get one of the chain, for the same message may be asked for by
    itself as well. ``within``, in seconds, holds for each but the last.
    """
    *earlier, last = steps
    if not earlier:  # most are no chain, and to copy a delivery takes as long as to write a short text
        return last
    first, *others = [*(replace(step, fallback_after=within) for step in earlier), last]
    return replace(
        first, fallbacks=tuple(replace(step, id=fallback_id(first.id, step.id)) for step in others)
    )


def fallback_id(first: str, own: str) -> str:
    """The id of the delivery ``own`` as a fall-back in the chain that begins with the delivery ``first``."""
    return hashlib.sha256(f"{first}\0instead\0{own}".encode()).hexdigest()[:32]


def next_fallback(delivery: Delivery, *, at: int) -> Delivery:
    """The fall-back that goes on for ``delivery`` from ``at`` on, with those that are left behind it."""
    following, *others = delivery.fallbacks
    before = delivery.fell_back_from.channels if delivery.fell_back_from else ()
    return replace(
        following,
        fallbacks=tuple(others),
        fell_back_from=FallbackFrom(channels=(*before, delivery.channel), at=at),
    )


def drop_last_fallback(delivery: Delivery) -> Delivery:
    """The chain without its last fall-back."""
    *earlier, last = (delivery, *delivery.fallbacks)[:-1]
    first, *others = [*earlier, replace(last, fallback_after=0.0)]
    return replace(first, fallbacks=tuple(others))


def remaining_recipients(delivery: Delivery, remaining: tuple[str, ...]) -> Delivery:
    """The same message for the addresses that are left; the same id whenever they are the same.

    It has no fall-back: its reader has been told over its channel, at another address.
    """
    digest = hashlib.sha256("\0".join((delivery.id, *remaining)).encode())
    return replace(delivery, id=digest.hexdigest()[:32], to=remaining, fallbacks=(), fallback_after=0.0)
