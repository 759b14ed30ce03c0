"""``mss serve``: run the server until a signal ends it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import click

from ..broker.embedded import embedded_broker
from ..policy.source import BucketSource, source_of
from ..server.health import health_pages
from ..server.reload import Reloader
from ..server.server import Server
from ..server.watch import FileWatcher
from ..settings import Settings, load_settings
from .common import CONFIG, DIRECTORY, examples, log_to_stderr, settings_of
from .connect import ended_by_signal, reload_by_signal, run, run_until


@click.command(
    epilog=examples(
        "mss serve -c mss.yaml",
        "mss serve --embedded --rules rules",
    )
)
@click.option(
    "--rules", metavar="DIR", type=DIRECTORY, help="The policy, instead of the one in the settings."
)
@click.option("--embedded", is_flag=True, help="Start a nats-server for this machine.")
@click.option(
    "--data", metavar="DIR", type=DIRECTORY, default=Path("mss-data"),
    help="The folder for the streams of the embedded nats-server.",
)  # fmt: skip
@click.option(
    "--allow-last-good", is_flag=True,
    help="If the policy in the bucket cannot be served, start with the newest revision that can.",
)  # fmt: skip
@CONFIG
def serve(rules: Path | None, embedded: bool, data: Path, allow_last_good: bool, config: Path | None) -> None:
    """Run the server: take events from NATS and send deliveries.

    SIGHUP and mss reload load the settings and the policy again. SIGTERM and SIGINT end the server.
    """
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
    # Watch before reading, so that no change is missed.
    watched = source.watched_paths(settings)
    watch = FileWatcher(paths=lambda: (file, *watched)) if settings.watch else None
    # A policy in a folder is loaded before anything starts; a policy in a bucket needs the broker.
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
            loaded = load_settings(config)
            return replace(loaded, servers=embedded) if data is not None else loaded

        policy = policy or await run_until(stop, source.load_initial(), name="first policy")
        if policy is None:
            return
        server = Server(settings=settings, rulebook=policy.require(), source_error=lambda: source.error)
        del policy  # otherwise the first policy would stay in memory
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
