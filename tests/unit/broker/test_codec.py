"""Decoding of events: valid and invalid messages by the rules of the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.locations import ROOT
from support.policy_builders import RECEIVED
from support.wire_messages import envelope

from engine.broker.codec import decode_event
from engine.model.errors import UndecodableError
from engine.model.messages import Event, Kind
from engine.rules.catalog import Catalogue, EventSchema

CAPTURED = [json.loads(line) for line in (ROOT / "tests/data/captured.jsonl").read_text().splitlines()]
PUBLISHED = [entry for entry in CAPTURED if entry["dir"] == "publish"]
KNOWN = Catalogue(
    schemas={
        "notice.x": EventSchema.read(
            "notice.x",
            {"properties": {"userId": {"x-mss-role": "user"}, "device": {"properties": {"os": {}}}}},
        )
    }
)


def decoded(data: bytes, *, received: int = RECEIVED, tolerance: float = 10.0, key: str = "x") -> Event:
    return decode_event(
        data, kind=Kind.NOTICE, key=key, received=received, tolerance=tolerance, catalogue=KNOWN
    )


def reason(data: bytes, **more: Any) -> str:
    with pytest.raises(UndecodableError) as caught:
        decoded(data, **more)
    return caught.value.reason


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["case"])
def test_the_captured_events_are_events(entry: dict[str, Any]) -> None:
    message = json.loads(entry["payload"])
    _, _, kind, *key = entry["subject"].split(".")
    event = decode_event(
        entry["payload"].encode(), kind=Kind(kind), key=".".join(key), received=message["time"] + 5000,
        tolerance=10.0, catalogue=Catalogue(),
    )  # fmt: skip
    assert event.reqid == message["reqid"] and event.payload == message["payload"]
    assert event.name == entry["subject"].removeprefix("kiam.console.")


def test_there_are_captured_events() -> None:
    assert {entry["case"] for entry in PUBLISHED} == {
        "msc:audit-accountaddemail", "msc:audit-unknown-key", "msc:notice", "msc:log",
    }  # fmt: skip


@pytest.mark.parametrize("off", [-10_000_000, -5_000, 0, 5_000, 10_000_000])
def test_a_clock_may_differ_in_both_directions(off: int) -> None:
    assert decoded(envelope({}, sent=RECEIVED + off)).sent == RECEIVED + off


@pytest.mark.parametrize("off", [-10_000_001, 10_000_001, -RECEIVED])
def test_a_clock_that_differs_too_much_is_refused(off: int) -> None:
    assert reason(envelope({}, sent=RECEIVED + off)) == "bad-time"


def test_the_tolerance_is_a_setting() -> None:
    assert decoded(envelope({}, sent=RECEIVED + 50_000_000), tolerance=60.0)


@pytest.mark.parametrize("version", ["0.1.0", "0.1.99", "0.1.1-beta", "0.1.1+b7"])
def test_compatible_versions_are_accepted(version: str) -> None:
    assert decoded(envelope({}, sent=RECEIVED).replace(b"0.1.1", version.encode()))


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0", "0.0.9", "0.1", "v0.1.1", "x", ""])
def test_other_versions_are_refused(version: str) -> None:
    assert reason(envelope({}, sent=RECEIVED).replace(b"0.1.1", version.encode())) == "bad-version"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"hello", "not-json"),
        (b"", "not-json"),
        (b"[1]", "not-an-object"),
        (b"[" * 10_000, "too-deep"),
        (b'{"version": 1}', "wrong-type"),
        (b'{"version":"0.1.1","time":1e400}', "number-out-of-range"),
        (envelope({}, reqid="", sent=RECEIVED), "missing-reqid"),
        (envelope([1], reqid="r1", sent=RECEIVED), "payload-not-object"),
        (envelope("text", reqid="r1", sent=RECEIVED), "payload-not-object"),
    ],
)  # fmt: skip
def test_an_invalid_message_has_a_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize("key", ["a..b", ".a", "a.*", ">", "a b"])
def test_a_subject_with_an_invalid_key_is_refused(key: str) -> None:
    assert reason(envelope({}, sent=RECEIVED), key=key) == "bad-subject"


def test_decoding_is_as_lenient_as_go() -> None:
    data = json.dumps(
        {
            "VERSION": "0.1.1",
            "Time": RECEIVED,
            "ReqId": "r",
            "extra": 1,
            "Payload": {"USERID": "u", "Device": {"OS": "x"}},
        }
    ).encode()
    event = decoded(data)
    assert event.reqid == "r"
    assert event.payload == {"userId": "u", "device": {"os": "x"}}  # as the catalogue spells them
    assert decoded(envelope(None, sent=RECEIVED)).payload == {}
    assert decoded(envelope({"a": "\ufffd"}, sent=RECEIVED).replace("\ufffd".encode(), b"\xff")).payload == {
        "a": "\ufffd"
    }


@given(st.binary(max_size=300))
def test_bytes_are_an_event_or_undecodable(data: bytes) -> None:
    try:
        decoded(data)
    except UndecodableError as error:
        assert error.reason and str(error)
