"""Users change their preferences through actions, and the next message follows them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from support.documented_permissions import user
from support.external_services import World
from support.in_process_server import ask, serving
from support.policy_builders import write
from support.processes import NatsServer
from support.waiting import until
from support.wire_messages import envelope

import msc
from engine.server.server import Server

POLICY = {
    "policy.yaml": """
        channels:
          email: {type: email, from: mss@example.com, mtas: [{host: "${SMTP_HOST}", port: "${SMTP_PORT}"}]}
          sms: {type: apprise, url: "json://${SMS_GATEWAY}/sms/{to}", address: phone}
        rules:
          - id: abnormal
            event: notice.login.abnormal
            to: {user: userid, email: mailto, phone: phone}
            category: security
            notify: [sms, email]
            template: t
        actions:
          preferences.get: {handler: preferences.get}
          preferences.set: {handler: preferences.set}
          preferences.options:
            handler: preferences.options
            labels: {categories: {security: {en: Security, de: Sicherheit}}, channels: {email: Mail}}
        """,
    "templates/t/en/email.txt": "---\nsubject: Hello\n---\nHello",
    "templates/t/en/sms.txt": "Hello",
    "templates/t/de/email.txt": "---\nsubject: Guten Tag\n---\nGuten Tag",
    "templates/t/de/sms.txt": "Guten Tag",
}


async def test_the_next_message_follows_the_preferences(world: World, tmp_path: Path) -> None:
    caught = world.caught

    async def request(what: str, **payload: Any) -> dict[str, Any]:
        return await ask(world.client, f"preferences.{what}", {"userid": "u1", **payload})

    async def announce() -> None:
        payload = {"userid": "u1", "mailto": "u1@example.com", "phone": "+4930123456"}
        await world.client.publish("kiam.console.notice.login.abnormal", envelope(payload))

    async with serving(world.address, world.environment, rules=write(tmp_path / "rules", POLICY)) as server:
        options = (await request("options"))["payload"]
        (security,) = options["categories"]
        assert (security["category"], security["label"]) == ("security", "Security")
        assert [each["label"] for each in security["channels"]] == ["sms", "Mail"]
        assert security["critical"] is False
        assert [(each["channel"], each["on"]) for each in security["channels"]] == [
            ("sms", True), ("email", True),
        ]  # fmt: skip
        assert options["languages"] == ["de", "en"] and options["addresses"] == ["email", "phone"]
        await announce()
        await until(lambda: len(caught.mails) == len(caught.texts) == 1, what="a mail and an SMS")

        reply = await request("set", preferences={"security": ["email"], "locale": "de"})
        assert reply["code"] == 0 and reply["payload"]["preferences"] == {
            "security": ["email"],
            "locale": "de",
        }
        await announce()
        await until(lambda: len(caught.mails) == 2, what="a mail")
        assert [mail["Subject"] for _, mail in caught.mails] == ["Hello", "Guten Tag"]
        assert len(caught.texts) == 1
        assert (
            server.metrics.value("mss_deliveries_suppressed_total", rule="abnormal", reason="preference") == 1
        )
        assert server.metrics.value("mss_preference_lookups_total", result="miss") == 1

        options = (await request("options", locale="en"))["payload"]
        assert options["categories"][0]["label"] == "Sicherheit" and options["default"]["label"] == "default"
        assert [each["on"] for each in options["categories"][0]["channels"]] == [False, True]

        # A refused change has all reasons, and changes nothing.
        reply = await request("set", preferences={"secruity": [], "security": ["slack"], "locale": "??"})
        assert reply["code"] == 1 and reply["payload"]["reasons"] == [
            "locale: '??' is no language such as zh-CN"
        ]
        reply = await request("set", preferences={"secruity": [], "security": ["slack"]})
        assert reply["payload"]["reasons"] == [
            "security: slack is not offered",
            "secruity: there is no such category; did you mean 'security'?",
        ]
        reply = await request("set", preferences={"security": ["x" * 500_000]})
        assert reply["code"] == 1 and "bytes are too many" in reply["message"]
        assert (await ask(world.client, "preferences.get", {}))[
            "message"
        ] == "userid: the payload names no user"

        # One key is deleted. The same request again gets the same reply and is not executed again.
        reqid = uuid4().hex
        taken_back = {"userid": "u1", "preferences": {"security": None}}
        first = await ask(world.client, "preferences.set", taken_back, reqid=reqid)
        await request("set", preferences={"security": ["sms"]})
        assert await ask(world.client, "preferences.set", taken_back, reqid=reqid) == first
        recorded = await world.stored("KV_MSS_LEDGER")
        assert (await request("get"))["payload"]["preferences"] == {"locale": "de", "security": ["sms"]}
        assert await world.stored("KV_MSS_LEDGER") == recorded  # reading leaves nothing in the ledger
        await announce()
        await until(lambda: len(caught.texts) == 2, what="an SMS")
        reply = await request("set", preferences={}, replace=True)
        assert (await request("get"))["payload"]["preferences"] == {} == reply["payload"]["preferences"]
        assert len(caught.mails) == 2


USERS = """
PORTAL_PASSWORD: p
PERSON_PASSWORD: p
authorization { users: [
  {user: mss, password: p},
  @PORTAL@,
  @PERSON@,
  {user: reader, password: p, permissions: {
    publish: ["kiam.console.action.preferences.get", "kiam.console.action.preferences.options"],
    subscribe: ["_INBOX.>"]}}
] }
"""
ENVIRONMENT = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "SMS_GATEWAY": "127.0.0.1:1"}


@asynccontextmanager
async def permitting(folder: Path) -> AsyncIterator[tuple[NatsServer, Server]]:
    """Start a broker with the users of the operating page and a reader, and a server on it."""
    users = USERS
    for placeholder, name in (("@PORTAL@", "portal"), ("@PERSON@", "u-1024")):
        users = users.replace(placeholder, user("People's preferences", name))
    broker = NatsServer(folder / "nats", users)
    rules = write(folder / "rules", POLICY)
    await broker.start()
    try:
        access = {"user": "mss", "password": "p"}
        async with serving(broker.address, ENVIRONMENT, rules=rules, access=access) as server:
            yield broker, server
    finally:
        await broker.kill()


async def refused(work: Awaitable[Any]) -> None:
    """Expect an immediate refusal by the broker."""
    with pytest.raises(msc.PermissionDenied, match=r"(?i)permissions violation"):
        await work


async def test_permissions_of_the_broker_limit_a_user(tmp_path: Path) -> None:
    """The portal of the operating page can change every record, and nothing else; a reader can change none."""

    def choose(client: msc.Client, *channels: str) -> Awaitable[dict[str, Any] | None]:
        return client.request("preferences.set", {"userid": "u1", "preferences": {"security": channels}})

    async with (
        permitting(tmp_path) as (broker, _),
        msc.connect(broker.address, user="portal", password="p") as portal,
        msc.connect(broker.address, user="reader", password="p") as reader,
    ):
        options = await portal.request("preferences.options", {"userid": "u1"})
        assert options is not None and options["categories"]
        chosen = {"userid": "u1", "preferences": {"security": ["sms"]}}
        assert await choose(portal, "sms") == chosen
        assert await portal.request("preferences.get", {"userid": "u1"}) == chosen
        await refused(portal.request("iplocation", {"ipaddr": "203.0.113.9"}))
        await refused(portal.notice("login.abnormal", {"userid": "u1"}, confirm=True))

        # A user with fewer rights gets the reason at once, and nothing is changed.
        await refused(choose(reader, "email"))
        assert await reader.request("preferences.get", {"userid": "u1"}) == chosen

        # The server refuses a megabyte with the reason. The client refuses what no broker would accept.
        with pytest.raises(msc.ActionFailed, match="bytes are too many: at most 16384"):
            await choose(portal, "x" * 1_000_000)
        with pytest.raises(msc.MessageTooLarge, match="the broker accepts 1048576"):
            await choose(portal, "x" * 1_048_576)
        assert await reader.request("preferences.get", {"userid": "u1"}) == chosen

        # The user cannot write to the bucket either.
        complaints: list[str] = []

        async def complained(error: Exception) -> None:
            complaints.append(str(error).lower())

        direct = await nats.connect(broker.address, user="portal", password="p", error_cb=complained)
        forbidden = (
            "$KV.MSS_PREFERENCES.user.x",
            "$JS.API.STREAM.INFO.KV_MSS_PREFERENCES",
            "mss.delivery.notice.sms",
        )
        for subject in forbidden:
            await direct.publish(subject, b"{}")
        await direct.subscribe("kiam.console.>")
        await until(lambda: len(complaints) > len(forbidden), what="a refusal of each")
        for subject in (*forbidden, "kiam.console.>"):
            assert any("violation for " in each and f'"{subject.lower()}"' in each for each in complaints), (
                complaints
            )
        await direct.close()


async def test_a_broker_user_can_be_limited_to_their_own_preferences(tmp_path: Path) -> None:
    """The broker refuses the subject of another user, and MSS refuses the id of another user."""
    chosen = {"userid": "u-1024", "preferences": {"security": ["sms"]}}
    nothing = {"userid": "u-1", "preferences": {}}
    inbox = "_INBOX.u-1024"
    async with (
        permitting(tmp_path) as (broker, server),
        msc.connect(broker.address, user="portal", password="p") as portal,
        msc.connect(broker.address, user="u-1024", password="p", inbox_prefix=inbox) as client,
    ):
        change = {"preferences": {"security": ["sms"]}}
        assert await client.request("preferences.set.u-1024", change) == chosen
        assert await client.request("preferences.get.u-1024", None) == chosen
        assert await client.request("preferences.get.u-1024", {"userid": "u-1024"}) == chosen
        options = await client.request("preferences.options.u-1024", {})
        assert options is not None and options["userid"] == "u-1024" and options["categories"]

        for what in ("get", "set", "options"):
            await refused(client.request(f"preferences.{what}.u-1", change))
            await refused(client.request(f"preferences.{what}", {"userid": "u-1024", **change}))
            with pytest.raises(msc.ActionFailed, match="userid: this subject is for u-1024 only"):
                await client.request(f"preferences.{what}.u-1024", {"userid": "u-1", **change})
        assert await portal.request("preferences.get", {"userid": "u-1"}) == nothing
        assert await portal.request("preferences.get", {"userid": "u-1024"}) == chosen
        value = server.metrics.value
        assert value("mss_action_requests_total", action="preferences.set", code="0") == 1
        assert value("mss_action_requests_total", action="preferences.set", code="1") == 1

        # A request is executed once. On another subject, it is another request.
        reqid = uuid4().hex
        complaints: list[str] = []

        async def complained(error: Exception) -> None:
            complaints.append(str(error).lower())

        access = {"user": "u-1024", "password": "p", "inbox_prefix": inbox}
        direct = await nats.connect(broker.address, error_cb=complained, **access)
        trusted = await nats.connect(broker.address, user="mss", password="p")
        theirs = {"userid": "u-1", "preferences": {"locale": "de"}}
        assert (await ask(trusted, "preferences.set", theirs, reqid=reqid))["payload"]["userid"] == "u-1"
        back = {"preferences": {"security": None}}
        first = await ask(direct, "preferences.set.u-1024", back, reqid=reqid)
        assert first["payload"] == {"userid": "u-1024", "preferences": {}}
        assert await client.request("preferences.set.u-1024", change) == chosen
        assert await ask(direct, "preferences.set.u-1024", back, reqid=reqid) == first
        assert await client.request("preferences.get.u-1024", None) == chosen

        await direct.subscribe("_INBOX.>")  # where the replies of others arrive
        await until(lambda: complaints != [], what="a refusal")
        assert 'permissions violation for subscription to "_inbox.>"' in complaints[0]
        await direct.close()
        await trusted.close()


async def test_the_subject_of_a_user_exists_while_its_action_is_active(world: World, tmp_path: Path) -> None:
    subjects = ("preferences.get", "preferences.get.u1")
    rules = write(tmp_path / "rules", POLICY)
    async with serving(world.address, world.environment, rules=rules) as server:
        for key in subjects:
            assert (await ask(world.client, key, {"userid": "u1"}))["code"] == 0
        off = replace(server.settings, actions_off=frozenset({"preferences.get"}))
        await server.apply(server.rulebook, off)
        for key in subjects:
            with pytest.raises(nats.errors.NoRespondersError):
                await ask(world.client, key, {"userid": "u1"})
        await server.apply(server.rulebook, replace(off, actions_off=frozenset()))
        for key in subjects:
            assert (await ask(world.client, key, {"userid": "u1"}))["code"] == 0

        # Another handler with the same key is served on the key alone.
        assert server.actions is not None
        specs = dict(server.rulebook.actions)
        specs["preferences.get"] = replace(
            specs["preferences.get"], handler="forward", options={"subject": "nobody"}
        )
        await server.actions.apply(specs)
        assert "nobody serves it" in (await ask(world.client, "preferences.get", {}))["message"]
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(world.client, "preferences.get.u1", {})
