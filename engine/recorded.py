"""An event that comes again after its plan was written down: what was decided then stands.

By now windows may be over, hours may have changed and budgets may be used up: asked again, the gates
might send what is recorded as suppressed, or the other way round.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from . import entries
from .draft import DigestTimer, Routing
from .gates import apply_time_windows, digest_key


def apply_record(drafted: Routing, entry: entries.PlanRecord, now: int) -> Routing:
    """``drafted`` as far as ``entry`` has it, without asking a gate.

    A rule that recorded a message which it does not ask for any more, since the policy or its reader's
    choices have changed, tells as it would ``now``, in microseconds since the epoch: rather twice than never.
    """
    # What could not be written is tried again: its dead letter may not be stored.
    wanted = {each.id for each in entry.deliveries} | {each.delivery for each in entry.failures}
    waits = {each.delivery: each.until for each in entry.held if each.delivery}
    orders = tuple(
        structs.replace(order, not_before=until)
        if (until := waits.get(order.id, 0)) != order.not_before
        else order
        for order in apply_time_windows(drafted, entry.at).notifications
        if order.id in wanted
    )
    found = {order.id for order in orders}
    changed = {each.rule for each in entry.deliveries if each.id not in found}
    instead = (
        order
        for order in (apply_time_windows(drafted, now).notifications if changed else ())
        if order.match.rule.id in changed and order.id not in found
    )
    return replace(
        drafted,
        matches=tuple(match for match in drafted.matches if match.rule.id in entry.rules),
        notifications=(*orders, *instead),
        suppressed=entry.suppressed,
        held=entry.held,
        timers=tuple(
            DigestTimer(key=digest_key(each.digest), rule=each.rule, at=each.until)
            for each in entry.held
            if each.digest
        ),
    )
