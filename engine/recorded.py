"""An event that comes again after its plan was written down: what was decided then stands.

By now windows may be over, hours may have changed and budgets may be used up: asked again, the gates
might send what is recorded as suppressed, or the other way round.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from . import entries
from .draft import Alarm, Draft
from .gates import in_time, key_of


def as_recorded(drafted: Draft, entry: entries.Plan, now: int) -> Draft:
    """``drafted`` as far as ``entry`` has it, without asking a gate.

    A rule that recorded a message which it does not ask for any more, since the policy or its reader's
    choices have changed, tells as it would ``now``, in microseconds since the epoch: rather twice than never.
    """
    # What could not be written is tried again: its dead letter may not be stored.
    wanted = {each.id for each in entry.deliveries} | {each.delivery for each in entry.failures}
    waits = {each.delivery: each.until for each in entry.held if each.delivery}
    orders = tuple(
        structs.replace(order, released=until)
        if (until := waits.get(order.id, 0)) != order.released
        else order
        for order in in_time(drafted, entry.at).orders
        if order.id in wanted
    )
    found = {order.id for order in orders}
    changed = {each.rule for each in entry.deliveries if each.id not in found}
    instead = (
        order
        for order in (in_time(drafted, now).orders if changed else ())
        if order.match.rule.id in changed and order.id not in found
    )
    return replace(
        drafted,
        matches=tuple(match for match in drafted.matches if match.rule.id in entry.rules),
        orders=(*orders, *instead),
        suppressed=entry.suppressed,
        held=entry.held,
        alarms=tuple(
            Alarm(key=key_of(each.digest), rule=each.rule, at=each.until)
            for each in entry.held
            if each.digest
        ),
    )
