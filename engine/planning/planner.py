"""Plan an event: from the event to finished deliveries, without a clock, a socket or a log.

``serve``, ``test`` and ``explain`` all call ``plan``, and do no more than it returns. If an event arrives
again after its plan was recorded, the recorded plan applies: meanwhile windows may have ended and budgets
may be exhausted, so a new plan could send a message that was suppressed, or the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from msgspec import structs

from ..model.errors import TemplateError
from ..model.messages import Delivery, Event, Failure, Held, Message, Recipient, RedriveId, Suppressed
from ..model.times import from_micros
from ..rules.rulebook import BudgetExhausted, ChannelSpec, Match, Notify, Rule, Rulebook
from ..templates import library
from ..templates.library import LocalizedTemplate, render_template
from . import records
from .draft import DigestRef, DigestTimer, Notification, Routing, link_fallbacks, route
from .limits.digest import Batch, NotDueYet, digest_event, digest_key, digest_ref, route_digest
from .limits.stages import apply_limits, apply_time_windows, limit_digest
from .limits.state import StateSteps, run_in_memory
from .recipients import ChoicesOf, no_preferences


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one event leads to."""

    event: Event
    revision: str
    matches: tuple[Match, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()  # finished deliveries, and messages that will be in a digest
    timers: tuple[DigestTimer, ...] = ()  # when the digests are due
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()  # budgets that had not enough left
    failures: tuple[Failure, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever it is shown
    redrive: RedriveId | None = None  # it was a dead letter
    digest: DigestRef | None = None  # it is one


def plan(
    rulebook: Rulebook, event: Event, now: int | None = None, choices_of: ChoicesOf = no_preferences
) -> Plan:
    """All that ``event`` leads to under ``rulebook`` if no other came before it.

    Equal arguments give equal plans. ``now``, microseconds since the epoch, is when the event was taken
    where nothing else is said.
    """
    return run_in_memory(plan_steps(rulebook, event, event.received if now is None else now, choices_of), {})


def plan_steps(
    rulebook: Rulebook,
    event: Event,
    now: int,
    choices_of: ChoicesOf = no_preferences,
    *,
    comes_again: bool = False,
) -> StateSteps[Plan]:
    """The same with what the gates remember of other events, which it asks for.

    ``comes_again``: they may have been asked of this one before, and nothing was written down.
    """
    drafted = route(rulebook, event, choices_of)
    return render_plan((yield from apply_limits(drafted, now, comes_again=comes_again)))


def plan_from_record(drafted: Routing, recorded: records.PlanRecord, now: int) -> Plan:
    """The plan that was written down of an event, with its words; ``drafted`` is what it asks for."""
    return render_plan(apply_record(drafted, recorded, now))


def plan_digest(
    rulebook: Rulebook, rule: Rule, key: str, batch: Batch, *, now: int, choices_of: ChoicesOf
) -> StateSteps[Plan | NotDueYet]:
    """The digest of ``batch``, as an event of its own; Postponed where there is no budget for it."""
    drafted = yield from limit_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of)
    return drafted if isinstance(drafted, NotDueYet) else render_plan(drafted)


def replan_digest(
    rulebook: Rulebook,
    rule: Rule,
    key: str,
    batch: Batch,
    *,
    now: int,
    choices_of: ChoicesOf,
    recorded: records.PlanRecord | None = None,
) -> Plan:
    """The same of one that has passed the gates before: as it was ``recorded``, or was a dead letter."""
    drafted = route_digest(rulebook, rule, key, batch, choices_of)
    return render_plan(apply_record(drafted, recorded, now) if recorded else apply_time_windows(drafted, now))


def plan_dropped_digest(revision: str, rule: str, key: str, batch: Batch) -> Plan:
    """What is written down of a batch that nobody is told of, because its rule is gone."""
    return Plan(
        event=digest_event(key, batch),
        revision=revision,
        suppressed=(Suppressed(rule=rule, channel="", reason="removed"),),
        digest=digest_ref(key, batch),
    )


def render_plan(drafted: Routing) -> Plan:
    """The plan with the words of every order that is left in a draft."""
    deliveries: list[Delivery] = []
    failures: list[Failure] = []
    known: _Known = {}
    skipped: list[Failure] = []  # of chains that do without
    for order in drafted.notifications:
        written, unwritten = _render_steps(drafted, order, known)
        if written:
            deliveries.append(link_fallbacks(written, order.fallback_after))
        else:
            failures.append(unwritten.pop(0))
        skipped += unwritten
    return Plan(
        event=drafted.event,
        revision=drafted.rulebook.revision,
        matches=drafted.matches,
        deliveries=tuple(deliveries),
        suppressed=(
            *drafted.suppressed,
            *(
                Suppressed(rule=f.rule, channel=f.channel, reason="not_rendered", detail=f.detail)
                for f in skipped
            ),
        ),
        held=drafted.held,
        timers=drafted.timers,
        exhausted_budgets=drafted.exhausted_budgets,
        digest=drafted.digest,
        failures=tuple(failures),
        secrets=drafted.secrets,
    )


def _render_steps(
    drafted: Routing, order: Notification, known: _Known
) -> tuple[list[Delivery], list[Failure]]:
    """The order and its fall-backs, as far as their words can be written."""
    written: list[Delivery] = []
    failures: list[Failure] = []
    for step in (order, *order.fallbacks):
        try:
            written.append(_render_delivery(drafted, step, known))
        except TemplateError as error:
            rule, channel = step.match.rule.id, step.channel.name
            failures.append(Failure(rule=rule, channel=channel, detail=str(error), delivery=step.id))
    return written, failures


def find_template(
    rulebook: Rulebook, template: str, channel: ChannelSpec, locale: str
) -> LocalizedTemplate | None:
    """The words of ``template`` for a reader of ``locale``; None for a channel that says nothing.

    Raises TemplateError where a channel that speaks has none.
    """
    wanted = library.locale_chain(locale, rulebook.defaults.locale)
    words = rulebook.library.find(template, (channel.name, channel.type), wanted)
    if words is None and channel.renders_text:
        raise TemplateError(f"template {template!r} has no words for channel {channel.name!r}")
    return words


# Messages of one event that are written already, by what their words depend on.
_Known: TypeAlias = dict[tuple[object, ...], Message]


def _render_delivery(drafted: Routing, order: Notification, known: _Known) -> Delivery:
    """The finished delivery that ``order`` asks for. Raises TemplateError."""
    rulebook, event, channel, recipient = drafted.rulebook, drafted.event, order.channel, order.recipient
    words = find_template(rulebook, order.template, channel, recipient.locale)
    return Delivery(
        id=order.id,
        kind=event.kind,
        key=event.key,
        reqid=event.reqid,
        rule=order.match.rule.id,
        revision=rulebook.revision,
        channel=channel.name,
        user=recipient.user,
        to=order.to,
        locale=(words.locale if words else "") or rulebook.defaults.locale,
        severity=order.match.rule.severity,
        message=_message(rulebook, order, words, known) if words else Message(),
        payload=None if channel.renders_text else _payload(order),
        secrets=drafted.secrets,
        created=event.received,
        hops=event.hops,
        not_before=order.not_before,
    )


def _payload(order: Notification) -> Mapping[str, Any]:
    """What a machine is given: the event's payload, of a digest all of them."""
    if order.merged is None:
        return order.match.event.payload
    return {"events": [event.payload for event in order.merged.events], "more": order.merged.more}


def _message(rulebook: Rulebook, order: Notification, words: LocalizedTemplate, known: _Known) -> Message:
    reader = (id(order.recipient), order.to) if words.depends_on_recipient else ()
    told = id(order.merged) if order.merged else 0
    key = (id(words), order.match.rule.id, id(order.notify) if order.notify.vars else 0, told, *reader)
    message = known.get(key)
    if message is None:
        message = known[key] = render_template(words, _order_context(rulebook, order))
    return message


def _order_context(rulebook: Rulebook, order: Notification) -> dict[str, Any]:
    event, rule, address = order.match.event, order.match.rule, order.to[0] if order.to else ""
    whole = template_context(rulebook, event, rule, order.notify, order.recipient, address=address)
    return {**whole, **digest_context(order.merged.events, order.merged.more)} if order.merged else whole


def digest_context(events: Sequence[Event], more: int) -> dict[str, Any]:
    """What a template sees of all that a digest tells of; ``payload`` is the last one's."""
    return {
        "payload": events[-1].payload,
        "events": [{**event_fields(each, str(each.kind)), "payload": each.payload} for each in events],
        "more": more,
    }


def template_context(
    rulebook: Rulebook, event: Event, rule: Rule, notify: Notify, recipient: Recipient, *, address: str
) -> dict[str, Any]:
    """What a template sees. Times are aware datetimes in UTC."""
    return {
        **event_context(event, str(event.kind)),
        "rule": {"id": rule.id, "description": rule.description, "severity": str(rule.severity)},
        "recipient": {"user": recipient.user, "address": address, "locale": recipient.locale},
        "vars": {**rule.vars, **notify.vars},
        "site": rulebook.defaults.site,
    }


def event_context(event: Event, kind: str) -> dict[str, Any]:
    """What a template sees of the one event that its message tells of."""
    words = event_fields(event, kind)
    return {
        "payload": event.payload,
        "event": words,
        "events": [{**words, "payload": event.payload}],
        "more": 0,
    }


def event_fields(event: Event, kind: str) -> dict[str, Any]:
    """``event`` as templates see it; times are aware datetimes in UTC."""
    return {
        "kind": kind,
        "key": event.key,
        "reqid": event.reqid,
        "sent": from_micros(event.sent),
        "received": from_micros(event.received),
    }


def apply_record(drafted: Routing, entry: records.PlanRecord, now: int) -> Routing:
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
