"""From a batch of events to the draft of one digest: the same messages as of each event, told together."""

from __future__ import annotations

from msgspec.structs import replace

from ..catalogue import longest_first
from ..choices import ChoicesOf
from ..draft import (
    DigestContents,
    DigestRef,
    Notification,
    RecipientResolver,
    Routing,
    route_entry,
    with_fallbacks,
)
from ..model import Event, Suppressed
from ..rulebook import Match, Rule, Rulebook
from .digest import digest_spec
from .pool import Batch


def route_digest(rulebook: Rulebook, rule: Rule, key: str, batch: Batch, choices_of: ChoicesOf) -> Routing:
    """The draft of a digest: one order for each entry of ``notify`` and each recipient.

    A recipient is told of the events that were for them, as they are to be reached by the last one.
    """
    template = digest.template if (digest := digest_spec(rule.limits, key)) else ""
    events = [gathered.event for gathered in batch.events]
    whole = digest_event(key, batch)
    match = Match(event=whole, rule=rule)
    groups: dict[tuple[int, tuple[str, ...], str], list[tuple[Event, Notification]]] = {}
    suppressed: dict[Suppressed, None] = {}
    for event in events:
        readers = RecipientResolver(rulebook, event, choices_of)
        for position, notify in enumerate(rule.notify):
            for result in route_entry(Match(event=event, rule=rule), notify, readers):
                if isinstance(result, Notification):
                    # A channel that needs no address is one reader, whomever the events are about.
                    place = position, result.to, result.recipient.user if result.to else ""
                    groups.setdefault(place, []).append((event, result))
                else:
                    suppressed[result] = None
    orders: dict[str, Notification] = {}
    for told in groups.values():
        last = told[-1][1]
        merged = DigestContents(events=tuple(event for event, _ in told), more=batch.more, template=template)
        steps = [replace(step, match=match, merged=merged, id="") for step in last.steps]
        orders.setdefault(steps[0].id, with_fallbacks(steps, last.fallback_after))
    known = rulebook.catalogue.get
    secrets = {
        secret
        for event in events
        if (schema := known(event.name))
        for secret in schema.secrets_in(event.payload)
    }
    return Routing(
        event=whole,
        rulebook=rulebook,
        matches=(match,),
        notifications=tuple(orders.values()),
        suppressed=tuple(suppressed),
        digest=DigestRef(key=key, number=batch.number, events=tuple(events), more=batch.more),
        secrets=longest_first(secrets),
    )


def digest_reqid(key: str, number: int) -> str:
    """The reqid of a digest: its history lies under it."""
    return f"{key.replace('.', '-')}-{number}"


def digest_key(reqid: str) -> str:
    """Where the events of the digest with that reqid lie."""
    return reqid.rpartition("-")[0].replace("-", ".")


def digest_event(key: str, batch: Batch) -> Event:
    """The digest as an event of its own; what templates see as payload is the last one's."""
    events = [gathered.event for gathered in batch.events]
    last = events[-1]
    return replace(
        last,
        reqid=digest_reqid(key, batch.number),
        received=batch.at,
        hops=max(event.hops for event in events),
    )
