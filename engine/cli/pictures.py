"""``mss render`` and ``mss graph``: what the reader will see, and the policy as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from .. import locales
from ..errors import MssError
from ..graph import as_dot, as_mermaid, as_svg, graph_of
from ..layout import harmless, indented
from ..loader import load_policy
from ..render import RenderedTemplate, pages, write_pages
from ..spelling import nearest
from .common import payload_of, stderr, stdout
from .rehearsal import FOLDER, rulebook_of


@click.command(short_help="Show a template as its reader will see it.")
@click.argument("name")
@click.option(
    "--rules", "folder", type=click.Path(path_type=Path), default=Path("rules"), show_default=True,
    help="The policy.",
)  # fmt: skip
@click.option("--channel", help="Only this channel.")
@click.option("--locale", default="", help="Only this language, or what it falls back to.")
@click.option(
    "--payload", "payload_file", type=click.File("rb"), help="A sample as JSON; - is standard input."
)
@click.option(
    "--out", "target", type=click.Path(file_okay=False, path_type=Path), help="Write files below DIR."
)
@click.option("--open", "open_", is_flag=True, help="Show the files in a browser.")
def render(
    name: str,
    folder: Path,
    channel: str | None,
    locale: str,
    payload_file: Any,
    target: Path | None,
    open_: bool,
) -> None:
    """Show the template NAME as its reader will see it.

    On each channel and in each language, or as the options say. The sample is the payload given, else the
    event's example, else that of the first test whose rule uses the template. With --out the messages are
    written as HTML and text, with an index.html that shows them all.
    """
    if locale and not locales.normal(locale):
        raise click.UsageError(f"--locale: {locale!r} is no language tag such as en or zh-CN")
    rendered = _rendered(folder, name, channel, locale, payload_file)
    if target is None and not open_:
        for page in rendered:
            _show(stdout(), page)
    else:
        index = write_pages(target or Path(mkdtemp(prefix="mss-render-")), rendered)
        click.echo(index)
        if open_:
            click.launch(str(index))
    failed = [page for page in rendered if page.error]
    for page in failed:
        click.echo(f"Error: {page.channel}, {page.locale}, with {page.sample}: {page.error}", err=True)
    if failed:
        if payload_file is None:
            click.echo("Give a payload that has what they need: --payload FILE", err=True)
        sys.exit(1)


def _rendered(
    folder: Path, name: str, channel: str | None, locale: str, payload_file: Any
) -> tuple[RenderedTemplate, ...]:
    payload = None if payload_file is None else payload_of(payload_file)
    if payload is not None and not isinstance(payload, dict):
        raise click.UsageError("--payload: an event's payload is an object")
    policy = load_policy(folder)
    rulebook = rulebook_of(folder, policy, console=stderr())
    if name not in rulebook.library:
        raise click.UsageError(_unknown("template", name, rulebook.library.names))
    every = pages(rulebook, policy.cases, name, locale=locale, payload=payload)
    if not every:
        raise click.ClickException(f"template {name!r} has no words in {locale!r}")
    rendered = tuple(page for page in every if channel in (None, page.channel))
    if not rendered:
        raise click.UsageError(_unknown("channel", str(channel), {page.channel for page in every}))
    return rendered


def _show(console: Console, page: RenderedTemplate) -> None:
    if page.message is None:
        return
    head = Text.assemble((f"{page.channel}, {page.locale}", "bold underline"), f"  with {page.sample}")
    console.print(harmless(head), soft_wrap=True)
    if page.title:
        indented(console, Text(page.title, "bold"), 2)
    indented(console, page.message.text, 2)
    console.print()


def _unknown(what: str, name: str, allowed: Any) -> str:
    names = sorted(set(allowed))
    return f"unknown {what} {name!r}; {nearest(name, names) or 'there are: ' + (', '.join(names) or 'none')}"


@click.command(short_help="Print the policy as a picture: events, rules, channels.")
@FOLDER
@click.option(
    "--format", "format_", type=click.Choice(["mermaid", "dot", "svg"]), default="mermaid", show_default=True
)
def graph(folder: Path, format_: str) -> None:
    """Print the policy as a picture: events, rules, channels.

    Dashed: under conditions, or in shadow. SVG needs Graphviz: its program dot, or the extra svg of
    mss-server.
    """
    picture = graph_of(rulebook_of(folder, load_policy(folder), console=stderr()))
    try:
        click.echo({"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}[format_](picture))
    except MssError as error:
        raise click.ClickException(str(error)) from error
