"""Messages and their payloads, and the purity of the wire protocol."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import msc
from msc.messages import IPLocation, compose, new_reqid

MSC = Path(msc.__file__).parent


@pytest.mark.parametrize("module", ["wire", "gojson", "errors"])
def test_the_protocol_does_no_io(module: str) -> None:
    nodes = list(ast.walk(ast.parse((MSC / f"{module}.py").read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= {
        "__future__",
        "collections.abc",
        "dataclasses",
        "enum",
        "json",
        "re",
        "typing",
        "",
        "errors",
    }


def test_an_iplocation_is_decoded_as_in_go() -> None:
    assert IPLocation.from_payload(None) == IPLocation()
    assert IPLocation.from_payload({"City": "x", "LATITUDE": 5, "country": None, "more": []}) == IPLocation(
        city="x", latitude=5.0
    )


@pytest.mark.parametrize("payload", [{"city": 5}, {"latitude": "5"}, {"longitude": True}, {"timezone": []}])
def test_an_iplocation_with_a_wrong_type_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(payload))):
        IPLocation.from_payload(payload)


def test_a_message_knows_its_size() -> None:
    for payload in (None, {"a": "<é>" * 100}):
        message = compose("kiam.console", "notice", "a.b", payload)
        assert message.body_size == len(message.body(1_795_446_795_279_981))
        assert message.size == message.body_size + len("kiam.console.notice.a.b")


def test_a_payload_may_be_changed_after_composing() -> None:
    payload = {"a": 1}
    message = compose("p", "notice", "k", payload)
    payload["a"] = 2
    assert message.payload == b'{"a":1}'


def test_reqids_are_unique_and_have_32_hex_digits() -> None:
    reqids = {new_reqid() for _ in range(100)}
    assert len(reqids) == 100
    assert all(len(reqid) == 32 and set(reqid) <= set("0123456789abcdef") for reqid in reqids)


def test_every_error_is_an_mscerror() -> None:
    errors = [
        value for value in vars(msc).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(errors) == 13
    assert all(issubclass(error, msc.MscError) for error in errors)
    drawn = (MSC / "errors.py").read_text().split('"""')[1]
    assert all(error.__name__ in drawn for error in errors)
