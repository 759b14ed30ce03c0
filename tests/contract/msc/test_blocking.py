"""The blocking client. A loop in another thread runs the broker."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msc_broker import LIMIT, Broker, Heard, listening, plain, until
from nats.aio.msg import Msg

import msc
import msc.blocking
from msc import wire

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a coroutine on an event loop in another thread, and wait for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(LIMIT)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def stage(run: Run, tmp_path: Path) -> Iterator[tuple[Broker, Heard]]:
    """A broker, a subscriber to notices, and a service for ``echo`` and ``iplocation``."""
    stack = AsyncExitStack()

    async def serve(message: Msg) -> None:
        request = wire.decode_request(message.data)
        payload = {"city": "Boxford"} if message.subject.endswith("iplocation") else request.payload
        await message.respond(wire.encode_reply(wire.Reply("0.1.1", 1, request.reqid, 0, "ok", payload)))

    async def up() -> tuple[Broker, Heard]:
        broker = Broker(folder=tmp_path / "nats")
        await broker.start()
        stack.push_async_callback(broker.kill)
        heard = await stack.enter_async_context(listening(broker, "kiam.console.notice.>"))
        other = await stack.enter_async_context(plain(broker))
        for key in ("echo", "iplocation"):
            await other.subscribe(f"kiam.console.action.{key}", cb=serve)
        await other.flush()
        await other.jetstream().add_stream(name="AUDIT", subjects=["kiam.console.audit.>"])
        return broker, heard

    yield run(up())
    run(stack.aclose())


def test_each_method_works_without_an_event_loop(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, heard = stage
    with msc.blocking.connect(broker.url) as client:
        reqid = client.notice("k", {"n": 1}, reqid="mine")
        client.log({"level": "info"})
        assert client.request("echo", {"a": 1}) == {"a": 1}
        assert client.iplocation("1.1.1.1").city == "Boxford"
        assert client.audit("k", {}, confirm=True)
        assert client.accountaddemail(newemail="n", userid="u", confirm=True)
        with pytest.raises(msc.NoResponders):
            client.sendverifyemail(subject="s", userid="u", to="t", href="h")
    (message,) = run(heard.wait_for(1))
    assert wire.decode_request(message.data).reqid == reqid == "mine"


def test_errors_are_those_of_the_asynchronous_client(stage: tuple[Broker, Heard]) -> None:
    broker, _ = stage
    with msc.blocking.connect(broker.url) as client:
        with pytest.raises(msc.InvalidMessage):
            client.notice("a b", {})
        with pytest.raises(msc.NotConfirmed):
            client.log({}, confirm=True, timeout=1)
        with pytest.raises(TypeError):
            client.notice(1, {})  # type: ignore[arg-type]
    with pytest.raises(msc.NotConnected, match="closed"):
        client.notice("k", {})
    client.close()


def test_both_clients_have_the_same_methods() -> None:
    def public(of: type) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    blocking = msc.blocking.BlockingClient
    assert public(msc.Client) == public(blocking)
    for name in public(blocking) - {"open"}:
        expected = inspect.signature(getattr(msc.Client, name)).parameters
        assert inspect.signature(getattr(blocking, name)).parameters == expected
    assert inspect.signature(msc.blocking.connect).parameters == inspect.signature(msc.connect).parameters


def test_many_threads_share_one_client(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, heard = stage
    client = msc.blocking.connect(broker.url)  # connects at the first call, whichever thread makes it
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait(LIMIT)
        for number in range(50):
            client.notice("k", {"n": [thread, number]})
            assert client.request("echo", {"n": [thread, number]}) == {"n": [thread, number]}

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, thread) for thread in range(8)]:
            done.result(LIMIT)
    client.close()
    run(heard.wait_for(400))
    for thread in range(8):
        numbers = [payload["n"][1] for payload in heard.payloads if payload["n"][0] == thread]
        assert numbers == list(range(50))


def test_closing_ends_the_thread(stage: tuple[Broker, Heard]) -> None:
    broker, _ = stage
    before = set(threading.enumerate())
    with msc.blocking.connect(broker.url) as client:
        client.notice("k", {})
    with pytest.raises(msc.ConnectError):
        msc.blocking.connect("nats://127.0.0.1:1", connect_timeout=0.2).open()
    assert set(threading.enumerate()) <= before


def test_arguments_are_checked_at_once() -> None:
    with pytest.raises(msc.InvalidMessage):
        msc.blocking.connect(prefix="a b")
    with pytest.raises(TypeError):
        msc.blocking.connect(nosuch=1)  # type: ignore[call-arg]


def test_closing_reports_unsent_messages(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, _ = stage
    client = msc.blocking.connect(broker.url).open()
    run(broker.kill())
    run(until(lambda: not client._client._connection._is_up, "the outage is noticed"))  # type: ignore[union-attr]
    reqid = client.notice("k", {})
    with pytest.raises(msc.NotConnected) as lost:
        client.close(timeout=0.05)
    assert lost.value.unsent == (reqid,)


FORK = """
import os, sys, msc.blocking
client = msc.blocking.connect(sys.argv[1])
client.notice("k", {"who": "parent"})
child = os.fork()
if child == 0:
    client.notice("k", {"who": "child"})
    assert client.request("echo", {"who": "child"}) == {"who": "child"}
    client.close()
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert client.request("echo", {"who": "parent"}) == {"who": "parent"}
client.notice("k", {"who": "parent again"})
sys.exit(code)  # and what waits goes out all the same
"""


def script(text: str, address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, address], capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_a_fork_gets_a_connection_of_its_own(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, heard = stage
    done = script(FORK, broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    run(heard.wait_for(3))
    assert sorted(payload["who"] for payload in heard.payloads) == ["child", "parent", "parent again"]


EXIT = """
import sys, msc.blocking
client = msc.blocking.connect(sys.argv[1])
for number in range(1000):
    client.notice("k", {"n": number})
"""


def test_an_unclosed_client_sends_its_messages_at_exit(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, heard = stage
    done = script(EXIT, broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    run(heard.wait_for(1000))
    assert json.loads(heard.messages[-1].data)["payload"] == {"n": 999}


LEAVE = """
import sys, time, msc.blocking
client = msc.blocking.connect(sys.argv[1]).open()
print("ready", flush=True)
sys.stdin.readline()
while client._client._connection._is_up:
    time.sleep(0.01)
client.notice("k", {})
"""


def test_an_unclosed_client_logs_unsent_messages_at_exit(stage: tuple[Broker, Heard], run: Run) -> None:
    broker, _ = stage
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, broker.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        run(broker.kill())
        _, errors = program.communicate("gone\n", timeout=LIMIT)
    assert "1 messages unsent" in errors
