"""What tells somebody when an action is asked for: over the first of its channels that takes the message.

The next one is tried only after a definite failure: a message that may have gone out ends the action.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..audience import texts, usable_address
from ..catalogue import LOCALE_ROLE, USER_ROLE, mask
from ..draft import delivery_id
from ..errors import TemplateError, UndecodableError
from ..model import Delivery, Event, Kind, Message, Outcome, Severity
from ..paths import resolve
from ..plan import event_context, find_template
from ..rulebook import ActionSpec, ChannelSpec, Rulebook
from ..templates import render_template
from .payloads import read_payload
from .request import NOT_BEGUN, OUTCOME_UNKNOWN, ActionRequest, ActionResponse, failed
from .shapes import ANY, SHAPES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSED = "not delivered: the other side refuses it"
_DEFERRED = "not delivered: try again later"
_IN_PART = "not delivered to everybody"
_NO_WORDS = "not delivered: the message cannot be written"
_MIN_SECRET_LENGTH = 4  # characters; masking "1" wherever it occurs would destroy the text


class UnreachableError(Exception):
    """There is no usable address; the text is what the caller hears."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """How a send over one channel ended."""

    answer: ActionResponse
    is_last: bool  # no other channel may be tried


def send_result(outcome: Outcome, detail: str = "", *, in_part: bool = False) -> SendResult:
    """Of a send. ``in_part``: others have the message, and another channel would tell them twice."""
    match outcome:
        case Outcome.SENT:
            return SendResult(answer=ActionResponse(), is_last=True)
        case Outcome.REFUSED:
            return SendResult(answer=failed(_REFUSED, detail), is_last=False)
        case Outcome.DEFERRED:
            return SendResult(answer=failed(_IN_PART if in_part else _DEFERRED, detail), is_last=in_part)
        case Outcome.UNKNOWN:
            return SendResult(answer=failed(OUTCOME_UNKNOWN, detail), is_last=True)


def delivery_steps(
    rulebook: Rulebook, spec: ActionSpec, channels: Sequence[ChannelSpec], request: ActionRequest
) -> Generator[Delivery, SendResult, ActionResponse]:
    """Hand out what is to be sent, be told how each ended, and return what the caller hears."""
    try:
        payload = read_payload(request.payload, SHAPES.get(spec.key, ANY))
    except UndecodableError as error:
        return failed(str(error))
    said: list[str] = []
    answer = failed(NOT_BEGUN)
    for channel in channels:
        try:
            delivery = build_delivery(rulebook, spec, channel, request, payload)
        except UnreachableError as error:
            answer = failed(str(error))
            continue
        except TemplateError as error:
            answer = failed(_NO_WORDS)
            said.append(f"{channel.name}: {error}")
            continue
        ended = yield delivery
        answer = ended.answer
        if answer.detail:
            said.append(mask(f"{channel.name}: {answer.detail}", delivery.secrets))
        if ended.is_last:
            break
    return ActionResponse() if answer.code == 0 else failed(answer.message, "; ".join(said))


def build_delivery(
    rulebook: Rulebook,
    spec: ActionSpec,
    channel: ChannelSpec,
    request: ActionRequest,
    payload: Mapping[str, Any],
) -> Delivery:
    """The delivery that ``request`` asks for. Raises UnreachableError or TemplateError."""
    found = {role: tuple(texts(resolve(payload, path))) for role, path in spec.to.items()}
    to = _addresses(channel, found)
    user = next(iter(found.get(USER_ROLE, ())), "")
    wanted = next(iter(found.get(LOCALE_ROLE, ())), "")
    words = find_template(rulebook, spec.template, channel, wanted)
    # A channel knows three kinds; what an action says is for one person's eyes, as an audit is.
    event = Event(
        kind=Kind.AUDIT,
        key=request.key,
        reqid=request.reqid,
        payload=payload,
        sent=request.sent,
        received=request.received,
    )
    context = {
        **event_context(event, "action"),
        "rule": {"id": spec.key, "description": "", "severity": str(Severity.NONE)},
        "recipient": {"user": user, "address": to[0] if to else "", "locale": wanted},
        "vars": spec.vars,
        "site": rulebook.defaults.site,
    }
    return Delivery(
        id=delivery_id(event, spec.key, channel.name, spec.template, to or (user,)),
        kind=event.kind,
        key=request.key,
        reqid=request.reqid,
        rule=spec.key,
        revision=rulebook.revision,
        channel=channel.name,
        user=user,
        to=to,
        locale=(words.locale if words else "") or rulebook.defaults.locale,
        severity=Severity.NONE,
        message=render_template(words, context) if words else Message(),
        payload=None if channel.renders_text else payload,
        secrets=secrets_in(spec, payload),
        created=request.received,
    )


def secrets_in(spec: ActionSpec, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The sensitive values of a payload, longest first, so that no part of one is left over."""
    values = {text for path in spec.sensitive for text in texts(resolve(payload, path))}
    return tuple(sorted((v for v in values if len(v) >= _MIN_SECRET_LENGTH), key=len, reverse=True))


def _addresses(channel: ChannelSpec, found: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where the channel is to send: all in one message, or the request is refused as a whole."""
    kind = channel.address
    if kind is None:
        return ()
    given = found.get(kind, ())
    if not given:
        raise UnreachableError(_bad_address(kind, "no address"))
    usable = dict.fromkeys(usable_address(kind, text) for text in given)
    if None in usable:
        raise UnreachableError(_bad_address(kind, "no angle-addr"))
    if len(usable) > 1 and not channel.many:
        raise UnreachableError(f"one {kind} address at a time")
    return tuple(address for address in usable if address is not None)


def _bad_address(kind: str, why: str) -> str:
    """For mail in the words of the original, which are those of Go's parser."""
    return f"email address invalid: mail: {why}" if kind == "email" else f"{kind} address invalid"
