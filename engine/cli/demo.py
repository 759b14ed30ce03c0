"""``mss demo``: broker, server, mail catcher and SMS catcher on one machine, without any setup."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from aiohttp import web
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import msc

from ..broker.embedded import embedded_broker
from ..documents import schemas
from ..model.errors import BrokerUnsupported
from ..planning.planner import plan
from ..policy.loader import load_policy
from ..runtime import now
from ..server.server import Server
from ..settings import Settings
from ..templates import library
from .common import DIRECTORY, event_of, examples, log_to_stderr, stdout
from .connect import ended_by_signal, run, run_until
from .output import count

_EVENT = "notice.login.abnormal"
_LIMIT = 30.0  # seconds until all planned deliveries must arrive
_HEADERS = ("From", "To", "Cc", "Date", "Subject", "Message-ID")
_PLACES = {"zh": ("新加坡", "新加坡"), "": ("Singapore", "Singapore")}


@click.command(epilog=examples("mss demo", "mss demo --locale zh-CN", "mss demo --rules rules --stay"))
@click.option(
    "--rules", metavar="DIR", type=DIRECTORY, show_default="rules, if it exists, or else the example",
    help="The policy.",
)  # fmt: skip
@click.option("--locale", metavar="LOCALE", default="en", help="The language of the recipient.")
@click.option("--stay", is_flag=True, help="Keep everything running until Ctrl-C.")
def demo(rules: Path | None, locale: str, stay: bool) -> None:
    """Show the way of one event on this machine.

    The demo starts a broker, the server, a mail catcher and an SMS catcher, publishes an abnormal login,
    and shows the mail and the SMS that arrive. Nothing leaves this machine.

    Exit code 1: a planned delivery did not arrive.
    """
    folder = rules or (Path("rules") if Path("rules").is_dir() else schemas.DATA / "rules")
    log_to_stderr("error", "text")

    async def main() -> bool | None:
        ended = ended_by_signal()
        if stay:
            return await run_demo(stdout(), folder, locale or "en", stay=ended)
        return await run_until(ended, run_demo(stdout(), folder, locale or "en", stay=None), name="demo")

    if not run(main, str(folder)):
        raise click.ClickException("not all planned deliveries have arrived")


@dataclass(slots=True)
class Caught:
    """The messages that arrived at the catchers, each with the monotonic second of its arrival."""

    mails: list[tuple[float, EmailMessage]] = field(default_factory=list)
    texts: list[tuple[float, str, str]] = field(default_factory=list)  # second, number, text
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    async def wait_for(self, mails: int, texts: int) -> bool:
        """Return whether that many arrived within the limit."""
        try:
            async with asyncio.timeout(_LIMIT), self.arrived:
                await self.arrived.wait_for(lambda: len(self.mails) >= mails and len(self.texts) >= texts)
        except TimeoutError:
            return False
        return True


def payload(locale: str) -> dict[str, Any]:
    """Return an abnormal login, as KrossIAM would publish it."""
    country, city = _PLACES.get(library.normalise_locale(locale).partition("-")[0], _PLACES[""])
    return {
        "userid": "u-1024",
        "username": "alice",
        "mailto": "alice@example.com",
        "phone": "+8613800000000",
        "locale": locale,
        "ip": "203.0.113.9",
        "country": country,
        "city": city,
        "time": "2026-03-02T23:30:00+08:00",
        "result": "success",
        "reason": "impossible_travel",
        "risk": {"score": 91},
        "device": {"name": "Firefox on Linux", "os": "Linux", "trusted": False},
        "href": "https://iam.example.com/secure?token=3f9c1b7e5a",
    }


async def run_demo(console: Console, rules: Path, locale: str, *, stay: asyncio.Event | None) -> bool:
    """Publish one abnormal login, show what arrives, and return whether all planned deliveries arrived.

    With ``stay``, everything keeps running until that is set. Raises PolicyError if the policy has errors,
    BrokerUnsupported if there is no nats-server to run.
    """
    caught = Caught()
    async with smtp_catcher(caught) as smtp, sms_catcher(caught) as sms:
        environment = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp), "SMS_GATEWAY": f"127.0.0.1:{sms}"}
        rulebook = load_policy(rules, {**os.environ, **environment}).require()
        with TemporaryDirectory(prefix="mss-demo-") as folder:
            async with embedded_broker(Path(folder)) as address:
                console.print(f"nats-server {address}, {count(len(rulebook.rules), 'rule')} from {rules}")
                server = Server(settings=Settings(servers=(address,), metrics=""), rulebook=rulebook)
                stop = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(server.run(stop), name="server")
                    await server.ready.wait()
                    planned = plan(rulebook, event_of(rulebook, _EVENT, payload(locale), now())).deliveries
                    counts = {c: sum(d.channel == c for d in planned) for c in ("email", "sms")}
                    async with msc.connect(address, name="demo") as client:
                        began = time.monotonic()
                        reqid = await client.notice(_EVENT.removeprefix("notice."), payload(locale))
                    console.print(f"published {_EVENT}, reqid {reqid}\n")
                    complete = await caught.wait_for(counts["email"], counts["sms"])
                    _show(console, caught, began)
                    if not planned:
                        console.print("No rule notifies anybody of this event.")
                    if stay is not None:
                        console.print("Everything keeps running; Ctrl-C ends it.")
                        await stay.wait()
                    stop.set()
    return complete


def _show(console: Console, caught: Caught, began: float) -> None:
    for at, mail in caught.mails:
        headers = "\n".join(f"{name}: {mail[name]}" for name in _HEADERS if mail[name])
        part = mail.get_body(("plain",))
        text = str(part.get_content()).strip() if part else ""
        parts = ", ".join(p.get_content_type() for p in mail.walk() if not p.is_multipart())
        _panel(console, f"mail after {(at - began) * 1000:.0f} ms", f"{headers}\n({parts})\n\n{text}")
    for at, number, text in caught.texts:
        _panel(console, f"SMS after {(at - began) * 1000:.0f} ms", f"To: {number}\n\n{text}")


def _panel(console: Console, title: str, body: str) -> None:
    console.print(Panel(Text(body), title=title, title_align="left"))


@asynccontextmanager
async def smtp_catcher(caught: Caught) -> AsyncIterator[int]:
    """Run an SMTP server that accepts everything, and yield its port."""
    try:
        from aiosmtpd.smtp import SMTP  # noqa: PLC0415 -- an extra that only the demo needs
    except ImportError as error:
        raise BrokerUnsupported("the demo needs aiosmtpd: pip install 'mss-server[embedded]'") from error

    class Handler:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
            caught.mails.append((time.monotonic(), mail))
            await caught.note()
            return "250 caught"

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Handler(), enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def sms_catcher(caught: Caught) -> AsyncIterator[int]:
    """Run an SMS gateway that takes JSON on ``/sms/<number>``, and yield its port."""

    async def take(request: web.Request) -> web.Response:
        body = await request.json()
        caught.texts.append((time.monotonic(), request.match_info["number"], body["message"]))
        await caught.note()
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_post("/sms/{number}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
