"""Envelopes of actions: any message gets a reply that the Go client can decode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.actions.envelope import inbox_pattern, read, write
from engine.planning.requests import ActionRequest, ActionResponse, failed
from msc import wire

NOW = 1_800_000_000_000_000
INBOXES = inbox_pattern(prefix="kiam.console", namespace="mss")
REQID = "0123456789abcdef0123456789abcdef"
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["version", "time", "reqid", "payload", "Version", "TIME", "ReqID", "extra"])
VALUES = (
    st.sampled_from(
        ["0.1.1", "0.1.9", "0.2.0", NOW, NOW + 9_000_000, NOW - 11_000_000, float(NOW), REQID, ""]
    )
    | JSON
)
BYTES = (
    st.binary(max_size=300)
    | st.dictionaries(NAMES, VALUES).map(lambda fields: json.dumps(fields).encode())
    | st.tuples(st.dictionaries(NAMES, VALUES), st.integers(0, 400)).map(
        lambda cut: json.dumps(cut[0]).encode()[: cut[1]]
    )
)


def look(data: bytes) -> ActionRequest | tuple[str, ActionResponse]:
    return read(data, key="iplocation", received=NOW, tolerance=10)


def envelope(**changes: Any) -> bytes:
    return json.dumps({"version": "0.1.1", "time": NOW, "reqid": REQID, "payload": {}} | changes).encode()


@given(BYTES)
def test_any_bytes_are_a_request_or_get_a_reply(data: bytes) -> None:
    found = look(data)
    if isinstance(found, ActionRequest):
        assert found.reqid and abs(found.sent - NOW) <= 10_000_000 and found.data == data
        return
    reqid, answer = found
    assert answer.code in (1, 101, 102, 103) and answer.message
    reply = wire.decode_reply(write(reqid, answer, now=NOW, room=100_000))
    assert (reply.reqid, reply.code, reply.payload) == (reqid, answer.code, None)


@given(
    st.text(max_size=50).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.integers(),
    st.text(),
    st.none() | st.dictionaries(st.text(), JSON),
)
def test_any_response_becomes_a_reply(reqid: str, code: int, message: str, payload: Any) -> None:
    data = write(reqid, ActionResponse(code=code, message=message, payload=payload), now=NOW, room=1000)
    assert len(data) <= 1000
    reply = wire.decode_reply(data)
    assert reply.reqid == reqid
    assert reply.code in (code, 1)


def test_a_reply_that_is_too_large_becomes_an_error() -> None:
    large = ActionResponse(payload={"a": "x" * 2000})
    assert wire.decode_reply(write(REQID, large, now=NOW, room=1000)).code == 1
    assert wire.decode_reply(write("r" * 2000, failed("x"), now=NOW, room=1000)).reqid == ""


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"version": "0.2.0", "time": 0, "reqid": ""}, 101, "version incompatible, expect 0.1.1, got 0.2.0"),
        ({"time": 0, "reqid": ""}, 102, "request time 0 invalid"),
        ({"reqid": ""}, 103, "request missing reqid"),
        ({"time": NOW - 10_000_001}, 102, f"request time {NOW - 10_000_001} invalid"),
        ({"time": NOW + 10_000_001}, 102, f"request time {NOW + 10_000_001} invalid"),
    ],
)
def test_version_is_checked_before_time_and_time_before_reqid(
    changes: dict[str, Any], code: int, message: str
) -> None:
    found = look(envelope(**changes))
    assert isinstance(found, tuple)
    assert (found[1].code, found[1].message) == (code, message)


@pytest.mark.parametrize("time", [NOW - 10_000_000, NOW + 10_000_000, NOW + 5_000])
def test_the_clock_of_a_sender_may_be_ahead_or_behind(time: int) -> None:
    assert isinstance(look(envelope(time=time)), ActionRequest)


@pytest.mark.parametrize(
    "data",
    [
        envelope(version=1),
        envelope(time=1.5),
        envelope().replace(b"reqid", b"ReqId").replace(b'"0.1.1"', b"[]"),
        envelope()[:-1],
        b'{"payload": ' + b"[" * 500 + b"]" * 500 + b', "reqid" : "%b"}' % REQID.encode(),
    ],
)
def test_the_reqid_of_an_invalid_message_is_found(data: bytes) -> None:
    found = look(data)
    assert isinstance(found, tuple) and found[0] == REQID and found[1].code == 1


@pytest.mark.parametrize(
    "data", [b"", b"hello", b'{"reqid": 5, "time": "x"}', b'{"reqid": null, "version": 1}', b"\xff"]
)
def test_a_message_without_a_reqid_gets_an_empty_one(data: bytes) -> None:
    found = look(data)
    assert isinstance(found, tuple) and found[0] == "" and found[1].code == 1


@pytest.mark.parametrize(
    "reply",
    [
        "kiam._inbox.gz0W8o46czSMxBmbhw97WQ.rDwTbG3O",
        "_INBOX.a.b",
        "_INBOX_mss.a",
        "mssx.a",
        "kiam.consoles.x",
        "r",
    ],
)
def test_an_inbox_is_accepted_as_reply_subject(reply: str) -> None:
    assert INBOXES.fullmatch(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "", "$JS.API.STREAM.DELETE.MSS_NOTICE", "$JS.ACK.x", "$SYS.REQ.SERVER.PING", "$KV.MSS_LEDGER.x", "$SRV.PING",
        "mss", "mss.delivery.notice.email", "kiam.console", "kiam.console.action.iplocation", "a.*", ">", "a.>",
        "a..b", ".a", "a.", "a b", "a\nb", "a\tb", "a.$JS.x",
    ],
)  # fmt: skip
def test_other_subjects_are_rejected_as_reply_subject(reply: str) -> None:
    assert not INBOXES.fullmatch(reply)


@given(st.text())
def test_any_reply_subject_is_accepted_or_rejected(reply: str) -> None:
    if INBOXES.fullmatch(reply):
        assert not reply.startswith(("$", "mss.", "kiam.console."))
