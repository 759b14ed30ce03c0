"""Decode requests and encode replies. Pure; any bytes that arrive get a reply."""

from __future__ import annotations

import re

from msc import errors, gojson, wire

from ..planning.requests import ActionRequest, ActionResponse, failed

_REQID = re.compile(rb'"reqid"\s*:\s*"([^"\\\x00-\x1f]{1,128})"', re.IGNORECASE)
_MAX_SEARCHED = 64 * 1024  # bytes of a message that is not JSON
_PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def read(
    data: bytes, *, key: str, received: int, tolerance: float, person: str | None = None
) -> ActionRequest | tuple[str, ActionResponse]:
    """Return the request in ``data``, or its reqid (``""`` if it has none) and the response that rejects it.

    ``key`` and ``person`` come from the subject. ``received`` is our clock in microseconds; the sender's may
    differ by ``tolerance`` seconds. Version, time and reqid are checked in this order.
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


def write(reqid: str, response: ActionResponse, *, now: int, room: int) -> bytes:
    """Return the reply; a response that cannot be encoded, or not in ``room`` bytes, becomes code 1."""
    try:
        data = _encode(reqid, response, now)
    except errors.WireError as error:
        return _encode(reqid, failed(f"the answer cannot be written: {error}"), now)
    if len(data) <= room:
        return data
    short = _encode(reqid, failed("the answer is larger than the broker accepts"), now)
    return short if len(short) <= room else _encode("", failed("the reqid is too long"), now)


def inbox_pattern(*, prefix: str, namespace: str) -> re.Pattern[str]:
    """Return the pattern of the reply subjects that a caller may name; match it in full.

    With any other, a caller could publish with our permissions: on the subjects of JetStream, of the
    system, of MSS or of the applications.
    """
    part = r"(?![$*>])[^\s.\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ud800-\udfff]+"
    ours = rf"(?:{re.escape(prefix)}|{re.escape(namespace)})(?:\.|\Z)"
    return re.compile(rf"(?!{ours}){part}(?:\.{part})*")


def _encode(reqid: str, response: ActionResponse, now: int) -> bytes:
    if response.code == 0 and response.message == "ok" and _PLAIN.fullmatch(reqid):
        # By far most replies: only the payload can need escapes.
        head = (
            f'{{"version":"{wire.VERSION}","time":{now},"reqid":"{reqid}","code":0,"message":"ok","payload":'
        )
        return b"%b%b}" % (head.encode(), wire.encode_payload(response.payload))
    return wire.encode_reply(
        wire.Reply(wire.VERSION, now, reqid, response.code, response.message, response.payload)
    )


def _salvage_reqid(data: bytes) -> str:
    """Return the reqid of a message that cannot be decoded, so that the caller can match the reply."""
    try:
        found = gojson.load_fields(data, frozenset({"reqid"})).get("reqid")
    except errors.WireError:
        match = _REQID.search(data[:_MAX_SEARCHED])
        found = match[1].decode("utf-8", "replace") if match else ""
    return found if isinstance(found, str) else ""
