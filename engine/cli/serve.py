"""``mss serve`` and ``mss demo``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..broker.embedded import embedded_broker
from ..documents import schemas
from ..policy.loader import Policy
from ..policy.source import BucketSource, source_of
from ..server.health import health_pages
from ..server.reload import Reloader
from ..server.server import Server
from ..server.watch import FileWatcher
from ..settings import Settings, load_settings
from .common import CONFIG, log_to_stderr, settings_of, stdout
from .connect import ended_by_signal, reload_by_signal, run
from .demo import run_demo


@click.command()
@click.option(
    "--rules",
    type=click.Path(file_okay=False, path_type=Path),
    help="A policy; default: rules, else the example.",
)
@click.option("--locale", default="en", show_default=True, help="The language of the person who is told.")
@click.option("--stay", is_flag=True, help="Keep everything up until Ctrl-C.")
def demo(rules: Path | None, locale: str, stay: bool) -> None:
    """Broker, engine, mail catcher and SMS catcher on this machine; one abnormal login through all of it."""
    folder = rules or (Path("rules") if Path("rules").is_dir() else schemas.DATA / "rules")
    log_to_stderr("error", "text")

    async def main() -> bool:
        ended = ended_by_signal()
        running = asyncio.ensure_future(
            run_demo(stdout(), folder, locale or "en", stay=ended if stay else None)
        )
        waiting = asyncio.ensure_future(ended.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not running.done() and not stay:
            running.cancel()
        return await running

    if not run(main, str(folder)):
        raise click.ClickException("not everything that was planned has arrived")


@click.command()
@CONFIG
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
@click.option(
    "--allow-last-good", is_flag=True,
    help="Where the policy in a bucket cannot be served, start with the newest one that can.",
)  # fmt: skip
def serve(config: Path | None, rules: Path | None, embedded: bool, data: Path, allow_last_good: bool) -> None:
    """Serve: take events from NATS, decide, deliver."""
    settings = settings_of(config)
    log_to_stderr(settings.log_level, settings.log_format)
    name = source_of(settings, rules).name
    embed = data if embedded else None
    run(lambda: _serve(settings, config, rules, embed, last_good=allow_last_good), name, fast=True)


async def _serve(
    settings: Settings, config: Path | None, rules: Path | None, data: Path | None, *, last_good: bool
) -> None:
    stop = ended_by_signal()
    file = config or Path("mss.yaml")
    source = source_of(settings, rules, last_good=last_good)
    # What changes from here on, while it is being read, is noticed.
    watched = source.watched_paths(settings)
    watch = FileWatcher(paths=lambda: (file, *watched)) if settings.watch else None
    # Before anything is started, where the policy does not need a broker itself.
    policy = None if isinstance(source, BucketSource) else await source.load_initial()
    if policy is not None:
        policy.require()
    async with AsyncExitStack() as stack:
        if data is not None:
            port = int(settings.servers[0].rpartition(":")[2])
            address = await stack.enter_async_context(embedded_broker(data, port=port))
            settings = replace(settings, servers=(address,))
            source = source_of(settings, rules, last_good=last_good)
        embedded = settings.servers

        def read() -> Settings:
            anew = load_settings(config)
            return replace(anew, servers=embedded) if data is not None else anew

        policy = policy or await _run_until(stop, source.load_initial())
        if policy is None:
            return
        server = Server(settings=settings, rulebook=policy.require(), source_error=lambda: source.error)
        del policy  # else the first one would stay for ever
        if settings.metrics:
            pages = health_pages(settings.metrics, server.metrics, server.ready, server.measure_lag)
            await stack.enter_async_context(pages)
        reloader = Reloader(server=server, settings=read, load=source.load)
        async with asyncio.TaskGroup() as tasks:
            reloading = [
                tasks.create_task(reload_by_signal(reloader.reload), name="reload"),
                tasks.create_task(reloader.follow(source.changes(lambda: server.settings)), name="policy"),
            ]
            if watch is not None:
                watch.paths = lambda: (file, *source.watched_paths(server.settings))
                reloading.append(tasks.create_task(reloader.follow(watch.changes()), name="watch"))
            await server.run(stop)
            for task in reloading:
                task.cancel()


async def _run_until(stop: asyncio.Event, work: Coroutine[Any, Any, Policy]) -> Policy | None:
    """What ``work`` returns; None where somebody says stop before."""
    working = asyncio.create_task(work, name="first policy")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        return await working
    working.cancel()
    await asyncio.wait((working,))
    return None
