"""Route an event: the messages that it asks for, their recipients, and the reasons for the missing ones.

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
    """A message that is not rendered yet: an entry of a rule's ``notify``, for one recipient.

    A chain is the notification of its first usable step, with the later steps as its fallbacks.
    """

    match: Match
    notify: Notify
    channel: ChannelSpec
    recipient: Recipient
    to: tuple[str, ...]  # addresses; empty if the channel needs none
    quiet: tuple[Interval, ...] = ()  # the recipient's quiet hours
    not_before: int = 0  # the time until which it is held, microseconds since the epoch; 0: it is not
    fallbacks: tuple[Notification, ...] = ()  # in order
    fallback_after: float = 0.0  # seconds in which each step but the last has to be sent; 0.0: no limit
    merged: DigestContents | None = None  # set if it is part of a digest
    id: str = ""  # of its delivery; "": computed from the fields above

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
        """The notification and its fallbacks, each on its own."""
        return (replace(self, fallbacks=()), *self.fallbacks) if self.fallbacks else (self,)


class DigestContents(Struct, frozen=True, kw_only=True):
    """The events of a digest that are for one recipient."""

    events: tuple[Event, ...]  # in the order in which they came
    more: int = 0  # events that are only counted
    template: str = ""  # "": that of the entry


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestTimer:
    """The time at which a buffer has to be flushed."""

    key: str  # of the buffer
    rule: str
    at: int  # microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestRef:
    """A reference to a digest, with its events."""

    key: str  # of the buffer
    number: int
    events: tuple[Event, ...]
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The notifications that one event asks for, and the reasons for the missing ones."""

    event: Event
    rulebook: Rulebook
    matches: tuple[Match, ...] = ()
    notifications: tuple[Notification, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()
    timers: tuple[DigestTimer, ...] = ()
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()
    digest: DigestRef | None = None  # set if the event is a digest
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever the routing is shown

    def notifications_of(self, rule: Rule) -> tuple[Notification, ...]:
        return tuple(each for each in self.notifications if each.match.rule is rule)


def route(rulebook: Rulebook, event: Event, choices_of: ChoicesOf = no_preferences) -> Routing:
    """Route ``event`` under ``rulebook``. Equal arguments give equal routings."""
    known = rulebook.catalogue.get(event.name)
    matches = rulebook.match(event)
    notifications: dict[str, Notification] = {}  # by id: an entry that is written twice is one message
    suppressed: list[Suppressed] = []
    resolver = RecipientResolver(rulebook, event, choices_of)
    for match in matches:
        for entry in match.rule.notify:
            for result in route_entry(match, entry, resolver):
                if isinstance(result, Suppressed):
                    suppressed.append(result)
                elif not notifications.setdefault(result.id, result).fallbacks and result.fallbacks:
                    notifications[result.id] = result
    return Routing(
        event=event,
        rulebook=rulebook,
        matches=matches,
        notifications=tuple(notifications.values()),
        suppressed=tuple(suppressed),
        secrets=known.secrets_in(event.payload) if known else (),
    )


@dataclass(frozen=True, slots=True)
class RecipientResolver:
    """The recipients of one event, each looked up once."""

    rulebook: Rulebook
    event: Event
    choices_of: ChoicesOf
    _known: dict[int, tuple[Recipient, Choices | None]] = field(default_factory=dict)  # by audience

    def resolve(self, audience: Audience) -> tuple[Recipient, Choices | None]:
        """Return the recipient and their preferences; an entry of ``people`` in the policy has none."""
        known = self._known.get(id(audience))
        if known is None:
            recipient = recipient_of(self.rulebook, self.event, audience)
            of_event = recipient.user and not audience.person
            choices = self.choices_of(recipient.user) if of_event else None
            known = self._known[id(audience)] = with_preferences(recipient, choices), choices
        return known


def with_fallbacks(steps: Sequence[Notification], within: float) -> Notification:
    """Return the first of ``steps`` with the others as its fallbacks."""
    first, *others = steps
    if not (others or first.fallbacks or first.fallback_after):
        return first
    return replace(first, fallbacks=tuple(others), fallback_after=within if others else 0.0)


def route_entry(
    match: Match, entry: NotifyEntry, resolver: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """Yield a notification for each message that an entry of ``notify`` needs, or why there is none."""
    event = match.event
    if match.rule.mode is Mode.SHADOW:
        yield _suppress(match, entry, "shadow")
    elif event.hops > MAX_HOPS:
        yield _suppress(match, entry, "hops", f"{event.hops} messages of MSS's own led to this event")
    elif entry.when is not None and not entry.when.holds(event.payload):
        yield _suppress(match, entry, "condition")
    elif isinstance(entry, FirstOf):
        yield from _route_fallbacks(match, entry, resolver)
    elif isinstance(entry, PreferredChannel):
        for step in entry.steps:
            yield from _route_channel(match, step, resolver)
    else:
        yield from _route_channel(match, entry, resolver)


def _route_fallbacks(
    match: Match, chain: FirstOf, resolver: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """Yield a notification of the first usable step, with the later steps as its fallbacks."""
    usable: dict[str, Notification] = {}  # by id: a step that is there twice would fail twice
    for step in chain.steps:
        if step.when is not None and not step.when.holds(match.event.payload):
            yield _suppress(match, step, "condition")
            continue
        for result in _route_channel(match, step, resolver):
            if isinstance(result, Notification):
                usable.setdefault(result.id, result)
            else:
                yield result
    if usable:
        yield with_fallbacks(tuple(usable.values()), chain.within)


def _route_channel(
    match: Match, notify: Notify, resolver: RecipientResolver
) -> Iterator[Notification | Suppressed]:
    """Yield a notification for each message that one channel needs, or why there is none."""
    rule, channel = match.rule, resolver.rulebook.channels[notify.channel]
    recipient, choices = resolver.resolve(notify.to or rule.to)
    if notify.among or choices is not None:
        decision = apply_preferences(resolver.rulebook, rule, notify, recipient, choices)
        yield from (_suppress(match, notify, "preference", detail) for detail in decision.details)
        if not decision.wanted:
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
    """Return the id of a delivery. It depends on the arguments alone, not on the replica or the time."""
    parts = (event.kind, event.key, event.reqid, rule, channel, template, *to)
    # Length before each part: ("ab", "c") and ("a", "bc") must not be the same delivery.
    return hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode()).hexdigest()[:32]


def link_fallbacks(steps: Sequence[Delivery], within: float) -> Delivery:
    """Return the first of ``steps`` with the others as its fallbacks.

    The first keeps its id. The others get an id of the chain, since a rule may also ask for the same
    message without a chain. ``within``, in seconds, limits each step but the last.
    """
    *earlier, last = steps
    if not earlier:  # most are no chain, and a copy of a delivery costs as much as rendering a short text
        return last
    first, *others = [*(replace(step, fallback_after=within) for step in earlier), last]
    return replace(
        first, fallbacks=tuple(replace(step, id=fallback_id(first.id, step.id)) for step in others)
    )


def fallback_id(first: str, own: str) -> str:
    """Return the id of the delivery ``own`` as a fallback in the chain that begins with ``first``."""
    return hashlib.sha256(f"{first}\0instead\0{own}".encode()).hexdigest()[:32]


def next_fallback(delivery: Delivery, *, at: int) -> Delivery:
    """Return the delivery that replaces ``delivery`` from ``at`` on, with the remaining fallbacks."""
    following, *others = delivery.fallbacks
    before = delivery.fell_back_from.channels if delivery.fell_back_from else ()
    return replace(
        following,
        fallbacks=tuple(others),
        fell_back_from=FallbackFrom(channels=(*before, delivery.channel), at=at),
    )


def drop_last_fallback(delivery: Delivery) -> Delivery:
    """Return the chain without its last fallback."""
    *earlier, last = (delivery, *delivery.fallbacks)[:-1]
    first, *others = [*earlier, replace(last, fallback_after=0.0)]
    return replace(first, fallbacks=tuple(others))


def remaining_recipients(delivery: Delivery, remaining: tuple[str, ...]) -> Delivery:
    """Return the same message for the ``remaining`` addresses; equal addresses give an equal id.

    It has no fallbacks: other addresses of the recipient have the message already.
    """
    digest = hashlib.sha256("\0".join((delivery.id, *remaining)).encode())
    return replace(delivery, id=digest.hexdigest()[:32], to=remaining, fallbacks=(), fallback_after=0.0)
