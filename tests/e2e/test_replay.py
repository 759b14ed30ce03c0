"""``mss replay`` against what a server really delivered."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from policies import write
from replicas import serving
from support import envelope, until
from undelivered import mss
from world import World

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


async def test_counts_are_those_of_what_was_delivered_and_nothing_is_sent(
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
    await world.client.publish("mss.archive.notice.login.abnormal", b"{no event")
    before = await world.stored("MSS_HISTORY")
    config = tmp_path / "mss.yaml"
    config.write_text(json.dumps({"servers": world.address, "rules": str(live)}))
    said = await mss("replay", "--rules", str(new), "-c", str(config), "--format", "json")
    assert said.code == 0, said
    document = said.document
    assert (document["events"], document["kinds"]) == (34, {"notice": 33, "log": 1})
    assert document["undecodable"] == 1 and document["live"]["deliveries"] == delivered == 43
    counts = {(each["rule"], each["channel"]): each for each in document["rules"]}
    assert counts["login", "terminal"]["vanishes"] == 21 and counts["logged", "terminal"]["same"] == 1
    assert (counts["login", "board"]["vanishes"], counts["login", "board"]["appears"]) == (21, 10)
    assert document["new"]["deliveries"] == 11 and len(document["samples"]) == 9
    assert SECRET not in said.output
    same = await mss("replay", "--rules", str(live), "-c", str(config))
    assert same.code == 0 and "no delivery differs" in same.output, same
    later = await mss("replay", "--rules", str(new), "-c", str(config), "--since", "1ms")
    assert later.code == 0 and "0 events replayed" in later.output, later
    write(new, {"templates/t/default.txt": "{{ payload.missing }}"})
    broken = await mss("replay", "--rules", str(new), "--live", str(live), "-c", str(config))
    assert broken.code == 1 and "'dict object' has no attribute 'missing'" in broken.output, broken
    assert await world.stored("MSS_HISTORY") == before and not await world.stored("MSS_DELIVERY")
