"""The command ``mss``. Entry: `main`.

Exit codes: 0 success, 1 problems found or the work failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import cast

import click

# The sections of ``mss --help``. Each command has the module that defines it.
SECTIONS = {
    "Policy": {
        "init": "check",
        "check": "check",
        "test": "test",
        "explain": "explain",
        "render": "render",
        "graph": "graph",
        "schema": "check",
    },
    "Run": {"serve": "serve", "demo": "demo", "publish": "client", "request": "client"},
    "Operate": {
        "status": "replicas",
        "reload": "replicas",
        "push": "push",
        "revisions": "push",
        "diff": "push",
        "trace": "trace",
        "dead": "dead",
        "replay": "replay",
        "preferences": "preferences",
    },
}
COMMANDS = {name: module for section in SECTIONS.values() for name, module in section.items()}


class _Commands(click.Group):
    """A group that imports the module of a command on use, so that ``mss check`` does not load the server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return cast(click.Command, getattr(import_module(f".{COMMANDS[cmd_name]}", __name__), cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            found = {name: self.get_command(ctx, name) for name in names}
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(formatter.width))
                        for name, command in found.items()
                        if command
                    ]
                )


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": sys.maxsize,  # the terminal's width
        "show_default": True,
    },
    epilog="Run `mss COMMAND --help` for the options of a command and for examples.",
)
@click.version_option(version("mss-server"), prog_name="mss")
def cli() -> None:
    """MSS routes events to people: YAML rules decide who is notified, over which channel, with which text."""


def main() -> None:
    """Run the command."""
    cli(prog_name="mss")
