"""A policy and a mail server that produce each outcome of a delivery."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from contract.channels.sides import DROP, FakeSmtp
from support import fork_server
from support.policy_builders import write
from support.waiting import LIMIT

from engine.cli import cli

# email soon stops its attempts, patient continues for hours.
POLICY = """
channels:
  email:
    type: email
    from: noreply@example.com
    mtas: [{host: 127.0.0.1, port: "%(port)s"}]
    timeout: 10s
    concurrency: 1
    retry: {attempts: 2, first: 50ms, max: 50ms}
  patient:
    type: email
    from: noreply@example.com
    mtas: [{host: 127.0.0.1, port: "%(port)s"}]
    concurrency: 1
    retry: {attempts: 8, first: 1h, max: 1h}
  terminal: {type: console}
  sms: {type: apprise, url: "json://127.0.0.1:1/{to}", address: phone}
rules:
  - id: quick
    event: [notice.case, audit.case]
    to: {email: mailto}
    notify: [email]
  - id: in-shadow
    enabled: shadow
    event: notice.case
    to: {email: mailto}
    notify: [email]
    template: quick
  - id: slow
    event: notice.patient
    to: {email: mailto}
    notify: [patient]
    template: quick
  - id: worded
    event: notice.worded
    to: {email: mailto}
    notify: [email, terminal]
  - id: texted
    event: notice.texted
    to: {phone: phones}
    notify: [sms]
    template: worded
"""
FILES = {
    "templates/quick/default.txt": "---\nsubject: Case\n---\nCase {{ payload.number }} {{ payload.link }}",
    "templates/worded/email.txt": "---\nsubject: Worded\n---\n{{ payload.words.length }} words",
    "templates/worded/sms.txt": "{{ payload.words.length }} words",
    "templates/worded/default.txt": "words",
    "events/notice/case.schema.json": json.dumps(
        {"properties": {"mailto": {}, "number": {}, "link": {"x-mss-sensitive": True}}}
    ),
}
FIXED = {"templates/worded/email.txt": "---\nsubject: Worded\n---\nwords: {{ payload.number }}"}


def write_policy(folder: Path, port: int, files: dict[str, str] | None = None) -> Path:
    return write(folder, {"policy.yaml": POLICY % {"port": port}, **FILES, **(files or {})})


class MailHost(FakeSmtp):
    """Answers by the local part of the first address: refused, later, drop-once, drop; else it accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = {"RCPT": self._to, "body": self._after_body}
        self.healed = False  # it accepts everything now
        self._dropped: set[str] = set()
        self._last = ""

    def _to(self, command: str) -> str:
        self._last = command.partition("<")[2].partition("@")[0]
        if self.healed:
            return ""
        if self._last.startswith("refused"):
            return "550 no such user here"
        return "451 come back later" if self._last.startswith("later") else ""

    def _after_body(self, _: str) -> str:
        if self.healed or not self._last.startswith("drop"):
            return ""
        if self._last.startswith("drop-once") and self._last in self._dropped:
            return ""
        self._dropped.add(self._last)
        return DROP

    def taken(self, address: str) -> int:
        """Return the number of mails to ``address`` that it accepted or received before it disconnected."""
        return sum(mail["To"] == address for mail in self.mails)


@asynccontextmanager
async def mail_host() -> AsyncIterator[MailHost]:
    host = MailHost()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    async with server:
        yield host
        for writer in host.writers:
            writer.close()
        for _ in range(host.connections):
            await host.gone.get()


class CommandResult:
    """The exit code and the output of a command."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code, self.output, self.errors = code, output, errors

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.output}\n{self.errors}"

    @property
    def document(self) -> Any:
        return json.loads(self.output)


async def mss(*arguments: str, answer: str = "", **environment: str) -> CommandResult:
    """Run the command in a thread of this process: a separate process takes seconds to start."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, arguments, input=answer, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return CommandResult(result.exit_code, result.stdout, result.stderr)


async def mss_process(*arguments: str, **environment: str) -> CommandResult:
    """Run the command as a process, in the time zone of Shanghai."""
    process = await fork_server.start(
        *arguments, environment={**os.environ, "TZ": "Asia/Shanghai", **environment}, listen=True
    )
    async with asyncio.timeout(LIMIT):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return CommandResult(process.returncode, output.decode(), errors.decode())
