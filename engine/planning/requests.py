"""Action requests that send a message: the payload, the message, the response.

A message goes over the first of its channels that accepts it. The next channel is tried only after a
definite failure: a message that may have gone out ends the action.

Payloads are read as the original server reads them. Field names ignore case, unknown fields are ignored,
and null is the empty text. A value of another type is rejected with the text of the original.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..model.addresses import usable_address
from ..model.errors import TemplateError, UndecodableError
from ..model.masking import mask, maskable
from ..model.messages import Delivery, Event, Kind, Outcome, Recipient
from ..rules.catalog import LOCALE_ROLE, USER_ROLE
from ..rules.conditions import Block
from ..rules.paths import resolve
from ..rules.rulebook import ActionSpec, ChannelSpec, Match, Notify, Rule, Rulebook
from .draft import Notification
from .planner import render_delivery
from .recipients import texts

_REFUSED = "not delivered: the other side refuses it"
_DEFERRED = "not delivered: try again later"
_IN_PART = "not delivered to everybody"
_NOT_RENDERED = "not delivered: the message cannot be written"
NOT_BEGUN = "not carried out: no time left"
OUTCOME_UNKNOWN = "outcome unknown: it may have been carried out"

_MAX_VALUE_LENGTH = 100  # characters of a value in an error message

# By handler, the text fields of its payload -> their names in the original's error messages.
SHAPES: dict[str, Mapping[str, str]] = {
    "iplocation": {"ipaddr": "IpAddr", "locale": "Locale"},
    "sendverifyemail": {
        "subject": "Subject",
        "userid": "UserId",
        "to": "To",
        "href": "Href",
        "locale": "Locale",
        "expire": "Expire",
    },
}
ANY: Mapping[str, str] = {}  # the shape of any other action


class UnreachableError(Exception):
    """The request has no usable address. The text goes to the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """A received request for an action."""

    key: str  # the subject's tokens after the prefix and ``action.``
    reqid: str
    payload: Any  # any JSON
    data: bytes  # the whole envelope
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # this process's clock, microseconds since the epoch
    person: str | None = None  # the user whom it is about: the token after the key, if there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResponse:
    """The response to the caller. ``message`` and ``payload`` contain nothing about this server."""

    code: int = 0
    message: str = "ok"
    payload: dict[str, Any] | None = None
    detail: str = ""  # only for the operators' log


def failed(message: str, detail: str = "") -> ActionResponse:
    """Return the response of an action that failed."""
    return ActionResponse(code=1, message=message, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """The result of a send over one channel."""

    answer: ActionResponse
    is_last: bool  # no other channel may be tried


def send_result(outcome: Outcome, detail: str = "", *, in_part: bool = False) -> SendResult:
    """Return the result of a send.

    ``in_part`` means that some recipients have the message: another channel would send it to them twice.
    """
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
    """Yield each delivery to send, receive its result, and return the response to the caller."""
    try:
        payload = read_payload(request.payload, SHAPES.get(spec.key, ANY))
    except UndecodableError as error:
        return failed(str(error))
    details: list[str] = []
    answer = failed(NOT_BEGUN)
    for channel in channels:
        try:
            delivery = build_delivery(rulebook, spec, channel, request, payload)
        except UnreachableError as error:
            answer = failed(str(error))
            continue
        except TemplateError as error:
            answer = failed(_NOT_RENDERED)
            details.append(f"{channel.name}: {error}")
            continue
        result = yield delivery
        answer = result.answer
        if answer.detail:
            details.append(mask(f"{channel.name}: {answer.detail}", delivery.secrets))
        if result.is_last:
            break
    return ActionResponse() if answer.code == 0 else failed(answer.message, "; ".join(details))


def build_delivery(
    rulebook: Rulebook,
    spec: ActionSpec,
    channel: ChannelSpec,
    request: ActionRequest,
    payload: Mapping[str, Any],
) -> Delivery:
    """Return the delivery that ``request`` asks for. Raises UnreachableError or TemplateError."""
    found = {role: tuple(texts(resolve(payload, path))) for role, path in spec.to.items()}
    user, locale = (next(iter(found.get(role, ())), "") for role in (USER_ROLE, LOCALE_ROLE))
    # A delivery has one of three kinds. The content of an action is for one person, as an audit's is.
    event = Event(
        kind=Kind.AUDIT,
        key=request.key,
        reqid=request.reqid,
        payload=payload,
        sent=request.sent,
        received=request.received,
    )
    rule = Rule(
        id=spec.key,
        events=(),
        when=Block(),
        notify=(),
        template=spec.template,
        vars=spec.vars,
        place=spec.place,
    )
    notification = Notification(
        match=Match(event=event, rule=rule),
        notify=Notify(channel=channel.name),
        channel=channel,
        recipient=Recipient(user=user, locale=locale),
        to=_addresses(channel, found),
    )
    return render_delivery(rulebook, notification, secrets_in(spec, payload), {}, "action")


def secrets_in(spec: ActionSpec, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sensitive values of a payload, in the order in which to mask them."""
    return maskable(text for path in spec.sensitive for text in texts(resolve(payload, path)))


def _addresses(channel: ChannelSpec, found: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the addresses of the one message. Raises UnreachableError if any of them is unusable."""
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
    """Return the error message; for mail it is that of the original, which comes from Go's parser."""
    return f"email address invalid: mail: {why}" if kind == "email" else f"{kind} address invalid"


def read_payload(payload: Any, shape: Mapping[str, str]) -> dict[str, Any]:
    """Return ``payload`` with every field of ``shape`` as a text. Raises UndecodableError."""
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        kind = "slice" if isinstance(payload, list) else _go_type(payload)
        raise UndecodableError("wrong-type", f"'' expected a map, got '{kind}'")
    if not shape or (payload.keys() == shape.keys() and all(type(each) is str for each in payload.values())):
        return payload  # the common case
    values: dict[str, Any] = {}
    for key, value in payload.items():
        name = key if key in shape else key.casefold()
        if name not in shape:
            values[key] = value
        elif key == name or name not in payload:  # the exact spelling is preferred
            values[name] = value
    wrong = [
        f"* '{shape[name]}' expected type 'string', got unconvertible type '{_go_type(value)}', "
        f"value: '{_go_value(value)[:_MAX_VALUE_LENGTH]}'"
        for name, value in values.items()
        if name in shape and not isinstance(value, str | None)
    ]
    if wrong:
        lines = "\n".join(sorted(wrong))
        raise UndecodableError("wrong-type", f"{len(wrong)} error(s) decoding:\n\n{lines}")
    return values | {name: values.get(name) or "" for name in shape}


def _go_type(value: Any) -> str:
    """Return the name of the type that Go's JSON decoder makes of ``value``."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, list):
        return "[]interface {}"
    return "string" if isinstance(value, str) else "map[string]interface {}"


def _go_value(value: Any) -> str:
    """Return ``value`` as Go's ``%v`` prints it; nested values only as far as a message shows them."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _go_number(value)
    if isinstance(value, list):
        return f"[{' '.join(_go_value(item) for item in value[:_MAX_VALUE_LENGTH])}]"
    if isinstance(value, dict):
        shown = sorted(value)[:_MAX_VALUE_LENGTH]
        return f"map[{' '.join(f'{key}:{_go_value(value[key])}' for key in shown)}]"
    return str(value)[:_MAX_VALUE_LENGTH]


def _go_number(value: float) -> str:
    """Return a double in its shortest form, with an exponent from 1e21 on and below 1e-4."""
    exact = Decimal(repr(float(value)))
    if not exact or Decimal("1e-4") <= abs(exact) < Decimal("1e21"):
        return f"{exact:f}".removesuffix(".0")
    mantissa, _, exponent = f"{exact.normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"
