"""A person draws up a page of their choices, changes them, and the next message follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from policies import write
from replicas import ask, serving
from support import envelope, until
from world import World

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


async def test_what_is_chosen_is_followed(world: World, tmp_path: Path) -> None:
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
        assert server.metrics.value("mss_suppressed_total", rule="abnormal", reason="preference") == 1
        assert server.metrics.value("mss_preference_lookups_total", result="miss") == 1

        options = (await request("options", locale="en"))["payload"]
        assert options["categories"][0]["label"] == "Sicherheit" and options["default"]["label"] == "default"
        assert [each["on"] for each in options["categories"][0]["channels"]] == [False, True]

        # What is refused says why, all of it, and changes nothing.
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
        ] == "userid: whose preferences is not said"

        # One key is taken back; the same request again is answered, and not carried out again.
        reqid = uuid4().hex
        taken_back = {"userid": "u1", "preferences": {"security": None}}
        first = await ask(world.client, "preferences.set", taken_back, reqid=reqid)
        await request("set", preferences={"security": ["sms"]})
        assert await ask(world.client, "preferences.set", taken_back, reqid=reqid) == first
        recorded = await world.stored("KV_MSS_LEDGER")
        assert (await request("get"))["payload"]["preferences"] == {"locale": "de", "security": ["sms"]}
        assert await world.stored("KV_MSS_LEDGER") == recorded  # to look leaves nothing in the ledger
        await announce()
        await until(lambda: len(caught.texts) == 2, what="an SMS")
        reply = await request("set", preferences={}, replace=True)
        assert (await request("get"))["payload"]["preferences"] == {} == reply["payload"]["preferences"]
        assert len(caught.mails) == 2
