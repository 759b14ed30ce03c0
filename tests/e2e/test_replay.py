"""``mss replay`` compared with the real deliveries of a server."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from uuid import uuid4

from support.delivery_outcomes import mss
from support.external_services import World
from support.in_process_server import ask, serving
from support.policy_builders import write
from support.waiting import until
from support.wire_messages import envelope

SECRET = "https://iam.example.com/secure?token=abc"
POLICY = """
channels:
  terminal: {type: console}
  board: {type: console}
rules:
  - {id: login, event: notice.login.abnormal, when: {result: success}, notify: [terminal, board], template: t}
  - {id: logged, event: log, notify: [terminal], template: t}
"""
WORDS = "{{ payload.city }} {{ payload.href }}"


async def test_counts_agree_with_the_real_deliveries_and_nothing_is_sent(
    world: World, tmp_path: Path
) -> None:
    files = {"policy.yaml": POLICY, "templates/t/default.txt": WORDS}
    live = write(tmp_path / "live", files)
    new = write(
        tmp_path / "new",
        {
            **files,
            "policy.yaml": POLICY.replace("success}, notify: [terminal, board]", "failure}, notify: [board]"),
        },
    )
    payload = {"city": "Oslo", "href": SECRET, "userid": "u1"}
    twice = uuid4().hex
    prefix = "kiam.console"
    async with serving(world.address, {}, rules=live):
        early = await mss("replay", "--live", str(live), "--rules", str(new), "--server", world.address)
        assert early.code == 0 and "there was no event to compare the policies with" in early.output, early
        for number in range(30):
            data = {**payload, "result": "success" if number % 3 else "failure"}
            await world.client.publish(f"{prefix}.notice.login.abnormal", envelope(data))
        for _ in range(2):
            data = envelope({**payload, "result": "success"}, reqid=twice)
            await world.client.publish(f"{prefix}.notice.login.abnormal", data)
        await world.client.publish(f"{prefix}.log", envelope(payload))
        await world.client.publish(f"{prefix}.notice.elsewhere", envelope(payload))

        async def receipts() -> int:
            entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
            planned = sum(entry["type"] == "planned" for entry in entries)
            return len(entries) - planned if planned == 34 else 0

        async def all_there() -> bool:
            return await receipts() >= 43 and not await world.stored("MSS_DELIVERY")

        await until(all_there, what="everything delivered")
        delivered = await receipts()
    await world.client.publish("kiam.console.notice.login.abnormal", b"{no event")
    before = await world.stored("MSS_HISTORY")
    config = tmp_path / "mss.yaml"
    config.write_text(json.dumps({"servers": world.address, "rules": str(live)}))
    result = await mss("replay", "--rules", str(new), "-c", str(config), "--format", "json")
    assert result.code == 0, result
    document = result.document
    assert (document["events"], document["kinds"]) == (34, {"notice": 33, "log": 1})
    assert document["undecodable"] == 1 and document["live"]["deliveries"] == delivered == 43
    counts = {(each["rule"], each["channel"]): each for each in document["rules"]}
    assert counts["login", "terminal"]["vanishes"] == 21 and counts["logged", "terminal"]["same"] == 1
    assert (counts["login", "board"]["vanishes"], counts["login", "board"]["appears"]) == (21, 10)
    assert document["new"]["deliveries"] == 11 and len(document["samples"]) == 9
    assert SECRET not in result.output
    same = await mss("replay", "--rules", str(live), "-c", str(config))
    assert same.code == 0 and "no delivery differs" in same.output, same
    later = await mss("replay", "--rules", str(new), "-c", str(config), "--since", "1ms")
    assert later.code == 0 and "0 events replayed" in later.output, later
    write(new, {"templates/t/default.txt": "{{ payload.missing }}"})
    broken = await mss("replay", "--rules", str(new), "--live", str(live), "-c", str(config))
    assert broken.code == 1 and "'dict object' has no attribute 'missing'" in broken.output, broken
    assert await world.stored("MSS_HISTORY") == before and not await world.stored("MSS_DELIVERY")


LIMITED = """
channels:
  email: {type: email, from: mss@example.com, mtas: [{host: "${SMTP_HOST}", port: "${SMTP_PORT}"}]}
  sms: {type: apprise, url: "json://${SMS_GATEWAY}/sms/{to}", address: phone}
defaults: {locale: en}
rules:
  - {id: chosen, event: notice.visit, to: &to {user: userid, email: mailto, phone: phone}, category: visits,
     notify: [preferred], allow: [email, sms], template: t}
  - {id: first, event: notice.visit, to: *to, category: visits, notify: [email, sms], template: t,
     dedupe: {key: [userid], window: 1h}}
  - {id: few, event: notice.visit, to: *to, notify: [sms], template: t, throttle: {key: userid, limit: 2, per: 1h}}
  - {id: rest, event: notice.visit, to: *to, notify: [sms], template: t,
     throttle: {key: userid, limit: 1, per: 3s, on_limit: digest}}
  - {id: together, event: notice.visit, to: *to, category: visits, notify: [email], template: t,
     digest: {key: userid, wait: 3s}}
  - {id: later, event: notice.visit, to: *to, notify: [email], template: t, digest: {key: userid, wait: 1h}}
actions:
  preferences.set: {handler: preferences.set}
"""


async def test_counts_agree_with_the_real_deliveries_under_limits_and_preferences(
    world: World, tmp_path: Path
) -> None:
    files = {
        "policy.yaml": LIMITED,
        "templates/t/default.txt": "---\nsubject: Visits\n---\n{{ events | length }}",
    }
    live = write(tmp_path / "live", files)
    new = write(
        tmp_path / "new", {**files, "policy.yaml": LIMITED.replace("limit: 2, per: 1h", "limit: 3, per: 1h")}
    )
    people, visits = 4, 6
    async with serving(world.address, world.environment, rules=live):
        for user, choices in (("u1", {"visits": ["sms"]}), ("u2", {"visits": []}), ("u3", {"locale": "de"})):
            reply = await ask(world.client, "preferences.set", {"userid": user, "preferences": choices})
            assert reply["code"] == 0, reply
        for number in range(people * visits):
            user = number % people
            payload = {
                "userid": f"u{user}",
                "mailto": f"u{user}@example.com",
                "phone": f"+86138000000{user:02}",
            }
            await world.client.publish("kiam.console.notice.visit", envelope(payload))

        async def sent() -> Counter[tuple[str, str]]:
            entries = [json.loads(msg.data) for msg in await world.messages("MSS_HISTORY")]
            return Counter(
                (each["rule"], each["channel"]) for each in entries if each.get("outcome") == "sent"
            )

        async def all_there() -> bool:
            waiting = await world.unfinished("MSS_NOTICE") + await world.stored("MSS_DELIVERY")
            # A message that is held for an hour is still there.
            return not waiting and await world.stored("MSS_TIMER") == people and bool(await sent())

        await until(all_there, what="everything delivered, and every digest but those of an hour told")
        delivered = await sent()
    assert delivered == {
        ("chosen", "email"): 2 * visits, ("chosen", "sms"): visits,
        ("first", "email"): 2, ("first", "sms"): 3,
        ("few", "sms"): 2 * people, ("rest", "sms"): 2 * people, ("together", "email"): 2,
    }  # fmt: skip
    config = tmp_path / "mss.yaml"
    config.write_text(json.dumps({"servers": world.address, "rules": str(live)}))
    result = await mss(
        "replay", "--rules", str(live), "-c", str(config), "--format", "json", **world.environment
    )
    assert result.code == 0, result
    assert {(each["rule"], each["channel"]): each["same"] for each in result.document["rules"]} == delivered
    assert (
        result.document["users_with_preferences"] == 3
        and result.document["live"]["deliveries"] == delivered.total()
    )
    result = await mss("replay", "--rules", str(new), "-c", str(config), **world.environment)
    assert result.code == 0 and "preferences of 3 users, as of today" in result.output, result
    (line,) = [line for line in result.output.splitlines() if line.startswith("few ")]
    assert line.split() == ["few", "sms", str(2 * people), "-", str(people), "-", "-"], result.output
