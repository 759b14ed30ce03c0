"""Apprise: the address in the URL, the outcome of a plugin's log, and few threads."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from apprise.manager_plugins import NotificationManager
from contract.channels.sides import DROP, PATIENT, SILENT, TIMEOUT, FakeWeb, World, free_port
from msgspec.structs import replace

from engine.channels import Channel, apprise
from engine.channels.apprise import instantiate
from engine.model.errors import ChannelError, Deferred, PolicyError, Refused, Unknown
from engine.model.messages import Delivery, Message


def through(
    world: World, side: FakeWeb, path: str = "hook", timeout: float = PATIENT, **more: Any
) -> Channel:
    return world.open("apprise", timeout=timeout, url=f"json://127.0.0.1:{side.port}/{path}", **more)


async def test_title_and_text_arrive(world: World, delivery: Delivery) -> None:
    side = await world.web()
    assert await through(world, side).send(delivery) == "JSON: sent"
    body = json.loads(side.requests[0][1])
    assert (body["title"], body["message"], body["type"]) == ("A sign-in", "Was it you?", "failure")


async def test_html_alone_is_converted_for_a_service_that_sends_text(
    world: World, delivery: Delivery
) -> None:
    side = await world.web()
    await through(world, side, "hook?format=text").send(
        replace(delivery, message=Message(html="<p>Was it <b>you</b>?</p>"))
    )
    assert json.loads(side.requests[0][1])["message"].strip() == "Was it you?"


async def test_markdown_is_sent_as_markdown(world: World, delivery: Delivery) -> None:
    side = await world.web()
    await through(world, side, "hook?format=html").send(
        replace(delivery, message=Message(text="**you**", markdown=True))
    )
    assert "<strong>you</strong>" in json.loads(side.requests[0][1])["message"]


async def test_the_address_replaces_its_placeholder_and_changes_nothing_else(
    world: World, delivery: Delivery
) -> None:
    side = await world.web()
    channel = through(world, side, "send?+x-to={to}")
    for address in ("+8613800000000", "a&method=GET b/?#@x.test"):
        await channel.send(replace(delivery, to=(address,)))
    assert [headers["x-to"] for headers, _ in side.requests] == ["+8613800000000", "a&method=GET b/?#@x.test"]


async def test_a_delivery_without_an_address_is_not_sent(world: World, delivery: Delivery) -> None:
    side = await world.web()
    with pytest.raises(Refused, match="no address"):
        await through(world, side, "{to}").send(replace(delivery, to=()))
    assert side.requests == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, Refused),
        (403, Refused),
        (404, Refused),
        (410, Refused),
        (422, Refused),
        (408, Deferred),
        (429, Deferred),
        (500, Deferred),
        (503, Deferred),
    ],
)
async def test_the_status_decides_the_outcome(
    status: int, error: type[ChannelError], world: World, delivery: Delivery
) -> None:
    side = await world.web(status=status, body=b"the reason")
    with pytest.raises(ChannelError, match=f"error={status}.*the reason") as failed:
        await through(world, side).send(delivery)
    assert type(failed.value) is error
    assert len(side.requests) == 1


async def test_the_service_itself_does_not_retry(world: World, delivery: Delivery) -> None:
    side = await world.web(status=500)
    with pytest.raises(Deferred):
        await through(world, side, "hook?retry=3&wait=1").send(delivery)
    assert len(side.requests) == 1


@pytest.mark.parametrize("behaviour", [SILENT, DROP])
async def test_a_failure_after_the_request_is_unknown(
    behaviour: str, world: World, delivery: Delivery
) -> None:
    side = await world.web(behaviour=behaviour)
    timeout = TIMEOUT if behaviour == SILENT else PATIENT
    with pytest.raises(Unknown, match=r"(?i)timed out|aborted"):
        await through(world, side, timeout=timeout).send(delivery)
    assert len(side.requests) == 1


async def test_a_call_beyond_its_limit_is_unknown_and_keeps_its_thread(
    world: World, delivery: Delivery
) -> None:
    side = await world.web(behaviour=SILENT)
    # The limit in the URL is longer than that of the channel.
    channel = through(world, side, "hook?rto=30", timeout=TIMEOUT, concurrency=1)
    with pytest.raises(Unknown, match="has not finished"):
        await channel.send(delivery)
    with pytest.raises(Deferred, match="busy"):
        await channel.send(delivery)
    assert side.most_together == 1
    side.stopping.set()


async def test_a_cancelled_call_keeps_its_thread_too(world: World, delivery: Delivery) -> None:
    side = await world.web(behaviour=SILENT)
    channel = through(world, side, "hook?rto=30", timeout=TIMEOUT, concurrency=1)
    send = asyncio.create_task(channel.send(delivery))
    await side.asked.wait()
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send
    with pytest.raises(Deferred, match="busy"):
        await channel.send(delivery)
    side.stopping.set()


async def test_many_sends_share_few_threads(world: World, delivery: Delivery) -> None:
    side = await world.web(behaviour=SILENT)
    channel = through(world, side, "hook?rto=30", timeout=1.0, concurrency=100)
    results = await asyncio.gather(*(channel.send(delivery) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(each, Unknown) for each in results) == 8
    assert sum(isinstance(each, Deferred) for each in results) == 4
    assert side.most_together == 8
    side.stopping.set()


async def test_services_are_kept_for_a_limited_number_of_addresses(world: World, delivery: Delivery) -> None:
    side = await world.web()
    channel = through(world, side, "{to}")
    for number in range(300):
        await channel.send(replace(delivery, to=(f"+1000{number}",)))
    assert len(side.requests) == 300
    services: Any = channel
    assert len(services._services._idle) == 256


async def test_no_secret_of_the_url_gets_into_a_receipt(world: World, delivery: Delivery) -> None:
    secrets = ("hunter2secret", "tokenABCDEF", "key12345678")
    side = await world.web(status=403, body=" ".join(secrets).encode())  # it repeats them
    for port in (side.port, free_port()):
        url = f"json://user:hunter2secret@127.0.0.1:{port}/tokenABCDEF?+X-Key=key12345678"
        channel: Any = world.open("apprise", url=url)
        with pytest.raises(ChannelError) as failed:
            await channel.send(delivery)
        for secret in secrets:
            assert secret not in str(failed.value)
            assert secret not in repr(channel._settings)
    assert len(side.requests) == 1


@pytest.mark.parametrize("url", ["nosuchservice://x", "not a url", "twilio://bad/{to}"])
def test_a_url_without_a_service_does_not_open(url: str, world: World) -> None:
    with pytest.raises(PolicyError, match=r"Apprise"):
        world.open("apprise", url=url)


def test_a_plugin_found_by_its_file_is_the_one_that_apprise_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = apprise._sources()
    monkeypatch.setattr(apprise, "_sources", lambda: sources)
    every = NotificationManager()
    found = {schema: apprise.plugin_of(schema) for schema in every.schemas()}
    assert all(plugin in (None, every[schema]) for schema, plugin in found.items())
    assert sum(plugin is not None for plugin in found.values()) > 0.9 * len(found)


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("json://127.0.0.1:80/x", True),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#x", True),
        ("slack://a", False),
        ("slck://a/b/c", False),
        (
            "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
            False,
        ),  # not by its schema
        ("no url", False),
    ],
)
def test_a_url_usable_by_its_plugin_is_usable_by_apprise(url: str, usable: bool) -> None:
    assert apprise.usable_alone(url) is usable
    if usable:
        assert instantiate(url, None) is not None


def test_one_channel_does_not_load_every_plugin() -> None:
    """That takes longer than all other work of a check."""
    policy = "channels: {t: {type: apprise, url: 'json://127.0.0.1:80/x'}}"
    checked = (
        "from engine.policy.loader import load_bytes; assert load_bytes(sys.stdin.buffer.read(), 'x', {}).ok"
    )
    counted = "print(sum(name.startswith('apprise.plugins.') for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {checked}; {counted}"],
        input=policy.encode(),
        check=True,
        stdout=subprocess.PIPE,
    )
    assert 1 <= int(done.stdout) < 20
