"""Plan an event: from the event to finished deliveries, without a clock, a socket or a log.

``serve``, ``test`` and ``explain`` all call ``plan``, and do no more than it returns. If an event arrives
again after its plan was recorded, the recorded plan applies. A new plan could differ: windows may have
ended and budgets may be exhausted, so it could send a message that was suppressed.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The deliveries of one event, and the reasons for the messages that are not sent."""

    event: Event
    revision: str
    matches: tuple[Match, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    held: tuple[Held, ...] = ()  # finished deliveries, and messages that will be in a digest
    timers: tuple[DigestTimer, ...] = ()  # when the digests are due
    exhausted_budgets: tuple[BudgetExhausted, ...] = ()
    failures: tuple[Failure, ...] = ()  # messages that could not be rendered
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to mask wherever the plan is shown
    redrive: RedriveId | None = None  # set if the event was a dead letter
    digest: DigestRef | None = None  # set if the event is a digest


def plan(
    rulebook: Rulebook, event: Event, now: int | None = None, choices_of: ChoicesOf = no_preferences
) -> Plan:
    """Plan ``event`` under ``rulebook`` as if no other event came before it.

    Equal arguments give equal plans. ``now`` is in microseconds since the epoch; by default it is the time
    at which the event was received.
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
    """Plan ``event`` with the state of the limits, in steps that ask for it.

    ``comes_again`` means that the event may have been planned before, and no plan was recorded.
    """
    routing = route(rulebook, event, choices_of)
    return render_plan((yield from apply_limits(routing, now, comes_again=comes_again)))


def plan_from_record(routing: Routing, record: records.PlanRecord, now: int) -> Plan:
    """Return the recorded plan of an event, rendered; ``routing`` is the event's."""
    return render_plan(apply_record(routing, record, now))


def plan_digest(
    rulebook: Rulebook, rule: Rule, key: str, batch: Batch, *, now: int, choices_of: ChoicesOf
) -> StateSteps[Plan | NotDueYet]:
    """Plan the digest of ``batch`` as an event of its own; NotDueYet if its budget is exhausted."""
    routing = yield from limit_digest(rulebook, rule, key, batch, now=now, choices_of=choices_of)
    return routing if isinstance(routing, NotDueYet) else render_plan(routing)


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
    """Plan a digest without limits: by its record, or by time windows alone if it has none."""
    routing = route_digest(rulebook, rule, key, batch, choices_of)
    return render_plan(apply_record(routing, recorded, now) if recorded else apply_time_windows(routing, now))


def plan_dropped_digest(revision: str, rule: str, key: str, batch: Batch) -> Plan:
    """Return the plan of a batch that nobody is notified of, because its rule was removed."""
    return Plan(
        event=digest_event(key, batch),
        revision=revision,
        suppressed=(Suppressed(rule=rule, channel="", reason="removed"),),
        digest=digest_ref(key, batch),
    )


def render_plan(routing: Routing) -> Plan:
    """Render every notification of ``routing``. A step of a chain that cannot be rendered is left out."""
    deliveries: list[Delivery] = []
    failures: list[Failure] = []
    skipped: list[Failure] = []  # of chains that are sent without them
    rendered: _Rendered = {}
    for notification in routing.notifications:
        steps: list[Delivery] = []
        failed: list[Failure] = []
        for step in (notification, *notification.fallbacks):
            try:
                steps.append(render_delivery(routing.rulebook, step, routing.secrets, rendered))
            except TemplateError as error:
                rule, channel = step.match.rule.id, step.channel.name
                failed.append(Failure(rule=rule, channel=channel, detail=str(error), delivery=step.id))
        if steps:
            deliveries.append(link_fallbacks(steps, notification.fallback_after))
        else:
            failures.append(failed.pop(0))
        skipped += failed
    return Plan(
        event=routing.event,
        revision=routing.rulebook.revision,
        matches=routing.matches,
        deliveries=tuple(deliveries),
        suppressed=(
            *routing.suppressed,
            *(
                Suppressed(rule=f.rule, channel=f.channel, reason="not_rendered", detail=f.detail)
                for f in skipped
            ),
        ),
        held=routing.held,
        timers=routing.timers,
        exhausted_budgets=routing.exhausted_budgets,
        digest=routing.digest,
        failures=tuple(failures),
        secrets=routing.secrets,
    )


def find_template(
    rulebook: Rulebook, template: str, channel: ChannelSpec, locale: str
) -> LocalizedTemplate | None:
    """Return ``template`` for a recipient of ``locale``; None for a channel that renders no text.

    Raises TemplateError if a channel that renders text has none.
    """
    wanted = library.locale_chain(locale, rulebook.defaults.locale)
    found = rulebook.library.find(template, (channel.name, channel.type), wanted)
    if found is None and channel.renders_text:
        raise TemplateError(f"template {template!r} has no text for channel {channel.name!r}")
    return found


# The messages of one event that are rendered already, by what their content depends on.
_Rendered: TypeAlias = dict[tuple[object, ...], Message]


def render_delivery(
    rulebook: Rulebook,
    notification: Notification,
    secrets: tuple[str, ...],
    rendered: _Rendered,
    kind: str = "",
) -> Delivery:
    """Return the finished delivery of ``notification``. Raises TemplateError.

    ``kind`` is what templates see as the kind of the event, if it differs.
    """
    rule, channel, recipient = notification.match.rule, notification.channel, notification.recipient
    event, merged, message = notification.match.event, notification.merged, Message()
    template = find_template(rulebook, notification.template, channel, recipient.locale)
    if template is not None:
        reader = (id(recipient), notification.to) if template.depends_on_recipient else ()
        variables = id(notification.notify) if notification.notify.vars else 0
        key = (id(template), rule.id, variables, id(merged) if merged else 0, *reader)
        known = rendered.get(key)
        if known is None:
            known = rendered[key] = render_template(template, _context(rulebook, notification, kind))
        message = known
    payload: Mapping[str, Any] | None = None
    if not channel.renders_text:  # it sends the payload: of a digest those of all its events
        payload = event.payload
        if merged:
            payload = {"events": [each.payload for each in merged.events], "more": merged.more}
    return Delivery(
        id=notification.id,
        kind=event.kind,
        key=event.key,
        reqid=event.reqid,
        rule=rule.id,
        revision=rulebook.revision,
        channel=channel.name,
        user=recipient.user,
        to=notification.to,
        locale=(template.locale if template else "") or rulebook.defaults.locale,
        severity=rule.severity,
        message=message,
        payload=payload,
        secrets=secrets,
        created=event.received,
        hops=event.hops,
        not_before=notification.not_before,
    )


def _context(rulebook: Rulebook, notification: Notification, kind: str) -> dict[str, Any]:
    match, merged = notification.match, notification.merged
    address = notification.to[0] if notification.to else ""
    context = template_context(
        rulebook,
        match.event,
        match.rule,
        notification.notify,
        notification.recipient,
        address=address,
        kind=kind,
    )
    if merged:
        events = [{**_event_fields(each, str(each.kind)), "payload": each.payload} for each in merged.events]
        context |= {"payload": merged.events[-1].payload, "events": events, "more": merged.more}
    return context


def template_context(
    rulebook: Rulebook,
    event: Event,
    rule: Rule,
    notify: Notify,
    recipient: Recipient,
    *,
    address: str,
    kind: str = "",
) -> dict[str, Any]:
    """Return the variables of a template. Times are aware datetimes in UTC."""
    fields = _event_fields(event, kind or str(event.kind))
    return {
        "payload": event.payload,
        "event": fields,
        "events": [{**fields, "payload": event.payload}],
        "more": 0,
        "rule": {"id": rule.id, "description": rule.description, "severity": str(rule.severity)},
        "recipient": {"user": recipient.user, "address": address, "locale": recipient.locale},
        "vars": {**rule.vars, **notify.vars},
        "site": rulebook.defaults.site,
    }


def _event_fields(event: Event, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "key": event.key,
        "reqid": event.reqid,
        "sent": from_micros(event.sent),
        "received": from_micros(event.received),
    }


def apply_record(routing: Routing, record: records.PlanRecord, now: int) -> Routing:
    """Return ``routing`` with the messages of ``record``, without asking a limit.

    If the policy or the user's preferences changed, a rule may no longer ask for a recorded message. Then
    its other messages are sent as of ``now``, microseconds since the epoch: twice is better than never.
    """
    # A failed message is rendered again: its dead letter may not be stored.
    wanted = {each.id for each in record.deliveries} | {each.delivery for each in record.failures}
    waits = {each.delivery: each.until for each in record.held if each.delivery}
    notifications = tuple(
        structs.replace(each, not_before=until)
        if (until := waits.get(each.id, 0)) != each.not_before
        else each
        for each in apply_time_windows(routing, record.at).notifications
        if each.id in wanted
    )
    found = {each.id for each in notifications}
    changed = {each.rule for each in record.deliveries if each.id not in found}
    replacements = (
        each
        for each in (apply_time_windows(routing, now).notifications if changed else ())
        if each.match.rule.id in changed and each.id not in found
    )
    return replace(
        routing,
        matches=tuple(match for match in routing.matches if match.rule.id in record.rules),
        notifications=(*notifications, *replacements),
        suppressed=record.suppressed,
        held=record.held,
        timers=tuple(
            DigestTimer(key=digest_key(each.digest), rule=each.rule, at=each.until)
            for each in record.held
            if each.digest
        ),
    )
