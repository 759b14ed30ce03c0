"""From a batch of events to the draft of one digest: the same messages as of each event, told together."""

from __future__ import annotations

from msgspec.structs import replace

from ..catalogue import longest_first
from ..choices import ChoicesOf
from ..draft import Digested, Draft, Merged, Order, Readers, ask, chained
from ..model import Event, Suppressed
from ..rulebook import Match, Rule, Rulebook
from .digest import digest_at
from .pool import Batch


def merge(rulebook: Rulebook, rule: Rule, key: str, batch: Batch, choices_of: ChoicesOf) -> Draft:
    """The draft of a digest: one order for each entry of ``notify`` and each recipient.

    A recipient is told of the events that were for them, as they are to be reached by the last one.
    """
    template = digest.template if (digest := digest_at(rule.limits, key)) else ""
    events = [gathered.event for gathered in batch.events]
    whole = digest_event(key, batch)
    match = Match(event=whole, rule=rule)
    groups: dict[tuple[int, tuple[str, ...], str], list[tuple[Event, Order]]] = {}
    suppressed: dict[Suppressed, None] = {}
    for event in events:
        readers = Readers(rulebook, event, choices_of)
        for position, notify in enumerate(rule.notify):
            for result in ask(Match(event=event, rule=rule), notify, readers):
                if isinstance(result, Order):
                    # A channel that needs no address is one reader, whomever the events are about.
                    place = position, result.to, result.recipient.user if result.to else ""
                    groups.setdefault(place, []).append((event, result))
                else:
                    suppressed[result] = None
    orders: dict[str, Order] = {}
    for told in groups.values():
        last = told[-1][1]
        merged = Merged(events=tuple(event for event, _ in told), more=batch.more, template=template)
        steps = [replace(step, match=match, merged=merged, id="") for step in last.steps]
        orders.setdefault(steps[0].id, chained(steps, last.within))
    known = rulebook.catalogue.get
    secrets = {
        secret
        for event in events
        if (schema := known(event.name))
        for secret in schema.secrets_in(event.payload)
    }
    return Draft(
        event=whole,
        rulebook=rulebook,
        matches=(match,),
        orders=tuple(orders.values()),
        suppressed=tuple(suppressed),
        digest=Digested(key=key, number=batch.number, events=tuple(events), more=batch.more),
        secrets=longest_first(secrets),
    )


def reqid_of(key: str, number: int) -> str:
    """The reqid of a digest: its history lies under it."""
    return f"{key.replace('.', '-')}-{number}"


def key_of(reqid: str) -> str:
    """Where the events of the digest with that reqid lie."""
    return reqid.rpartition("-")[0].replace("-", ".")


def digest_event(key: str, batch: Batch) -> Event:
    """The digest as an event of its own; what templates see as payload is the last one's."""
    events = [gathered.event for gathered in batch.events]
    last = events[-1]
    return replace(
        last,
        reqid=reqid_of(key, batch.number),
        received=batch.at,
        hops=max(event.hops for event in events),
    )
