"""The contract that every channel type fulfils.

A new type needs an entry in CASES: how it is opened against another side that takes the message,
refuses it, asks for another try, or falls silent after it has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from contract.channels.sides import PATIENT, SILENT, TIMEOUT, World, free_port
from msgspec.structs import replace

from engine.channels import TYPES, Channel
from engine.model.errors import BrokerError, ChannelError, Deferred, MaxPayloadExceeded, Refused, Unknown
from engine.model.messages import Delivery

Opens = Callable[[World], Awaitable[Channel]]


@dataclass(frozen=True)
class Case:
    """The way to each outcome; None if the type cannot have it."""

    taken: Opens
    refused: Opens | None
    deferred: Opens | None
    unknown: Opens | None


def email(timeout: float = PATIENT, **answers: str) -> Opens:
    async def opens(world: World) -> Channel:
        return world.mail(await world.smtp(**answers), timeout=timeout)

    return opens


def http(scheme: str, type_: str, timeout: float = PATIENT, status: int = 200, behaviour: str = "") -> Opens:
    async def opens(world: World) -> Channel:
        side = await world.web(status=status, behaviour=behaviour)
        return world.open(type_, timeout=timeout, url=f"{scheme}://127.0.0.1:{side.port}/hook")

    return opens


def nats(timeout: float = PATIENT, error: Exception | None = None, *, hangs: bool = False) -> Opens:
    async def broker() -> None:
        if error is not None:
            raise error
        if hangs:
            await asyncio.Event().wait()

    async def opens(world: World) -> Channel:
        world.broker = broker
        return world.open("nats", timeout=timeout, subject="siem.events")

    return opens


def console(error: Exception | None = None) -> Opens:
    def terminal() -> None:
        if error is not None:
            raise error

    async def opens(world: World) -> Channel:
        world.terminal = terminal
        return world.open("console")

    return opens


CASES: dict[str, Case] = {
    "email": Case(
        taken=email(),
        refused=email(body="554 5.7.1 no"),
        deferred=email(body="451 4.3.0 later"),
        unknown=email(TIMEOUT, body=SILENT),
    ),
    "apprise": Case(
        taken=http("json", "apprise"),
        refused=http("json", "apprise", status=404),
        deferred=http("json", "apprise", status=503),
        unknown=http("json", "apprise", TIMEOUT, behaviour=SILENT),
    ),
    "webhook": Case(
        taken=http("http", "webhook"),
        refused=http("http", "webhook", status=410),
        deferred=http("http", "webhook", status=500),
        unknown=http("http", "webhook", TIMEOUT, behaviour=SILENT),
    ),
    "nats": Case(
        taken=nats(),
        refused=nats(error=MaxPayloadExceeded("2 MB are beyond max_payload")),
        deferred=nats(error=BrokerError("the broker is away")),
        unknown=nats(TIMEOUT, hangs=True),
    ),
    "console": Case(
        taken=console(), refused=None, deferred=console(BrokenPipeError("no reader")), unknown=None
    ),
}
OUTCOMES: list[tuple[str, str, type[ChannelError]]] = [
    (type_, outcome, error)
    for type_, case in CASES.items()
    for outcome, error in (("refused", Refused), ("deferred", Deferred), ("unknown", Unknown))
    if getattr(case, outcome) is not None
]
every_type = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Return the log of the process."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener(logging.INFO)
    logging.getLogger().addHandler(listener)
    yield messages
    logging.getLogger().removeHandler(listener)


def test_every_type_has_a_case() -> None:
    assert sorted(TYPES) == sorted(CASES), "a channel type without a contract case, or a case without a type"


@every_type
async def test_an_accepted_message_returns_a_note(
    case: Case, world: World, delivery: Delivery, logged: list[str]
) -> None:
    channel = await case.taken(world)
    note = await channel.send(delivery)
    assert note and "\n" not in note
    assert logged == []


@pytest.mark.parametrize(("type_", "outcome", "error"), OUTCOMES)
async def test_a_failure_is_refused_deferred_or_unknown(
    type_: str,
    outcome: str,
    error: type[ChannelError],
    world: World,
    delivery: Delivery,
    logged: list[str],
) -> None:
    opens: Opens = getattr(CASES[type_], outcome)
    channel = await opens(world)
    with pytest.raises(ChannelError) as failed:
        await channel.send(delivery)
    assert type(failed.value) is error
    detail = str(failed.value)
    assert detail and "\n" not in detail and len(detail) < 2000
    assert logged == []


@every_type
async def test_many_deliveries_are_sent_at_the_same_time(
    case: Case, world: World, delivery: Delivery
) -> None:
    channel = await case.taken(world)
    sends = (channel.send(replace(delivery, id=f"{number:032x}")) for number in range(24))
    assert len(await asyncio.gather(*sends)) == 24


@every_type
async def test_an_unused_channel_closes_and_closes_twice(case: Case, world: World) -> None:
    channel = await case.taken(world)
    await channel.close()
    await channel.close()


@pytest.mark.parametrize("type_", [name for name, case in CASES.items() if case.unknown])
async def test_a_cancelled_send_raises_only_cancelled_error(
    type_: str, world: World, delivery: Delivery
) -> None:
    opens = CASES[type_].unknown
    assert opens is not None
    channel = await opens(world)
    send = asyncio.create_task(channel.send(delivery))
    await asyncio.sleep(0)
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        ("webhook", {"url": "http://127.0.0.1:{port}/"}),
        ("apprise", {"url": "json://127.0.0.1:{port}/"}),
        ("email", {"from": "a@x.test", "mtas": [{"host": "127.0.0.1", "port": "{port}", "tls": "none"}]}),
    ],
)
async def test_a_receiver_that_does_not_listen_is_a_definite_failure(
    type_: str, options: dict[str, object], world: World, delivery: Delivery
) -> None:
    port = str(free_port())

    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return str(value).replace("{port}", port)

    channel = world.open(type_, **{key: filled(value) for key, value in options.items()})
    with pytest.raises(Deferred, match=r"(?i)refused|connect call failed"):
        await channel.send(delivery)
