"""Decode requests and encode replies.

Pure and total: for any bytes that arrive, a reply can be made.
"""

from __future__ import annotations

import re

from msc import errors, gojson, wire

from . import ActionRequest, ActionResponse, failed

_REQID = re.compile(rb'"reqid"\s*:\s*"([^"\\\x00-\x1f]{1,128})"', re.IGNORECASE)
_SEARCHED = 64 * 1024  # bytes of a message that is no JSON
_PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def read(
    data: bytes, *, key: str, received: int, tolerance: float, person: str | None = None
) -> ActionRequest | tuple[str, ActionResponse]:
    """The request in ``data``; or its reqid, as far as it has one, and why it is not served.

    ``key`` and ``person`` are what the subject says.
    ``received`` is our clock in microseconds, against which the sender's is judged: ``tolerance``
    seconds both ways. Version, time and reqid are looked at in this order.
    """
    try:
        request = wire.decode_request(data)
    except errors.WireError as error:
        return _salvage_reqid(data), failed(str(error))
    try:
        wire.check_request(request, received=received, tolerance=int(tolerance * 1e6))
    except errors.WireError as error:
        return request.reqid, ActionResponse(code=int(error.code), message=str(error))
    return ActionRequest(
        key=key,
        reqid=request.reqid,
        payload=request.payload,
        data=data,
        sent=request.time,
        received=received,
        person=person,
    )


def write(reqid: str, answer: ActionResponse, *, now: int, room: int) -> bytes:
    """The reply. What cannot be written, or has more than ``room`` bytes, becomes code 1."""
    try:
        data = _encode(reqid, answer, now)
    except errors.WireError as error:
        return _encode(reqid, failed(f"the answer cannot be written: {error}"), now)
    if len(data) <= room:
        return data
    short = _encode(reqid, failed("the answer is larger than the broker takes"), now)
    return short if len(short) <= room else _encode("", failed("the reqid is too long"), now)


def inbox_pattern(*, prefix: str, namespace: str) -> re.Pattern[str]:
    """Which reply subjects are where a caller waits; to be matched in full.

    Anything else would let a caller speak with our rights: on JetStream's and the system's subjects,
    on our own, or on those of the applications.
    """
    part = r"(?![$*>])[^\s.\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ud800-\udfff]+"
    ours = rf"(?:{re.escape(prefix)}|{re.escape(namespace)})(?:\.|\Z)"
    return re.compile(rf"(?!{ours}){part}(?:\.{part})*")


def _encode(reqid: str, answer: ActionResponse, now: int) -> bytes:
    if answer.code == 0 and answer.message == "ok" and _PLAIN.fullmatch(reqid):
        # By far most replies: nothing in them needs an escape but the payload.
        head = (
            f'{{"version":"{wire.VERSION}","time":{now},"reqid":"{reqid}","code":0,"message":"ok","payload":'
        )
        return b"%b%b}" % (head.encode(), wire.encode_payload(answer.payload))
    return wire.encode_reply(
        wire.Reply(wire.VERSION, now, reqid, answer.code, answer.message, answer.payload)
    )


def _salvage_reqid(data: bytes) -> str:
    """The reqid of a message that is otherwise none: without it the caller would not know the reply."""
    try:
        found = gojson.load_fields(data, frozenset({"reqid"})).get("reqid")
    except errors.WireError:
        match = _REQID.search(data[:_SEARCHED])
        found = match[1].decode("utf-8", "replace") if match else ""
    return found if isinstance(found, str) else ""
