"""The command ``mss``.

Exit codes: 0 good, 1 problems found or work failed, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

import msc

from . import report, schemas
from .errors import MssError, PolicyError, SettingsError, innermost
from .loader import load_policy
from .settings import Settings, load_settings

_CONFIG = click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings; default: mss.yaml if it is there.",
)
_PAYLOAD = click.option(
    "--payload",
    "payload_file",
    type=click.File("rb"),
    required=True,
    help="A file of JSON; - is standard input.",
)
T = TypeVar("T")

_SERVER = click.option("--server", help="The NATS server, instead of the one in the settings.")


def _out() -> Console:
    return Console(highlight=False)


def _err() -> Console:
    return Console(stderr=True, highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("mss-server"), prog_name="mss")
def cli() -> None:
    """MSS decides from rules who is told of what, over which channels, in which words."""


@cli.command()
@click.option(
    "--rules",
    type=click.Path(file_okay=False, path_type=Path),
    help="A policy; default: rules, else the example.",
)
@click.option("--locale", default="en", show_default=True, help="The language of the person who is told.")
@click.option("--stay", is_flag=True, help="Keep everything up until Ctrl-C.")
def demo(rules: Path | None, locale: str, stay: bool) -> None:
    """Broker, engine, mail catcher and SMS catcher on this machine; one abnormal login through all of it."""
    from .demo import run_demo  # noqa: PLC0415 -- the demo's catchers are of no use to the other commands

    folder = rules or (Path("rules") if Path("rules").is_dir() else schemas.DATA / "rules")
    _log_to_stderr("warning", "text")

    async def main() -> bool:
        ended = _ended_by_signal()
        running = asyncio.ensure_future(
            run_demo(_out(), folder, locale or "en", stay=ended if stay else None)
        )
        waiting = asyncio.ensure_future(ended.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not running.done() and not stay:
            running.cancel()
        return await running

    if not _run(main, str(folder)):
        raise click.ClickException("not everything that was planned has arrived")


@cli.command()
@_CONFIG
@click.option(
    "--rules",
    type=click.Path(file_okay=False, path_type=Path),
    help="The policy, instead of the one in the settings.",
)
@click.option("--embedded", is_flag=True, help="Start a nats-server of its own, for one machine.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("mss-data"), show_default=True,
    help="Where the embedded nats-server keeps its streams.",
)  # fmt: skip
def serve(config: Path | None, rules: Path | None, embedded: bool, data: Path) -> None:
    """Serve: take events from NATS, decide, deliver."""
    settings = _settings(config)
    _log_to_stderr(settings.log_level, settings.log_format)
    folder = rules or settings.rules
    _run(lambda: _serve(settings, folder, data if embedded else None), str(folder))


async def _serve(settings: Settings, folder: Path, data: Path | None) -> None:
    from dataclasses import replace  # noqa: PLC0415

    from .embedded import embedded_broker  # noqa: PLC0415 -- serving is slow to import; checking is not to be
    from .health import health_pages  # noqa: PLC0415
    from .server import Server  # noqa: PLC0415

    stop = _ended_by_signal()
    rulebook = load_policy(folder).require()
    async with AsyncExitStack() as stack:
        if data is not None:
            port = int(settings.servers[0].rpartition(":")[2])
            address = await stack.enter_async_context(embedded_broker(data, port=port))
            settings = replace(settings, servers=(address,))
        server = Server(settings=settings, rulebook=rulebook)
        if settings.metrics:
            await stack.enter_async_context(health_pages(settings.metrics, server.metrics, server.ready))
        await server.run(stop)


@cli.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("rules"))
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(folder: Path, format_: str, strict: bool) -> None:
    """Check a policy and name every problem with file, line and column."""
    policy = load_policy(folder)
    if format_ == "json":
        click.echo(report.as_json(report.check_document(str(folder), policy)))
    else:
        report.show_check(_out(), str(folder), policy)
    if not policy.ok or (strict and policy.problems):
        sys.exit(1)


@cli.command()
@click.argument("kind", type=click.Choice(["notice", "audit", "log"]))
@click.argument("key", default="")
@_PAYLOAD
@_CONFIG
@_SERVER
@click.option("--confirm", is_flag=True, help="Wait until a stream has stored the event.")
def publish(
    kind: str, key: str, payload_file: Any, config: Path | None, server: str | None, confirm: bool
) -> None:
    """Announce an event; prints its reqid."""
    payload = _payload(payload_file)
    if kind != "log" and not key:
        raise click.UsageError(f"a {kind} needs a KEY")

    async def main() -> str:
        async with _client(_settings(config), server) as client:
            if kind == "log":
                return await client.log(payload, key, confirm=confirm)
            send = client.notice if kind == "notice" else client.audit
            return await send(key, payload, confirm=confirm)

    click.echo(_run(main))


@cli.command()
@click.argument("key")
@_PAYLOAD
@_CONFIG
@_SERVER
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the reply.")
def request(key: str, payload_file: Any, config: Path | None, server: str | None, timeout: float) -> None:
    """Request an action; prints the reply's payload."""
    payload = _payload(payload_file)

    async def main() -> Any:
        async with _client(_settings(config), server) as client:
            return await client.request(key, payload, timeout=timeout)

    click.echo(report.as_json(_run(main)))


@cli.command()
@click.argument("name", default="")
def schema(name: str) -> None:
    """Print the JSON Schema NAME; without a name, the names."""
    if not name:
        click.echo("\n".join(schemas.names()))
        return
    if name not in schemas.names():
        hint = schemas.nearest(name, schemas.names())
        raise click.UsageError(f"no schema {name!r}{'; ' + hint if hint else ''}")
    click.echo(report.as_json(schemas.load(name)))


def _run(work: Callable[[], Coroutine[Any, Any, T]], folder: str = "") -> T:
    """Run ``work``; what MSS or the client raises on purpose becomes words and exit code 1."""
    try:
        return asyncio.run(work())
    except PolicyError as error:
        report.show_problems(_err(), folder, error.problems)
        raise click.ClickException(f"{folder}: the policy has {len(error.problems)} errors") from error
    except (MssError, msc.MscError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        meant, bugs = group.split((MssError, msc.MscError, OSError))
        if bugs is not None or meant is None:
            raise
        raise click.ClickException(str(innermost(meant))) from group


def _client(settings: Settings, server: str | None) -> AbstractAsyncContextManager[msc.Client]:
    servers = server or list(settings.servers)
    return msc.connect(servers, prefix=settings.prefix, name="mss", **settings.access)


def _settings(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        report.show_problems(_err(), "", error.problems)
        sys.exit(1)


def _payload(file: Any) -> Any:
    try:
        return json.loads(file.read())
    except ValueError as error:
        raise click.UsageError(f"--payload: no JSON: {error}") from error


def _ended_by_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _log_to_stderr(level: str, format_: str) -> None:
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonLines() if format_ == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def main() -> None:
    """The entry point of the command."""
    cli(prog_name="mss")
