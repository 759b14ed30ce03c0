"""The command ``mss``. Entry: `main`.

Exit codes: 0 success, 1 problems found or the work failed, 2 wrong usage.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import cast

import click

# By name, the module that defines the command under that name.
COMMANDS = {
    "demo": "serve",
    "serve": "serve",
    "check": "check",
    "test": "test",
    "explain": "explain",
    "render": "render",
    "graph": "graph",
    "init": "check",
    "schema": "check",
    "publish": "client",
    "request": "client",
    "reload": "replicas",
    "status": "replicas",
    "trace": "trace",
    "dead": "dead",
    "replay": "replay",
    "push": "push",
    "revisions": "push",
    "diff": "push",
    "preferences": "preferences",
}


class _Commands(click.Group):
    """Imports a command's module when it is called for, so that checking does not load the server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return cast(click.Command, getattr(import_module(f".{COMMANDS[cmd_name]}", __name__), cmd_name))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("mss-server"), prog_name="mss")
def cli() -> None:
    """MSS decides from rules who is told of what, over which channels, in which words."""


def main() -> None:
    """The entry point of the command."""
    cli(prog_name="mss")
