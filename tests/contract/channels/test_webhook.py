"""Webhooks: the body, its signature, and the outcome of each response."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from contract.channels.conftest import Certificates
from contract.channels.sides import DROP, PATIENT, SILENT, TIMEOUT, FakeWeb, World, make_delivery

from engine.channels import Channel
from engine.model.errors import ChannelError, Deferred, PolicyError, Refused, Unknown
from engine.model.messages import Delivery, Kind

KEY = b"\x00\x01a key of bytes"
WRITTEN_KEY = "whsec_" + base64.b64encode(KEY).decode()


def hook(world: World, side: FakeWeb, timeout: float = PATIENT, **options: Any) -> Channel:
    return world.open("webhook", timeout=timeout, url=f"http://127.0.0.1:{side.port}/hook?k=v", **options)


async def test_the_event_arrives_as_json(world: World, delivery: Delivery) -> None:
    side = await world.web(status=204)
    assert await hook(world, side).send(delivery) == "HTTP 204"
    ((headers, body),) = side.requests
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "type": "notice.login.abnormal",
        "timestamp": "2026-03-02T15:30:00.123456Z",
        "data": {
            "id": delivery.id,
            "reqid": "f" * 32,
            "rule": "abnormal-login",
            "severity": "high",
            "locale": "en",
            "user": "u1",
            "title": "A sign-in",
            "text": "Was it you?",
            "payload": {"userid": "u1", "big": 2**63, "name": "张三"},
        },
    }
    assert b": " not in body and "张三".encode() in body


async def test_a_plain_log_and_a_lone_surrogate_become_json(world: World) -> None:
    side = await world.web()
    odd = make_delivery(kind=Kind.LOG, key="", payload={"x": "\ud800"}, created=0)
    await hook(world, side).send(odd)
    body = json.loads(side.requests[0][1].decode("utf-8", "strict"))
    assert (body["type"], body["data"]["payload"]) == ("log", {"x": "\ud800"})
    assert body["timestamp"] == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (WRITTEN_KEY, KEY),
        ("any text, 张三", "any text, 张三".encode()),
        ("whsec_no base64", b"whsec_no base64"),
    ],
)
async def test_the_request_is_signed_as_standard_webhooks_specifies(
    secret: str, key: bytes, world: World, delivery: Delivery
) -> None:
    side = await world.web()
    before = int(time.time())
    await hook(world, side, secret=secret).send(delivery)
    ((headers, body),) = side.requests
    stamp = headers["webhook-timestamp"]
    assert headers["webhook-id"] == delivery.id
    assert before <= int(stamp) <= time.time()
    digest = hmac.digest(key, f"{delivery.id}.{stamp}.".encode() + body, hashlib.sha256)
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


async def test_without_a_secret_the_request_has_headers_but_no_signature(
    world: World, delivery: Delivery
) -> None:
    side = await world.web()
    await hook(world, side, headers={"Authorization": "Bearer t"}).send(delivery)
    headers = side.requests[0][0]
    assert "webhook-signature" not in headers
    assert headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, Refused),
        (404, Refused),
        (410, Refused),
        (422, Refused),
        (302, Refused),
        (408, Deferred),
        (425, Deferred),
        (429, Deferred),
        (500, Deferred),
        (502, Deferred),
        (503, Deferred),
    ],
)
async def test_the_status_decides_the_outcome(
    status: int, error: type[ChannelError], world: World, delivery: Delivery
) -> None:
    side = await world.web(status=status, body=b"because\r\nof this")
    with pytest.raises(ChannelError, match=f"HTTP {status} because of this") as failed:
        await hook(world, side).send(delivery)
    assert type(failed.value) is error


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        (format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True), 3600, 7200),
        (format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True), 0, 0),
        ("9" * 400, 86400, 86400),
    ],
    ids=["seconds", "none", "a date", "a date gone by", "far too long"],  # a date in an id would change
)
async def test_the_requested_wait_is_in_the_error(
    status: int, header: str, least: float, most: float, world: World, delivery: Delivery
) -> None:
    side = await world.web(status=status, headers={"Retry-After": header})
    with pytest.raises(Deferred) as failed:
        await hook(world, side).send(delivery)
    assert failed.value.retry_after is not None
    assert least <= failed.value.retry_after <= most


@pytest.mark.parametrize("header", ["soon", "-5", "²"])
async def test_an_invalid_wait_is_ignored(header: str, world: World, delivery: Delivery) -> None:
    side = await world.web(status=503, headers={"Retry-After": header})
    with pytest.raises(Deferred) as failed:
        await hook(world, side).send(delivery)
    assert failed.value.retry_after is None


async def test_a_redirect_is_not_followed(world: World, delivery: Delivery) -> None:
    elsewhere = await world.web()
    side = await world.web(status=307, headers={"Location": f"http://127.0.0.1:{elsewhere.port}/"})
    with pytest.raises(Refused, match="redirect"):
        await hook(world, side).send(delivery)
    assert elsewhere.requests == []


@pytest.mark.parametrize("behaviour", [SILENT, DROP])
async def test_a_failure_after_the_request_is_unknown(
    behaviour: str, world: World, delivery: Delivery
) -> None:
    side = await world.web(behaviour=behaviour)
    timeout = TIMEOUT if behaviour == SILENT else PATIENT
    with pytest.raises(Unknown, match="after the request was sent"):
        await hook(world, side, timeout).send(delivery)
    assert len(side.requests) == 1


async def test_a_lost_kept_connection_is_unknown_and_not_retried(world: World, delivery: Delivery) -> None:
    side = await world.web()
    channel = hook(world, side)
    await channel.send(delivery)
    side.behaviour = DROP
    with pytest.raises(Unknown):
        await channel.send(delivery)
    assert len(side.requests) == 2


@pytest.mark.parametrize(("status", "error"), [(200, None), (500, Deferred)])
async def test_an_endless_response_is_not_read_to_the_end(
    status: int, error: type[ChannelError] | None, world: World, delivery: Delivery
) -> None:
    side = await world.web(status=status, behaviour="endless")
    if error is None:
        assert await hook(world, side).send(delivery) == "HTTP 200"
        return
    with pytest.raises(error) as failed:
        await hook(world, side).send(delivery)
    assert len(str(failed.value)) < 1100


async def test_an_untrusted_server_is_a_definite_failure(
    world: World, delivery: Delivery, certificates: Certificates
) -> None:
    side = await world.smtp(tls=certificates.server("127.0.0.1"))
    channel = world.open("webhook", url=f"https://127.0.0.1:{side.port}/")
    with pytest.raises(Deferred, match=r"(?i)certificate"):
        await channel.send(delivery)


async def test_an_unknown_host_is_a_definite_failure(world: World, delivery: Delivery) -> None:
    with pytest.raises(Deferred):
        await world.open("webhook", timeout=2.0, url="http://nobody.invalid/").send(delivery)


def test_a_header_with_a_line_break_does_not_open(world: World) -> None:
    with pytest.raises(PolicyError, match="the header X-A is not text on one line"):
        world.open("webhook", url="http://127.0.0.1/", headers={"X-A": "b\r\nX-Evil: 1"})


@pytest.mark.parametrize("url", ["ftp://x.test/", "file:///etc/passwd", "http://", "x.test", "http://[::1/"])
def test_only_web_addresses_open(url: str, world: World) -> None:
    with pytest.raises(PolicyError, match="not an http or https address") as failed:
        world.open("webhook", url=url)
    assert url not in str(failed.value)  # it may have a token
