"""Action requests that send a message: the payload, the message, the response.

A message goes over the first of its channels that accepts it. The next channel is tried only after a
definite failure: a message that may have gone out ends the action.

Payloads are read as the original server reads them. Field names ignore case, unknown fields are ignored,
null is the empty text, and a value of another type is rejected with the original's text.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..model.addresses import usable_address
from ..model.errors import TemplateError, UndecodableError
from ..model.masking import mask, maskable
from ..model.messages import Delivery, Event, Kind, Message, Outcome, Severity
from ..rules.catalog import LOCALE_ROLE, USER_ROLE
from ..rules.paths import resolve
from ..rules.rulebook import ActionSpec, ChannelSpec, Rulebook
from ..templates.library import render_template
from .draft import delivery_id
from .planner import event_context, find_template
from .recipients import texts

_REFUSED = "not delivered: the other side refuses it"
_DEFERRED = "not delivered: try again later"
_IN_PART = "not delivered to everybody"
_NO_WORDS = "not delivered: the message cannot be written"

_MAX_VALUE_LENGTH = 100  # characters of a value in a message

# Field -> what the original calls it in its messages. All are texts.
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
ANY: Mapping[str, str] = {}  # the shape of an action that is known to nobody


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
    return maskable(text for path in spec.sensitive for text in texts(resolve(payload, path)))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """One request for an action, as received."""

    key: str  # what stands after the prefix and ``action.``
    reqid: str
    payload: Any  # any JSON
    data: bytes  # the whole envelope
    sent: int  # the sender's clock, microseconds since the epoch
    received: int  # when this process had it, microseconds since the epoch
    person: str | None = None  # the token after the key, where the subject has one: whom it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResponse:
    """What the caller hears. Neither ``message`` nor ``payload`` tells anything of this server."""

    code: int = 0
    message: str = "ok"
    payload: dict[str, Any] | None = None
    detail: str = ""  # for the operators' log alone


NOT_BEGUN = "not carried out: no time left"
OUTCOME_UNKNOWN = "outcome unknown: it may have been carried out"


def failed(message: str, detail: str = "") -> ActionResponse:
    """The answer of an action that failed."""
    return ActionResponse(code=1, message=message, detail=detail)


def read_payload(payload: Any, shape: Mapping[str, str]) -> dict[str, Any]:
    """``payload`` with every field of ``shape`` in it, as a text."""
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
    """What Go calls the type that its JSON decoder makes of ``value``."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, list):
        return "[]interface {}"
    return "string" if isinstance(value, str) else "map[string]interface {}"


def _go_value(value: Any) -> str:
    """``value`` as Go's ``%v`` prints it; nested values only as far as a message shows them."""
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
    """A double in its shortest form, with an exponent from 1e21 on and below 1e-4."""
    exact = Decimal(repr(float(value)))
    if not exact or Decimal("1e-4") <= abs(exact) < Decimal("1e21"):
        return f"{exact:f}".removesuffix(".0")
    mantissa, _, exponent = f"{exact.normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"
