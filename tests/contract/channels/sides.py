"""The receiving systems: a mail server and a web server that fail as a test needs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiohttp import web

from engine.channels import Channel, ChannelResources, open_channel
from engine.model.messages import Delivery, Kind, Message, Severity
from engine.model.problems import Place
from engine.rules.rulebook import ChannelSpec

SILENT, DROP = "silent", "drop"
TIMEOUT = 0.3  # seconds; long enough for loopback, short enough to wait for
PATIENT = 20.0  # seconds, where nothing is silent


def free_port() -> int:
    """Return a port of 127.0.0.1 without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class FakeSmtp:
    """A mail server that answers by script.

    ``answers`` maps a stage (``greeting``, ``EHLO``, ``MAIL``, ``RCPT``, ``DATA``, ``body``, ``RSET``,
    ``QUIT``) to a reply, SILENT or DROP, or to a function of the command that returns one.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("SIZE 10000000",)
    connections: int = 0
    commands: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    said: str = ""  # the last reply
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    gone: asyncio.Queue[None] = field(default_factory=asyncio.Queue)  # one entry a closed connection

    @property
    def mails(self) -> list[EmailMessage]:
        return [as_mail(body) for body in self.bodies]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.gone.put_nowait(None)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._answer("greeting", "", "220 fake ESMTP", reader, writer):
            return
        taken = False  # some recipient
        while line := await reader.readline():
            command = line.decode("utf-8").rstrip("\r\n")
            self.commands.append(command)
            verb = command.split(" ")[0].upper()
            go_ahead = "354 go ahead" if taken else "554 no valid recipients"
            usual = {"EHLO": self._ehlo(), "DATA": go_ahead, "QUIT": "221 bye"}.get(verb, "250 ok")
            if not await self._answer(verb, command, usual, reader, writer):
                return
            if verb == "RCPT":
                taken = taken or self.said.startswith("250")
            if verb == "DATA" and self.said.startswith("354"):
                taken = False
                body = await reader.readuntil(b"\r\n.\r\n")
                self.bodies.append(body[:-3].replace(b"\r\n..", b"\r\n."))
                if not await self._answer("body", "", "250 taken", reader, writer):
                    return
            if verb == "QUIT":
                return

    def _ehlo(self) -> str:
        return "\r\n".join(["250-fake", *(f"250-{each}" for each in self.extensions), "250 HELP"])

    async def _answer(
        self, stage: str, command: str, usual: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        answer = self.answers.get(stage, usual)
        if callable(answer):
            answer = answer(command) or usual
        if answer == SILENT:
            await reader.read()
            return False
        if answer == DROP:
            return False
        self.said = answer
        writer.write(answer.encode() + b"\r\n")
        await writer.drain()
        return not answer.startswith("421")


@dataclass
class FakeWeb:
    """A web server that answers by script and keeps its requests."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    behaviour: str = ""  # SILENT, DROP, "" for an answer, or "endless" for one without an end
    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    together: int = 0  # requests that wait now
    most_together: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.read()))
        self.asked.set()
        if self.behaviour == SILENT:
            self.together += 1
            self.most_together = max(self.most_together, self.together)
            await self.stopping.wait()
        if self.behaviour == DROP:
            assert request.transport is not None
            request.transport.close()
        if self.behaviour == "endless":
            response = web.StreamResponse(status=self.status)
            await response.prepare(request)
            try:
                while not self.stopping.is_set():
                    await response.write(b"x" * 65536)
            except ConnectionError:
                pass
            return response
        return web.Response(status=self.status, headers=self.headers, body=self.body)


def as_mail(data: bytes) -> EmailMessage:
    mail = message_from_bytes(data, policy=default)
    assert isinstance(mail, EmailMessage)
    return mail


def make_delivery(**changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": "0123456789abcdef0123456789abcdef",
        "kind": Kind.NOTICE,
        "key": "login.abnormal",
        "reqid": "f" * 32,
        "rule": "abnormal-login",
        "revision": "r1",
        "channel": "test",
        "user": "u1",
        "to": ("a@x.test",),
        "locale": "en",
        "severity": Severity.HIGH,
        "message": Message(title="A sign-in", text="Was it you?", html="<p>Was it you?</p>"),
        "payload": {"userid": "u1", "big": 2**63, "name": "张三"},
        "created": 1_772_465_400_123_456,
    }
    return Delivery(**{**values, **changes})


@dataclass
class World:
    """Channels and receiving systems of a test, closed after it."""

    stack: AsyncExitStack
    published: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    broker: Callable[[], Awaitable[None]] | None = None  # called at each publish
    terminal: Callable[[], None] | None = None  # called at each write
    pipelining: bool = False  # mail servers accept the next command before they reply

    async def smtp(self, *, tls: ssl.SSLContext | None = None, **answers: Any) -> FakeSmtp:
        extensions = answers.pop("extensions", FakeSmtp.extensions)
        if self.pipelining:
            extensions = (*extensions, "PIPELINING")
        fake = FakeSmtp(answers=answers, extensions=extensions)
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, ssl=tls)
        fake.port = server.sockets[0].getsockname()[1]

        async def stop() -> None:
            server.close()
            for writer in fake.writers:
                writer.transport.abort()
            for _ in range(fake.connections):
                await fake.gone.get()
            await server.wait_closed()

        self.stack.push_async_callback(stop)
        return fake

    async def web(self, **values: Any) -> FakeWeb:
        fake = FakeWeb(**values)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", fake.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.port = runner.addresses[0][1]
        self.stack.push_async_callback(runner.cleanup)
        self.stack.callback(fake.stopping.set)
        return fake

    def open(
        self,
        type_: str,
        *,
        timeout: float = PATIENT,
        concurrency: int = 8,
        name: str = "test",
        **options: Any,
    ) -> Channel:
        async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
            if self.broker is not None:
                await self.broker()
            self.published.append((subject, payload, headers))

        def write(text: str) -> None:
            if self.terminal is not None:
                self.terminal()
            self.written.append(text)

        spec = ChannelSpec(
            name=name,
            type=type_,
            address=None,
            options={key.removesuffix("_"): value for key, value in options.items()},
            timeout=timeout,
            concurrency=concurrency,
            place=Place(file="channels.yaml", line=3, column=5),
        )
        channel = open_channel(spec, ChannelResources(publish=publish, write=write))
        self.stack.push_async_callback(channel.close)
        return channel

    def mail(self, *mtas: FakeSmtp | Mapping[str, Any], **options: Any) -> Channel:
        """Open an email channel with these servers, named main and spare."""
        described = []
        for name, mta in zip(("main", "spare", "third"), mtas, strict=False):
            settings = mta if isinstance(mta, Mapping) else {"port": mta.port}
            described.append({"name": name, "host": "127.0.0.1", "tls": "none", **settings})
        return self.open("email", **{"from": "KrossIAM <noreply@example.com>", "mtas": described, **options})
