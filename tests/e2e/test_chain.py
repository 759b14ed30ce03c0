"""A fallback chain end to end: a web service that refuses or defers, then a mail; with a killed engine."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web
from support.delivery_outcomes import mss
from support.external_services import StartEngine, World
from support.policy_builders import write
from support.waiting import until
from support.wire_messages import envelope

MANY = 40
POLICY = """
channels:
  hook: {type: webhook, url: "http://127.0.0.1:%(port)s/400", concurrency: 4}
  busy: {type: webhook, url: "http://127.0.0.1:%(port)s/503", retry: {first: 10m}, timeout: 1s}
  email: {type: email, from: noreply@example.com, mtas: [{host: 127.0.0.1, port: "${SMTP_PORT}", tls: none}]}
rules:
  - {id: refused, event: notice.refused, to: {email: mailto}, template: t, notify: [{first_of: [hook, email]}]}
  - id: deferred
    event: notice.deferred
    to: {email: mailto}
    template: t
    notify: [{first_of: [busy, email], within: 2s}]
"""


@pytest.fixture
async def asked() -> AsyncIterator[tuple[int, list[str]]]:
    """Provide a web server that replies with the status in the path: its port, and the paths it got."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=int(request.path[1:]))

    app = web.Application()
    app.router.add_post("/{status}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], seen
    await runner.cleanup()


async def test_a_chain_ends_with_a_mail_although_the_engine_is_killed(
    world: World, start_engine: StartEngine, asked: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, seen = asked
    words = "---\nsubject: s\n---\nHello {{ payload.mailto }}"
    rules = write(tmp_path / "rules", {"p.yaml": POLICY % {"port": port}, "templates/t/email.txt": words})
    engine = await start_engine(rules)
    deferred, refused = uuid4().hex, [uuid4().hex for _ in range(MANY)]
    late = envelope({"mailto": "late@example.com"}, reqid=deferred)
    await world.client.publish("kiam.console.notice.deferred", late)
    await until(lambda: "/503" in seen, what="the attempt that is deferred")
    for number, reqid in enumerate(refused):
        event = envelope({"mailto": f"u{number}@example.com"}, reqid=reqid)
        await world.client.publish("kiam.console.notice.refused", event)
    await until(lambda: seen.count("/400") >= 5, what="some that are refused")
    await engine.end(signal.SIGKILL)
    assert len(world.caught.mails) < MANY, "killed too late to prove anything"
    await start_engine(rules)

    async def nothing_waits() -> bool:
        left = [await world.unfinished(name) for name in ("MSS_NOTICE", "MSS_DELIVERY")]
        return not any(left)

    await until(nothing_waits, what="the end of every chain")
    mailed = Counter(str(mail["To"]) for _, mail in world.caught.mails)
    # A request in flight at the kill may have been served: that is a dead letter, and no fallback.
    letters = await world.messages("MSS_DEAD")
    assert all("may have gone out" in letter.headers["Mss-Detail"] for letter in letters)
    assert len(letters) <= 4  # as many as the channel sends at once
    unsure = {json.loads(letter.data)["payload"]["mailto"] for letter in letters}
    assert not unsure & set(mailed)
    assert set(mailed) | unsure == {f"u{n}@example.com" for n in range(MANY)} | {"late@example.com"}
    assert mailed["late@example.com"] == 1
    assert seen.count("/503") == 1  # the time was over before the next attempt

    said = await mss("trace", deferred, "--server", world.address)
    assert "it fell back to email" in said.output and "sent  email to late@example.com" in said.output
    document = (await mss("trace", deferred, "--server", world.address, "--format", "json")).document
    first, second = document["deliveries"]
    assert (first["status"], first["final"], first["fallback"]) == ("deferred", True, second["id"])
    assert (second["status"], second["channel"], document["dead"]) == ("sent", "email", [])
