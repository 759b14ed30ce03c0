"""The envelope: messages recorded from the original, and any other input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wire_messages import encode_request

from msc import wire
from msc.errors import Code, WireError
from msc.gojson import MAX_DEPTH
from msc.wire import Reply, Request

CAPTURED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "captured.jsonl").read_text().splitlines()
]
REPLIES = {message["case"]: message for message in CAPTURED if message["dir"] == "reply"}


def captured(direction: str, prefix: str = "") -> list[Any]:
    return [
        pytest.param(message, id=message["case"])
        for message in CAPTURED
        if message["dir"] == direction and message["case"].startswith(prefix)
    ]


# The original's messages


@pytest.mark.parametrize("message", [*captured("publish"), *captured("request", "msc:")])
def test_requests_equal_those_of_the_go_client(message: dict[str, Any]) -> None:
    data = message["payload"].encode()
    assert encode_request(wire.decode_request(data)) == data


@pytest.mark.parametrize("message", captured("reply"))
def test_replies_equal_those_of_the_go_server(message: dict[str, Any]) -> None:
    data = message["payload"].encode()
    assert wire.encode_reply(wire.decode_reply(data)) == data


@pytest.mark.parametrize("message", captured("request"))
def test_requests_are_accepted_or_refused_as_by_the_go_server(message: dict[str, Any]) -> None:
    data = message["payload"].encode()
    reply = REPLIES.get(message["case"])
    if reply is None:  # the original says nothing to what it cannot read
        with pytest.raises(WireError):
            wire.decode_request(data)
        return
    expected = wire.decode_reply(reply["payload"].encode())
    request = wire.decode_request(data)
    assert request.reqid == expected.reqid
    if expected.code in (Code.VERSION, Code.TIME, Code.REQID):
        with pytest.raises(WireError) as refused:
            wire.check_request(request, received=expected.time, tolerance=10_000_000)
        assert (refused.value.code, str(refused.value)) == (expected.code, expected.message)
    else:
        wire.check_request(request, received=expected.time, tolerance=10_000_000)


# Reading a request


def test_keys_match_in_any_case_and_unknown_ones_are_ignored() -> None:
    request = wire.decode_request(b'{"VERSION":"v","Time":1,"reqId":"r","payLOAD":{"A":1},"x":[{"time":5}]}')
    assert request == Request("v", 1, "r", {"A": 1})


@pytest.mark.parametrize(
    ("text", "reqid"),
    [
        ('{"reqid":"a","reqid":"b"}', "b"),
        ('{"reqid":"a","REQID":"b"}', "b"),
        ('{"REQID":"b","reqid":"a"}', "a"),
        ('{"reqid":"a","REQID":"b","reqid":"c"}', "c"),
        ('{"REQID":"a","payload":{"reqid":"x"}}', "a"),
    ],
)
def test_the_last_of_a_repeated_key_wins(text: str, reqid: str) -> None:
    assert wire.decode_request(text.encode()).reqid == reqid


@pytest.mark.parametrize("text", ["null", " null\n", "{}", '{"version":null,"time":null,"reqid":null}'])
def test_a_null_or_missing_field_is_zero(text: str) -> None:
    assert wire.decode_request(text.encode()) == Request("", 0, "", None)


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b'"a\xffb"', "a\ufffdb"),
        (b'"\xe4\xbd"', "\ufffd\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (rb'"\ud800"', "\ufffd"),
        (rb'{"\udc00":["\ud83d\ude00","\uD800x"]}', {"\ufffd": ["\U0001f600", "\ufffdx"]}),
        (rb'"\\ud800"', "\\ud800"),
        (b"9007199254740993", 9007199254740993),
        (b"1" + b"0" * 307, 10**307),
        (b"1e-400", 0.0),
    ],
)
def test_payloads_are_decoded_as_in_go(data: bytes, payload: Any) -> None:
    assert wire.decode_request(b'{"payload":%b}' % data).payload == payload


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-json"),
        (b"hello", "not-json"),
        (b'{"payload":1}x', "not-json"),
        (b'\xef\xbb\xbf{"reqid":"a"}', "not-json"),
        (b"n\0u\0l\0l\0", "not-json"),
        (b'{"payload":NaN}', "not-json"),
        (b'{"payload":[-Infinity]}', "not-json"),
        (b'{"REQID":"a","payload":NaN}', "not-json"),
        (b"[1]", "not-an-object"),
        (b"7", "not-an-object"),
        (b'"x"', "not-an-object"),
        (b'{"version":1}', "wrong-type"),
        (b'{"reqid":["a"]}', "wrong-type"),
        (b'{"time":"1"}', "wrong-type"),
        (b'{"time":1.0}', "wrong-type"),
        (b'{"time":1e3}', "wrong-type"),
        (b'{"time":true}', "wrong-type"),
        (b'{"time":9223372036854775808}', "number-out-of-range"),
        (b'{"payload":1e400}', "number-out-of-range"),
        (b'{"payload":-1e400}', "number-out-of-range"),
        (b'{"payload":' + b"9" * 5000 + b"}", "number-out-of-range"),
        (b'{"payload":' + b"9" * 309 + b"}", "number-out-of-range"),
        (b"[" * 10_000, "too-deep"),
        (b'{"payload":' * 10_000 + b"1" + b"}" * 10_000, "too-deep"),
        (b'{"payload":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too-deep"),
    ],
)
def test_an_invalid_message_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(WireError) as refused:
        wire.decode_request(data)
    assert refused.value.reason == reason
    assert refused.value.code == Code.ERROR


def test_the_deepest_and_the_widest_message_are_accepted() -> None:
    deep = MAX_DEPTH - 1
    assert wire.decode_request(b'{"payload":' + b"[" * deep + b"]" * deep + b"}").payload
    wide = b"[" + b",".join([b"[]"] * 1000) + b"]"
    assert len(wire.decode_request(b'{"payload":%b}' % wide).payload) == 1000


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (wire.decode_request, wire.decode_reply):
        try:
            decode(data)
        except WireError as error:
            assert error.reason


FRAGMENTS = st.sampled_from(
    [b'{"', b'"reqid"', b'"REQID"', b'"payload"', b'"time"', b":", b",", b"{", b"}", b"[", b"]", b"1e400",
     b"-1", b"1.5", b'"\\ud800"', b'"a"', b"\xff", b"null", b"NaN", b" ", b"9" * 400]
)  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=40).map(b"".join))
def test_almost_json_is_decoded_or_refused(data: bytes) -> None:
    try:
        wire.decode_request(data)
    except WireError as error:
        assert error.reason


# Judging a request

OUT_OF_RANGE = 'parse request version error: strconv.ParseUint: parsing "{}": value out of range'


def good(**changes: Any) -> Request:
    fields: dict[str, Any] = {"version": "0.1.1", "time": 1_000_000_000, "reqid": "r", "payload": None}
    return Request(**{**fields, **changes})


def check(request: Request) -> None:
    wire.check_request(request, received=1_000_000_000, tolerance=10_000_000)


@pytest.mark.parametrize(
    "version",
    ["0.1.1", "0.1.0", "0.1.99", "0.1.1-beta", "0.1.1+b7", "0.1.1-a.1+b.2", "0.1.18446744073709551615"],
)
def test_a_compatible_version_is_accepted(version: str) -> None:
    check(good(version=version))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("", "version cannot be empty"),
        ("0.2.0", "version incompatible, expect 0.1.1, got 0.2.0"),
        ("1.0.0", "version incompatible, expect 0.1.1, got 1.0.0"),
        ("0.0.9", "version incompatible, expect 0.1.1, got 0.0.9"),
        *(
            (version, "parse request version error: Invalid Semantic Version")
            for version in [
                "0.1",
                "v0.1.1",
                "x",
                "0.1.1 ",
                "0.1.1\n",
                "0.01.1",
                "0.1.1-",
                "0.1.1-01",
                "٠.١.١",
            ]
        ),
        (f"0.1.{2**64}", OUT_OF_RANGE.format(2**64)),
    ],
)
def test_another_version_is_refused_with_its_message(version: str, message: str) -> None:
    with pytest.raises(WireError) as refused:
        check(good(version=version, time=0, reqid=""))
    assert (refused.value.code, refused.value.reason) == (Code.VERSION, "bad-version")
    assert str(refused.value) == message


def test_a_long_version_is_truncated_in_the_message() -> None:
    for version in ("9" * 5000 + ".1.1", "0.1.1+" + "b" * 5000, "0.2.0+" + "b" * 5000, "1" * 5000):
        try:
            check(good(version=version))
        except WireError as error:
            assert len(str(error)) < 250


@pytest.mark.parametrize("offset", [-10_000_000, 0, 5_000, 10_000_000])
def test_a_clock_within_the_tolerance_is_accepted(offset: int) -> None:
    check(good(time=1_000_000_000 + offset))


@pytest.mark.parametrize("offset", [-10_000_001, 10_000_001, -1_000_000_000])
def test_a_clock_beyond_the_tolerance_is_refused(offset: int) -> None:
    with pytest.raises(WireError) as refused:
        check(good(time=1_000_000_000 + offset, reqid=""))
    assert (refused.value.code, refused.value.reason) == (Code.TIME, "bad-time")
    assert str(refused.value) == f"request time {1_000_000_000 + offset} invalid"


def test_a_missing_reqid_is_refused() -> None:
    with pytest.raises(WireError, match=r"^request missing reqid$") as refused:
        check(good(reqid=""))
    assert (refused.value.code, refused.value.reason) == (Code.REQID, "missing-reqid")


# Writing


def test_special_characters_are_escaped_as_in_go() -> None:
    text = '<a>&"\\\n\x00\x7f\u2028\u2029é你\U0001f600'
    data = wire.encode_payload({"t": text})
    assert data == (
        rb'{"t":"\u003ca\u003e\u0026\"\\\n\u0000'
        + b"\x7f"
        + rb"\u2028\u2029"
        + "é你\U0001f600".encode()
        + b'"}'
    )
    assert json.loads(data) == {"t": text}


def test_a_lone_surrogate_is_encoded_as_in_go() -> None:
    assert wire.encode_payload({"\udc80": "a\ud800"}) == rb'{"\ufffd":"a\ufffd"}'


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (float("nan"), "not-json"),
        ({"a": [float("inf")]}, "not-json"),
        ({"a": object()}, "not-json"),
        ({"a": b"bytes"}, "not-json"),
        ({("a", "b"): 1}, "not-json"),
        (circle(), "not-json"),
        (10**400, "number-out-of-range"),
        (nested(100_000), "too-deep"),
        (nested(MAX_DEPTH), "too-deep"),
    ],
)
def test_a_payload_that_is_not_json_is_refused(payload: Any, reason: str) -> None:
    with pytest.raises(WireError) as refused:
        encode_request(Request("0.1.1", 1, "r", payload))
    assert refused.value.reason == reason


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**300), max_value=10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(version=WORDS, time=INT64, reqid=WORDS, payload=JSON)
def test_a_request_survives_encoding_and_decoding(version: str, time: int, reqid: str, payload: Any) -> None:
    request = Request(version, time, reqid, payload)
    data = encode_request(request)
    assert wire.decode_request(data) == request
    assert not set(data) & set(b"<>&")


@settings(max_examples=settings.default.max_examples // 2)  # large ones, which take long to draw
@given(
    version=WORDS.filter(bool),
    time=INT64,
    reqid=WORDS,
    code=st.integers(min_value=-(2**31), max_value=2**31 - 1),
    message=WORDS,
    payload=st.none() | st.dictionaries(WORDS, JSON),
)
def test_a_reply_survives_encoding_and_decoding(**fields: Any) -> None:
    reply = Reply(**fields)
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"version":""}',
        b'{"version":"0.1.1","code":1.0}',
        b'{"version":"0.1.1","time":1.0}',
        b'{"version":"0.1.1","code":2147483648}',
        b'{"version":"0.1.1","message":5}',
        b'{"version":"0.1.1","payload":[]}',
        b'{"version":"0.1.1","payload":"x"}',
        b'{"stream":"S","seq":1}',
    ],
)
def test_a_reply_is_refused_as_by_the_go_client(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_reply(data)


def test_a_reply_may_have_unknown_fields() -> None:
    reply = wire.decode_reply(b'{"Version":"9","reqid":"r","extra":1}')
    assert reply == Reply("9", 0, "r", 0, "", None)


@pytest.mark.parametrize("changes", [{"code": 2**31}, {"payload": [1]}, {"message": None}, {"time": 1.5}])
def test_an_invalid_reply_is_not_encoded(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "version": "0.1.1", "time": 1, "reqid": "r", "code": 0, "message": "ok", "payload": None
    }  # fmt: skip
    with pytest.raises(WireError):
        wire.encode_reply(Reply(**{**fields, **changes}))
