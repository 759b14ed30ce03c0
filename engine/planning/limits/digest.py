"""Digests: buffer similar events, and merge a batch of them into one set of messages.

Events beyond a throttle or a budget are buffered in the same way, under the name of that limit. When a
buffer is due, it is sealed: its events become one digest, and later events become the next. A sealed batch
stays until its digest is stored. So a crash loses nothing: the same digest is made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from ...model.masking import longest_first
from ...model.messages import Event, Suppressed
from ...rules.rulebook import BudgetExhausted, Digest, Limits, Match, Rule, Rulebook, Throttle
from ..draft import (
    DigestContents,
    DigestRef,
    Notification,
    RecipientResolver,
    Routing,
    route_entry,
    with_fallbacks,
)
from ..recipients import ChoicesOf
from .state import REDELIVERY_WINDOW, StateSteps, T, event_fingerprint, state_key, update_state

BUFFERING = ("throttle", "digest", "budget")  # the limits that buffer events
SLACK = 86_400.0  # seconds that a value is kept beyond its use: the broker may be away

_MAX_BUFFER_BYTES = 256 * 1024  # of the events in one buffer; the broker takes a megabyte
_MAX_IDS = 2000  # of events that a buffer remembers, to recognise a redelivered one


class Batch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The events of one digest, in order of arrival. After it is stored, only their ids remain."""

    number: int
    at: int  # when it was sealed, microseconds since the epoch
    ids: tuple[str, ...]
    events: tuple[Event, ...] = ()
    more: int = 0  # events that are only counted


class DigestBuffer(msgspec.Struct, frozen=True):
    """The events that wait under one key."""

    number: int = 0  # of the digest that they will become; 0 before the first event
    due: int = 0  # microseconds since the epoch
    events: tuple[Event, ...] = ()
    more: int = 0  # events that are only counted
    ids: tuple[str, ...] = ()
    sealed: Batch | None = None
    earlier: tuple[Batch, ...] = ()  # stored digests, the newest last
    last: int = 0  # when the previous digest was sealed, microseconds since the epoch

    @property
    def is_empty(self) -> bool:
        return not self.ids

    @property
    def next_due(self) -> int:
        """When the waiting events are due, microseconds since the epoch; 0 if there are none."""
        return 0 if self.is_empty else self.due

    def find_digest(self, id_: str) -> Batch | None:
        """Return the digest, sealed or stored, that contains an event."""
        digests = (self.sealed, *self.earlier) if self.sealed else self.earlier
        return next((each for each in digests if id_ in each.ids), None)


class DigestState(msgspec.Struct, frozen=True, rename={"buffer": "pool"}):
    """The stored state of a limit that buffers events."""

    passed: tuple[tuple[str, int], ...] = ()  # of a throttle: ids and times of the last events that passed
    buffer: DigestBuffer = DigestBuffer()

    def throttle_window(self, throttle: Throttle, now: int) -> tuple[tuple[tuple[str, int], ...], int, int]:
        """Return the events that count at ``now``, the present, and the time from which another may pass.

        The present is ``now``, or the time of the last event that passed if that is later: the clock of this
        replica may be behind.
        """
        present, per = max((now, *(at for _, at in self.passed))), int(throttle.per * 1e6)
        recent = tuple(each for each in self.passed if each[1] > present - per)
        return recent, present, recent[-throttle.limit][1] + per if len(recent) >= throttle.limit else present


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDueYet:
    """A digest that has to wait."""

    until: int  # microseconds since the epoch
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()  # the budget that it waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """An event that waits in a buffer."""

    key: str  # of the buffer
    until: int  # microseconds since the epoch
    number: int  # of the digest
    needs_timer: bool  # it is the first event, or it was redelivered and the timer may not be set yet


def apply_digest(rule: str, digest: Digest, event: Event, now: int, *, ttl: float) -> StateSteps[Buffered]:
    """Buffer ``event``.

    The buffer is due ``wait`` after its first event or ``interval`` after the last digest, whichever is
    later.
    """
    key, first = state_key("digest", rule, digest.key, event), now + int(digest.wait * 1e6)

    def change(buffer: DigestBuffer) -> tuple[DigestBuffer, Buffered]:
        due = max(first, buffer.last + int(digest.interval * 1e6))
        return append(key, buffer, event, digest, due=due)

    return _update_buffer(key, ttl, change)


def defer_to_digest(
    key: str, event: Event, exhausted: BudgetExhausted, *, ttl: float
) -> StateSteps[Buffered | None]:
    """Buffer ``event`` under ``key`` until the window of a budget ends; None if the budget has no digest."""
    digest, until = exhausted.budget.digest, exhausted.until
    if digest is None:
        return None
    return (yield from _update_buffer(key, ttl, lambda buffer: append(key, buffer, event, digest, due=until)))


def rejoin(key: str, limits: Limits, event: Event) -> StateSteps[Buffered | None]:
    """Return the buffer under ``key`` or the recent digest that has ``event``; None if neither has it."""
    id_ = event_fingerprint(event)
    return _update_buffer(key, ttl_of(limits), lambda buffer: (buffer, _find(key, buffer, id_)))


def leave(key: str, limits: Limits, event: Event) -> StateSteps[int]:
    """Remove ``event`` from the buffer under ``key``. Return when the others are due; 0 if none wait."""
    return _replace_buffer(key, limits, lambda buffer: remove(buffer, event_fingerprint(event)))


def confirm(key: str, limits: Limits, number: int) -> StateSteps[int]:
    """Drop the sealed batch of the digest ``number``, which is stored now.

    Return when the events that came meanwhile are due, microseconds since the epoch; 0 if there are none.
    They need another timer: theirs may have fired while the batch was sealed.
    """
    return _replace_buffer(key, limits, lambda buffer: confirm_flush(buffer, number))


def _replace_buffer(
    key: str, limits: Limits, change: Callable[[DigestBuffer], DigestBuffer]
) -> StateSteps[int]:
    return _update_buffer(key, ttl_of(limits), lambda before: (after := change(before), after.next_due))


def _update_buffer(
    key: str, ttl: float, change: Callable[[DigestBuffer], tuple[DigestBuffer, T]]
) -> StateSteps[T]:
    def change_state(state: DigestState) -> tuple[DigestState | None, T]:
        buffer, result = change(state.buffer)
        return None if buffer is state.buffer else DigestState(state.passed, buffer), result

    return update_state(key, DigestState, change_state, ttl)


def take_due(
    key: str, limits: Limits, now: int, *, early: bool = False
) -> StateSteps[Batch | NotDueYet | None]:
    """Seal the events under ``key`` if they are due, and return the batch; None if nothing waits.

    If a batch is already sealed, return that one. ``early`` seals events before they are due. A throttle
    counts a digest as one event, so its digest waits until an event may pass.
    """
    throttle = limits.throttle if _limit_of(key) == "throttle" else None

    def change(state: DigestState) -> tuple[DigestState | None, Batch | NotDueYet | None]:
        buffer, passed = state.buffer, state.passed
        if buffer.sealed is not None:
            return state, buffer.sealed  # written again, so its TTL starts again
        if buffer.is_empty:
            return None, None
        if now < buffer.due and not early:
            return None, NotDueYet(until=buffer.due)
        if throttle is not None:
            recent, present, until = state.throttle_window(throttle, now)
            if until > present and not early:
                return None, NotDueYet(until=until)
            passed = (*recent, (f"digest {buffer.number}", present))
        after = seal(buffer, now)
        return DigestState(passed, after), after.sealed

    return update_state(key, DigestState, change, ttl_of(limits))


def digest_spec(limits: Limits, key: str) -> Digest | None:
    """Return the digest that buffers under ``key``; None if the rule no longer has one."""
    match _limit_of(key):
        case "throttle":
            return limits.throttle.digest if limits.throttle else None
        case "budget":
            return next(filter(None, (budget.digest for budget in limits.budgets.values())), None)
        case _:
            return limits.digest


def _limit_of(key: str) -> str:
    return key.partition(".")[0]


def ttl_of(limits: Limits) -> float:
    """Return the seconds that a buffer is kept. A due digest may have to wait for a budget too."""
    return limits.longest_wait + SLACK


def append(
    key: str, buffer: DigestBuffer, event: Event, digest: Digest, *, due: int
) -> tuple[DigestBuffer, Buffered]:
    """Return ``buffer``, stored under ``key``, with ``event``; an empty buffer becomes due at ``due``."""
    id_ = event_fingerprint(event)
    if known := _find(key, buffer, id_):
        return buffer, known
    # The broker drops an unused buffer. A new one counts from a time, so no earlier number comes again.
    number = buffer.number or due // 1_000_000
    opens = buffer.is_empty
    has_room = not buffer.events or (
        len(buffer.events) < digest.max_events
        and len(msgspec.json.encode(buffer.events)) + len(msgspec.json.encode(event)) <= _MAX_BUFFER_BYTES
    )
    after = replace(
        buffer,
        number=number,
        due=due if opens else buffer.due,
        events=(*buffer.events, event) if has_room else buffer.events,
        more=buffer.more + (not has_room),
        ids=(*buffer.ids, id_)[-_MAX_IDS:],
    )
    return after, Buffered(key=key, until=after.due, number=after.number, needs_timer=opens)


def _find(key: str, buffer: DigestBuffer, id_: str) -> Buffered | None:
    if digest := buffer.find_digest(id_):
        return Buffered(key=key, until=digest.at, number=digest.number, needs_timer=False)
    if id_ in buffer.ids:
        return Buffered(key=key, until=buffer.due, number=buffer.number, needs_timer=True)
    return None


def remove(buffer: DigestBuffer, id_: str) -> DigestBuffer:
    """Return ``buffer`` without an event; the same object if the event does not wait there."""
    if id_ not in buffer.ids:
        return buffer
    events = tuple(each for each in buffer.events if event_fingerprint(each) != id_)
    only_counted = len(events) == len(buffer.events)
    ids = tuple(each for each in buffer.ids if each != id_)
    return replace(buffer, events=events, more=buffer.more - only_counted, ids=ids)


def seal(buffer: DigestBuffer, now: int) -> DigestBuffer:
    """Return ``buffer`` with all its events as the sealed batch. It must not have one yet."""
    batch = Batch(number=buffer.number, events=buffer.events, more=buffer.more, ids=buffer.ids, at=now)
    return DigestBuffer(number=buffer.number + 1, sealed=batch, earlier=buffer.earlier, last=now)


def confirm_flush(buffer: DigestBuffer, number: int) -> DigestBuffer:
    """Return ``buffer`` with the digest ``number`` stored; the same object if that is not the sealed one."""
    if buffer.sealed is None or buffer.sealed.number != number:
        return buffer
    last = replace(buffer.sealed, events=(), more=0)
    return replace(buffer, sealed=None, earlier=(*_recent(buffer.earlier, last), last))


def _recent(earlier: tuple[Batch, ...], last: Batch) -> tuple[Batch, ...]:
    """Return the digests whose events may be redelivered, as many as fit together with ``last``."""
    room = _MAX_IDS - len(last.ids)
    kept: list[Batch] = []
    for each in reversed(earlier):
        room -= len(each.ids)
        if room < 0 or each.at < last.at - REDELIVERY_WINDOW * 1e6:
            break
        kept.append(each)
    return tuple(reversed(kept))


def route_digest(rulebook: Rulebook, rule: Rule, key: str, batch: Batch, choices_of: ChoicesOf) -> Routing:
    """Route a digest: one notification for each entry of ``notify`` and each recipient.

    A recipient gets the events that were for them, at the addresses and channels of the last one.
    """
    template = digest.template if (digest := digest_spec(rule.limits, key)) else ""
    digested = digest_event(key, batch)
    match = Match(event=digested, rule=rule)
    groups: dict[tuple[int, tuple[str, ...], str], list[tuple[Event, Notification]]] = {}
    suppressed: dict[Suppressed, None] = {}
    for event in batch.events:
        resolver = RecipientResolver(rulebook, event, choices_of)
        for position, notify in enumerate(rule.notify):
            for result in route_entry(Match(event=event, rule=rule), notify, resolver):
                if isinstance(result, Notification):
                    # A channel without addresses is one recipient, whichever users the events are about.
                    place = position, result.to, result.recipient.user if result.to else ""
                    groups.setdefault(place, []).append((event, result))
                else:
                    suppressed[result] = None
    notifications: dict[str, Notification] = {}
    for group in groups.values():
        last = group[-1][1]
        merged = DigestContents(events=tuple(event for event, _ in group), more=batch.more, template=template)
        steps = [replace(step, match=match, merged=merged, id="") for step in last.steps]
        notifications.setdefault(steps[0].id, with_fallbacks(steps, last.fallback_after))
    known = rulebook.catalogue.get
    secrets = {
        secret
        for event in batch.events
        if (schema := known(event.name))
        for secret in schema.secrets_in(event.payload)
    }
    return Routing(
        event=digested,
        rulebook=rulebook,
        matches=(match,),
        notifications=tuple(notifications.values()),
        suppressed=tuple(suppressed),
        digest=digest_ref(key, batch),
        secrets=longest_first(secrets),
    )


def digest_ref(key: str, batch: Batch) -> DigestRef:
    """Return the reference of a digest that history shows."""
    return DigestRef(key=key, number=batch.number, events=batch.events, more=batch.more)


def digest_reqid(key: str, number: int) -> str:
    """Return the reqid of a digest. Its history is stored under it."""
    return f"{key.replace('.', '-')}-{number}"


def digest_key(reqid: str) -> str:
    """Return the key of the buffer that the digest with that reqid came from."""
    return reqid.rpartition("-")[0].replace("-", ".")


def digest_event(key: str, batch: Batch) -> Event:
    """Return the digest as an event of its own; its payload is that of the last event."""
    return replace(
        batch.events[-1],
        reqid=digest_reqid(key, batch.number),
        received=batch.at,
        hops=max(event.hops for event in batch.events),
    )
