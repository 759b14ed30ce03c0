"""A policy on the broker: pushed, followed by every replica, moved back, and broken."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
from support.delivery_outcomes import CommandResult, mss, mss_process
from support.documented_permissions import permissions
from support.policy_builders import write
from support.processes import NatsServer, client_options
from support.tcp_proxy import TcpProxy
from support.waiting import LIMIT, until

from engine.broker import connect
from engine.model.errors import InvalidBucket, PolicyError, RevisionNotFound
from engine.policy.bucket import Revisions, make_bucket
from engine.policy.loader import Files
from engine.policy.source import BucketSource
from engine.server.reload import Reloader
from engine.server.server import Server
from engine.settings import Settings

POLICY = """
channels: {terminal: {type: console}}
rules: [{id: r, event: notice.login.abnormal, notify: [terminal], template: t}]
tests: [{name: n, given: {event: notice.login.abnormal}, expect: {deliveries: [{contains: hello}]}}]
"""
NOT_HERE: dict[str, str | bytes] = {
    "more.yaml": "channels: {hook: {type: webhook, url: 'http://127.0.0.1/${MSS_TEST_ONLY}'}}\n"
}


class Desk:
    """Where somebody writes the policy and pushes it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder / "policy"
        self.config = folder / "mss.yaml"
        # With the permissions that the operating page gives to whoever pushes.
        result = {"servers": address, "rules": "nats://MSS_POLICY", "user": "pusher", "password": "x"}
        self.config.write_text(json.dumps(result))
        self.address = address

    async def push(
        self, words: str, files: dict[str, str | bytes] | None = None, **environment: str
    ) -> CommandResult:
        write(self.folder, {"policy.yaml": POLICY, "templates/t/default.txt": words, **(files or {})})
        return await self.mss("push", str(self.folder), "-m", words, "--by", "ada", **environment)

    async def mss(self, *arguments: str, **environment: str) -> CommandResult:
        # An environment is of a whole process: replicas in this one must not see the command's.
        run = mss_process if environment else mss
        return await run(*arguments, "-c", str(self.config), **environment)

    async def current(self) -> dict[str, Any]:
        document = (await self.mss("revisions", "--format", "json")).document
        return next(each for each in document["revisions"] if each["current"])

    async def status(self) -> CommandResult:
        access = {"servers": self.address, "user": "mss", "password": "x"}
        (self.folder.parent / "operator.yaml").write_text(json.dumps(access))
        return await mss("status", "-c", str(self.folder.parent / "operator.yaml"))

    def settings(self, address: str = "") -> Settings:
        return Settings(
            servers=(address or self.address,),
            access={"user": "mss", "password": "x"},
            metrics="",
            ack_wait=2.0,
            rules_bucket="MSS_POLICY",
        )

    @asynccontextmanager
    async def replicas(
        self, *polls: float, last_good: bool = False, blind: bool = False, far: str = ""
    ) -> AsyncIterator[list[Server]]:
        """Servers that follow the bucket: by their watch alone, unless they look every so many seconds.

        The last one of the ``blind`` has no watch; the last one goes to the broker by ``far``, if given.
        """
        sources = [
            BucketSource(settings=self.settings(), last_good=last_good, poll=poll)
            for poll in polls or (1000.0,)
        ]
        sources[-1].settings = self.settings(far)
        if blind:
            sources[-1]._watch = lambda *_: asyncio.Event().wait()  # type: ignore[method-assign, assignment, return-value]
        first = await asyncio.gather(*(source.load_initial() for source in sources))
        servers = [
            Server(
                settings=source.settings,
                rulebook=policy.require(),
                source_error=lambda source=source: source.error,
            )
            for source, policy in zip(sources, first, strict=True)
        ]
        stop = asyncio.Event()
        running = [asyncio.create_task(server.run(stop)) for server in servers]
        following = []
        for server, source in zip(servers, sources, strict=True):
            present = partial(getattr, source, "settings")
            reloader = Reloader(server=server, settings=present, load=source.load)
            following.append(asyncio.create_task(reloader.follow(source.changes(present))))
        for server, task in zip(servers, running, strict=True):
            await until(
                lambda server=server, task=task: server.ready.is_set() or task.done(), what="it serves"
            )
        try:
            yield servers
        finally:
            stop.set()
            for task in following:
                task.cancel()
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*running)
                await asyncio.wait(following)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsServer]:
    allowed = permissions("The policy on the broker")
    users = f"{{user: mss, password: x}}, {{user: pusher, password: x, permissions: {allowed}}}"
    made = NatsServer(tmp_path / "nats", f"authorization {{ users: [{users}] }}")
    await made.start()
    yield made
    await made.kill()


async def test_every_replica_follows_the_pushed_revision(broker: NatsServer, tmp_path: Path) -> None:
    redriver = Desk(tmp_path, broker.address)
    with pytest.raises(InvalidBucket, match="nats://MSS_POLICY: there is no such bucket"):
        await BucketSource(settings=redriver.settings()).load_initial()
    none = await redriver.mss("revisions")
    assert none.code == 1 and "there is no such bucket; mss push DIR makes it" in none.errors, none
    first = await redriver.push("hello")
    assert first.code == 0 and "revision 1 (" in first.output, first
    one = (await redriver.current())["revision"]
    async with redriver.replicas(1000.0, 1000.0, 0.2, blind=True) as replicas:
        assert [replica.rulebook.revision for replica in replicas] == [one] * 3

        async def all_go_by(revision: str) -> None:
            await until(
                lambda: {replica.rulebook.revision for replica in replicas} == {revision}, what=revision
            )

        large: dict[str, str | bytes] = {"templates/t/picture.png": random.Random(1).randbytes(1_300_000)}
        second = await redriver.push("hello again", large)
        assert second.code == 0 and "revision 2 (" in second.output and ", before revision 1" in second.output
        two = (await redriver.current())["revision"]
        await all_go_by(two)
        same = await redriver.push("hello again", large)
        assert same.code == 0 and "nothing has changed, revision 2" in same.output, same
        for words, files, result in (
            ("hello", {"bad.yaml": "rules: [{id: x, event: notice.x, notify: [nowhere]}]"}, "error: unknown channel 'nowhere'"),
            ("goodbye", {"bad.yaml": ""}, "1 failed"),
        ):  # fmt: skip
            refused = await redriver.push(words, files)
            assert refused.code == 1 and result in refused.output, refused
        assert (await redriver.current())["number"] == 2
        differs = await redriver.mss("diff", "1", "2")
        assert "--- 1/templates/t/default.txt" in differs.output and "+hello again" in differs.output
        back = await redriver.mss("push", "--rollback", "--by", "bob")
        assert back.code == 0 and "revision 1 (" in back.output, back
        await all_go_by(one)
        listed = await redriver.mss("revisions")
        assert "* 1" in listed.output and "hello again" in listed.output and "by bob" in listed.output, listed
        first_one = await redriver.mss("push", "--rollback")
        assert first_one.code == 1 and "is the first one" in first_one.errors, first_one
        forward = await redriver.mss("push", "--rollback", "2")
        assert forward.code == 0, forward
        await all_go_by(two)
        # The watch is made anew when the broker comes back, and what was pushed meanwhile is taken.
        await broker.kill()
        await broker.start()
        third = await redriver.push("hello, third", large)
        assert third.code == 0, third
        await all_go_by((await redriver.current())["revision"])
        fourth = await redriver.mss("push", "--rollback")
        assert fourth.code == 0, fourth
        await all_go_by(two)


async def test_a_damaged_bucket_stops_no_replica_and_refuses_a_start_without_allow_last_good(
    broker: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redriver = Desk(tmp_path, broker.address)
    caplog.set_level(logging.INFO)
    await redriver.push("hello")
    good = (await redriver.current())["revision"]
    client = await nats.connect(**client_options(broker), user="mss", password="x")
    bucket = await client.jetstream().key_value("MSS_POLICY")

    async def refuses(error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            (await BucketSource(settings=redriver.settings()).load_initial()).require()
        policy = await BucketSource(settings=redriver.settings(), last_good=True).load_initial()
        assert policy.require().revision == good

    async with redriver.replicas() as (replica,):
        # Fine where it was pushed; here a variable is missing.
        pushed = await redriver.push("hello, second", NOT_HERE, MSS_TEST_ONLY="x")
        assert pushed.code == 0, pushed
        await until(lambda: "refused, revision" in caplog.text, what="it is refused")
        assert "more.yaml:1" in caplog.text and replica.rulebook.revision == good
        await refuses(PolicyError, "MSS_TEST_ONLY")
        # Its files are gone.
        for key in await bucket.keys():
            if (await redriver.current())["number"] == 2 and key.startswith("files."):
                newest = json.loads((await bucket.get("current")).value)["pushed"][-1]
                if newest["blob"] in key:
                    await bucket.purge(key)
        await refuses(InvalidBucket, "files are missing")
        # Nothing of the pointer can be read.
        await bucket.put("current", b"{ nonsense")
        await until(lambda: "its pointer cannot be read" in caplog.text, what="it says so")
        await refuses(InvalidBucket, "its pointer cannot be read")
        assert replica.rulebook.revision == good
        assert replica.metrics.value("mss_policy_source_up") == 0
        status = await redriver.status()
        assert status.code == 1 and "cannot read its policy: its pointer cannot be read" in status.errors
        assert "the policy cannot be read: its pointer cannot be read" in status.output
        async with redriver.replicas(last_good=True) as (another,):
            assert another.rulebook.revision == good
            assert (await redriver.push("hello, mended", {"more.yaml": ""})).code == 0
            mended = await redriver.current()
            assert mended["number"] == 3  # what was pushed before is not forgotten
            await until(
                lambda: {replica.rulebook.revision, another.rulebook.revision} == {mended["revision"]},
                what="both",
            )
        assert replica.metrics.value("mss_policy_source_up") == 1
        assert "the policy cannot be read" not in (await redriver.status()).output
    await client.close()


async def test_a_disconnected_replica_loads_the_pushed_revision_when_it_is_connected_again(
    broker: NatsServer, tmp_path: Path
) -> None:
    redriver = Desk(tmp_path, broker.address)
    await redriver.push("hello")
    old = (await redriver.current())["revision"]
    async with (
        TcpProxy(broker.port) as proxy,
        redriver.replicas(1000.0, 1000.0, 1000.0, far=proxy.address) as (one, two, far),
    ):
        proxy.cut()
        for words in ("hello again", "hello, third"):
            assert (await redriver.push(words)).code == 0
            new = (await redriver.current())["revision"]
            await until(
                lambda new=new: {one.rulebook.revision, two.rulebook.revision} == {new}, what="the others"
            )
        assert far.rulebook.revision == old
        proxy.restore()
        await until(lambda: far.rulebook.revision == new, what="it has taken the last one")
        assert one.rulebook.revision == two.rulebook.revision == new


async def test_a_late_push_overwrites_nothing_and_old_files_are_removed(
    broker: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redriver = Desk(tmp_path, broker.address)
    connection = await connect({**client_options(broker), "user": "mss", "password": "x"})
    bucket = await make_bucket(connection, "MSS_POLICY", 1)
    seen = await bucket.revisions()
    assert seen == Revisions()
    await redriver.push("hello")
    late = Files(contents={"policy.yaml": b"rules: []"})
    with pytest.raises(RevisionNotFound, match=r"meanwhile revision 1 \(.*\), pushed by ada, is active"):
        await bucket.push(late, seen, who="bob", at=1, message="")
    with pytest.raises(RevisionNotFound, match="meanwhile"):
        await bucket.activate(1, seen, who="bob", at=1)
    assert (await redriver.current())["who"] == "ada"
    monkeypatch.setattr("engine.policy.bucket.MAX_REVISIONS", 2)
    for words in ("hello 2", "hello 3", "hello"):
        assert (await redriver.push(words)).code == 0
    pushed = (await bucket.revisions()).pushed
    assert [each.number for each in pushed] == [3, 4]
    kept = set(await bucket.bucket.keys_with_prefix("files."))
    assert kept == {f"files.{each.blob}.0" for each in pushed}
    assert (await bucket.files(pushed[-1])).contents["templates/t/default.txt"] == b"hello"
    await connection.close()
