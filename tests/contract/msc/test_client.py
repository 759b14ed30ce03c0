"""The client with a real broker that works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msc_broker import Broker, listening, plain
from nats.aio.msg import Msg
from support.wire_messages import encode_request

import msc
from msc import wire


async def test_a_message_is_published_as_an_envelope_on_its_subject(broker: Broker) -> None:
    async with listening(broker, "kiam.console.>") as heard:
        async with msc.connect(broker.url) as client:
            reqids = [
                await client.notice("login.abnormal", {"a": "<é>"}),
                await client.audit("k", None),
                await client.log({"level": "info"}),
                await client.log({}, "kernel"),
                await client.notice("k", {}, reqid="mine"),
            ]
        messages = await heard.wait_for(5)
    assert [message.subject for message in messages] == [
        "kiam.console.notice.login.abnormal",
        "kiam.console.audit.k",
        "kiam.console.log",
        "kiam.console.log.kernel",
        "kiam.console.notice.k",
    ]
    requests = [wire.decode_request(message.data) for message in messages]
    assert [request.reqid for request in requests] == reqids
    assert [request.payload for request in requests] == [{"a": "<é>"}, None, {"level": "info"}, {}, {}]
    assert all(message.headers is None and not message.reply for message in messages)
    for request, message in zip(requests, messages, strict=True):
        wire.check_request(request, received=requests[0].time, tolerance=10_000_000)
        assert encode_request(request) == message.data


async def test_accountaddemail_has_the_field_order_of_the_go_client(broker: Broker) -> None:
    async with listening(broker, "kiam.console.audit.accountaddemail") as heard:
        async with msc.connect(broker.url) as client:
            await client.accountaddemail(
                newemail="n", userid="u", httpurl="h", locale="l", mailto=("a", "b"), subject="s"
            )
        (message,) = await heard.wait_for(1)
    assert b'{"newemail":"n","userid":"u","httpurl":"h","locale":"l","mailto":["a","b"],"subject":"s"}' in (
        message.data
    )


async def test_subjects_start_with_the_prefix(broker: Broker) -> None:
    async with listening(broker, "other.notice.k") as heard:
        async with msc.connect(broker.url, prefix="other") as client:
            await client.notice("k", {})
        await heard.wait_for(1)


# Requests


@asynccontextmanager
async def serving(broker: Broker, key: str, answer: Callable[[wire.Request], bytes]) -> AsyncIterator[None]:
    """Answer the action ``key``."""

    async def handle(message: Msg) -> None:
        await message.respond(answer(wire.decode_request(message.data)))

    async with plain(broker) as client:
        await client.subscribe(f"kiam.console.action.{key}", cb=handle)
        await client.flush()
        yield


def reply(request: wire.Request, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "version": "0.1.1", "time": 1, "reqid": request.reqid, "code": 0, "message": "ok", "payload": None
    }  # fmt: skip
    return wire.encode_reply(wire.Reply(**{**fields, **changes}))


async def test_a_request_returns_the_payload(broker: Broker) -> None:
    async with (
        serving(broker, "echo", lambda request: reply(request, payload=request.payload)),
        msc.connect(broker.url, inbox_prefix="kiam._inbox") as client,
    ):
        assert await client.request("echo", {"n": 2**60}) == {"n": 2**60}
        answers = await asyncio.gather(*(client.request("echo", {"n": n}) for n in range(50)))
        assert [answer and answer["n"] for answer in answers] == list(range(50))


async def test_a_request_may_return_none(broker: Broker) -> None:
    async with serving(broker, "sendverifyemail", reply), msc.connect(broker.url) as client:
        assert await client.request("sendverifyemail", None) is None
        await client.sendverifyemail(subject="s", userid="u", to="t", href="h", locale="l", expire="e")


async def test_iplocation_returns_a_location(broker: Broker) -> None:
    payload = {"continent": "Europe", "country": "", "city": "Boxford", "longitude": -1.25, "latitude": 0}

    def answer(request: wire.Request) -> bytes:
        assert request.payload == {"ipaddr": "2.125.160.216", "locale": "en"}
        return reply(request, payload={**payload, "timezone": "Europe/London"})

    async with serving(broker, "iplocation", answer), msc.connect(broker.url) as client:
        place = await client.iplocation("2.125.160.216", "en")
    assert place == msc.IPLocation(
        continent="Europe", city="Boxford", longitude=-1.25, latitude=0.0, timezone="Europe/London"
    )


async def test_iplocation_with_a_wrong_type_is_an_invalid_reply(broker: Broker) -> None:
    async with (
        serving(broker, "iplocation", lambda request: reply(request, payload={"longitude": "east"})),
        msc.connect(broker.url) as client,
    ):
        with pytest.raises(msc.ReplyInvalid, match="longitude is not a number"):
            await client.iplocation("1.1.1.1")


async def test_a_failed_action_raises_its_code_and_message(broker: Broker) -> None:
    async with (
        serving(broker, "fail", lambda request: reply(request, code=1, message="no <way>")),
        msc.connect(broker.url) as client,
    ):
        with pytest.raises(msc.ActionFailed, match="no <way>") as failed:
            await client.request("fail", {})
    assert (failed.value.code, failed.value.message, len(failed.value.reqid)) == (1, "no <way>", 32)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _request: b"hello",
        lambda _request: b"",
        lambda request: reply(request, reqid="another's"),
        lambda request: reply(request).replace(b'"code":0', b'"code":0.0'),
        lambda request: reply(request).replace(b'"payload":null', b'"payload":[1]'),
        lambda request: reply(request).replace(b"0.1.1", b""),
    ],
)
async def test_an_invalid_reply_is_an_error(broker: Broker, answer: Callable[[wire.Request], bytes]) -> None:
    async with serving(broker, "odd", answer), msc.connect(broker.url) as client:
        with pytest.raises(msc.ReplyInvalid):
            await client.request("odd", {})


async def test_an_action_without_a_service_has_no_responders(broker: Broker) -> None:
    async with msc.connect(broker.url) as client:
        with pytest.raises(msc.NoResponders):
            await client.request("nobody", {})  # at once, not after 60 s


async def test_a_request_without_an_answer_times_out(broker: Broker) -> None:
    async with listening(broker, "kiam.console.action.silent"), msc.connect(broker.url) as client:
        with pytest.raises(msc.RequestTimeout):
            await client.request("silent", {}, timeout=0.1)


async def test_a_client_works_after_a_cancelled_request(broker: Broker) -> None:
    async with (
        listening(broker, "kiam.console.action.silent") as heard,
        serving(broker, "echo", reply),
        msc.connect(broker.url) as client,
    ):
        waiting = asyncio.create_task(client.request("silent", {}))
        await heard.wait_for(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.request("echo", {}) is None


async def test_a_stream_that_answers_an_action_is_named(broker: Broker) -> None:
    async with plain(broker) as other, msc.connect(broker.url) as client:
        await other.jetstream().add_stream(name="BAD", subjects=["kiam.console.>"])
        with pytest.raises(msc.ReplyInvalid, match="a stream has this subject"):
            await client.request("echo", {})


# Confirmed


@asynccontextmanager
async def stream(broker: Broker, **options: Any) -> AsyncIterator[Callable[[], Any]]:
    async with plain(broker) as client:
        js = client.jetstream()
        await js.add_stream(name="NOTICE", subjects=["kiam.console.notice.>"], **options)

        async def stored() -> int:
            return int((await js.stream_info("NOTICE")).state.messages)

        yield stored


async def test_a_confirmed_message_is_stored_once(broker: Broker) -> None:
    async with stream(broker) as stored, msc.connect(broker.url) as client:
        reqid = await client.notice("k", {}, confirm=True)
        assert await stored() == 1
        assert await client.notice("k", {}, confirm=True, reqid=reqid) == reqid
        assert await stored() == 1
        await client.notice("k", {}, confirm=True)
        assert await stored() == 2


async def test_without_a_stream_nothing_is_confirmed(broker: Broker) -> None:
    async with msc.connect(broker.url) as client:
        with pytest.raises(msc.NotConfirmed, match="no stream"):
            await client.notice("k", {}, confirm=True)


async def test_a_subscriber_does_not_confirm_and_gets_one_copy(broker: Broker) -> None:
    async with listening(broker, "kiam.console.notice.k") as heard, msc.connect(broker.url) as client:
        with pytest.raises(msc.NotConfirmed):
            await client.notice("k", {}, confirm=True, timeout=0.2)
        await client.notice("k", {"last": True})
        await heard.wait_for(2)
        assert heard.payloads == [{}, {"last": True}]


async def test_a_stream_that_refuses_does_not_confirm(broker: Broker) -> None:
    async with stream(broker, max_msg_size=100), msc.connect(broker.url) as client:
        with pytest.raises(msc.NotConfirmed, match="size"):
            await client.notice("k", {"a": "x" * 200}, confirm=True)


# Refused before it is sent


@pytest.mark.parametrize(
    "key", ["", ".", "a.", "a..b", "a b", "a*", "*", ">", "a\r\nPUB x 0", "a\x00", "k" * 2000]
)
async def test_an_invalid_key_is_refused(broker: Broker, key: str) -> None:
    async with msc.connect(broker.url) as client:
        for call in (client.notice, client.audit, client.request):
            with pytest.raises(msc.InvalidMessage):
                await call(key, {})


@pytest.mark.parametrize(
    "payload", [[1], "text", 5, {"a": float("nan")}, {"a": object()}, {"a": b""}, {"a": 10**400}]
)
async def test_an_invalid_payload_is_refused(broker: Broker, payload: Any) -> None:
    async with msc.connect(broker.url) as client:
        with pytest.raises(ValueError, match="payload") as refused:
            await client.notice("k", payload)
        assert isinstance(refused.value, msc.InvalidMessage)


@pytest.mark.parametrize("reqid", ["", "a b", "a\r\nb", "é", "x" * 129])
async def test_an_invalid_reqid_is_refused(broker: Broker, reqid: str) -> None:
    async with msc.connect(broker.url) as client:
        with pytest.raises(msc.InvalidMessage):
            await client.notice("k", {}, reqid=reqid)


async def test_misuse_is_a_type_error(broker: Broker) -> None:
    async with msc.connect(broker.url) as client:
        with pytest.raises(TypeError):
            await client.notice(5, {})  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await client.accountaddemail(newemail="n", userid="u", mailto="a@b.c")


async def test_the_largest_message_is_sent_and_a_larger_one_is_refused(start_broker: Any) -> None:
    broker = await start_broker("max_payload: 1000")
    room = 1000 - len(wire.seal(b'{"a":""}', time=10**15, reqid="0" * 32))
    async with (
        stream(broker),
        listening(broker, "kiam.console.notice.k") as heard,
        msc.connect(broker.url) as client,
    ):
        for confirm, extra in (
            (False, 0),
            (True, len("NATS/1.0\r\nNats-Msg-Id: \r\nMss-Possible-Duplicate: 1\r\n\r\n") + 32),
        ):
            await client.notice("k", {"a": "x" * (room - extra)}, confirm=confirm)
            with pytest.raises(msc.MessageTooLarge, match="1001 bytes"):
                await client.notice("k", {"a": "x" * (room - extra + 1)}, confirm=confirm)
        with pytest.raises(msc.MessageTooLarge):
            await client.request("k", {"a": "x" * 1000})
        messages = await heard.wait_for(2)
        assert len(messages[0].data) == 1000


# Life


async def test_a_closed_client_raises_not_connected(broker: Broker) -> None:
    client = await msc.connect(broker.url)
    await client.close()
    await client.close()
    for call in (client.notice("k", {}), client.request("k", {}), client.notice("k", {}, confirm=True)):
        with pytest.raises(msc.NotConnected, match="closed"):
            await call
    with pytest.raises(msc.NotConnected):
        await client.open()


async def test_a_client_that_is_not_open_raises_not_connected(broker: Broker) -> None:
    client = msc.connect(broker.url)
    with pytest.raises(msc.NotConnected, match="not open"):
        await client.notice("k", {})
    await client.close()


async def test_closing_ends_pending_requests(broker: Broker) -> None:
    async with listening(broker, "kiam.console.action.silent") as heard:
        client = await msc.connect(broker.url)
        waiting = asyncio.create_task(client.request("silent", {}))
        await heard.wait_for(1)
        await client.close()
        with pytest.raises(msc.NotConnected):
            await waiting


async def test_many_messages_arrive_in_order(broker: Broker) -> None:
    async with listening(broker, "kiam.console.notice.k") as heard:
        async with msc.connect(broker.url, buffer=20_000) as client:
            for number in range(5000):
                await client.notice("k", {"n": number})
        messages = await heard.wait_for(5000)
    assert [json.loads(message.data)["payload"]["n"] for message in messages] == list(range(5000))
