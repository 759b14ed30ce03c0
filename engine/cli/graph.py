"""``mss graph``: the policy as a diagram, from events over rules to channels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from ..model.errors import MssError
from ..policy.loader import load_policy
from ..rules.rulebook import FirstOf, Mode, Notify, NotifyEntry, PreferredChannel, Rule, Rulebook
from .common import FOLDER, rulebook_of, stderr

_LIMIT = 60.0  # seconds to draw
_DRAW = (
    "import sys, pygraphviz; "
    "graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format='svg', prog='dot'))"
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """From an event to a rule, or from a rule to a channel."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False  # it may hold or not: there are conditions, it is a fall-back, or nothing is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Three columns and what joins them; names are as in the policy."""

    events: tuple[str, ...]
    rules: tuple[str, ...]
    channels: tuple[str, ...]
    looks_at: tuple[Arrow, ...]  # events -> rules
    tells: tuple[Arrow, ...]  # rules -> channels


def graph_of(rulebook: Rulebook) -> Graph:
    """Rules in order of evaluation, with what leads to them and what they lead to."""
    looks_at = {
        Arrow(source=str(pattern), target=rule.id, dashed=bool(rule.when.parts)): None
        for rule in rulebook.rules
        for pattern in rule.events
    }
    tells = {
        arrow: None for rule in rulebook.rules for entry in rule.notify for arrow in _arrows(rule, entry)
    }
    return Graph(
        events=tuple(dict.fromkeys(arrow.source for arrow in looks_at)),
        rules=tuple(rule.id for rule in rulebook.rules),
        channels=tuple(dict.fromkeys(arrow.target for arrow in tells)),
        looks_at=tuple(looks_at),
        tells=tuple(tells),
    )


def _arrows(rule: Rule, entry: NotifyEntry) -> Iterator[Arrow]:
    """To each channel of the entry; a fall-back's says which channel has to fail before it."""
    before, preferred = "", isinstance(entry, PreferredChannel)
    for step in (entry,) if isinstance(entry, Notify) else entry.steps:
        audience = step.to or rule.to
        after = f"if {before} fails" if before else ""
        chosen, shadow = "if preferred" if preferred else "", "shadow" if rule.mode is Mode.SHADOW else ""
        words = [after, audience.person, chosen, shadow]
        conditions = entry.when is not None or step.when is not None
        yield Arrow(
            source=rule.id,
            target=step.channel,
            label=", ".join(filter(None, words)),
            dashed=bool(before) or preferred or conditions or rule.mode is Mode.SHADOW,
        )
        before = step.channel if isinstance(entry, FirstOf) else ""


def as_mermaid(graph: Graph) -> str:
    """A flowchart in Mermaid's words. Dashed: only under conditions, as a fall-back, or in shadow."""

    def node(kind: str, position: int, opening: str, name: str, closing: str) -> str:
        return f'  {kind}{position}{opening}"{_mermaid(name)}"{closing}'

    def arrows(
        kind: str, sources: tuple[str, ...], to: str, targets: tuple[str, ...], all_: Iterable[Arrow]
    ) -> list[str]:
        lines = []
        for arrow in all_:
            line = "-.->" if arrow.dashed else "-->"
            label = f'|"{_mermaid(arrow.label)}"|' if arrow.label else ""
            source, target = sources.index(arrow.source), targets.index(arrow.target)
            lines.append(f"  {kind}{source} {line}{label} {to}{target}")
        return lines

    return "\n".join(
        [
            "flowchart LR",
            *(node("e", i, "([", name, "])") for i, name in enumerate(graph.events)),
            *(node("r", i, "[", name, "]") for i, name in enumerate(graph.rules)),
            *(node("c", i, "[[", name, "]]") for i, name in enumerate(graph.channels)),
            *arrows("e", graph.events, "r", graph.rules, graph.looks_at),
            *arrows("r", graph.rules, "c", graph.channels, graph.tells),
        ]
    )


def _mermaid(text: str) -> str:
    """Inside quotes Mermaid has entities, and no backslash."""
    return "".join(f"#{ord(char)};" if char in '"#;<>&' else char for char in text)


def as_dot(graph: Graph) -> str:
    """A digraph in Graphviz's words. Dashed: only under conditions, as a fall-back, or in shadow."""
    lines = [
        "digraph policy {",
        "  rankdir=LR;",
        '  node [fontname="sans-serif", fontsize=11];',
        '  edge [fontname="sans-serif", fontsize=9];',
    ]
    for kind, shape, names in (
        ("e", "ellipse", graph.events),
        ("r", "box", graph.rules),
        ("c", "cds", graph.channels),
    ):
        lines.append("  { rank=same;")
        lines += [f"    {_dot(f'{kind} {name}')} [label={_dot(name)}, shape={shape}];" for name in names]
        lines.append("  }")
    for source, target, arrows in (("e", "r", graph.looks_at), ("r", "c", graph.tells)):
        for arrow in arrows:
            settings = [f"label={_dot(arrow.label)}"] if arrow.label else []
            settings += ["style=dashed"] if arrow.dashed else []
            ends = f"{_dot(f'{source} {arrow.source}')} -> {_dot(f'{target} {arrow.target}')}"
            lines.append(f"  {ends} [{', '.join(settings)}];" if settings else f"  {ends};")
    return "\n".join([*lines, "}"])


def _dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def as_svg(graph: Graph) -> str:
    """The picture, drawn by Graphviz. MssError where there is none or it fails."""
    command = _graphviz()
    try:
        done = subprocess.run(  # noqa: S603 -- a program of the PATH, or this Python, by its absolute path
            command, input=as_dot(graph).encode(), capture_output=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MssError(f"Graphviz: {error}") from error
    if done.returncode:
        complaint = done.stderr.decode("utf-8", "replace").strip()
        raise MssError(f"Graphviz: {complaint or f'it ended with {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _graphviz() -> list[str]:
    """What draws: the program where it is installed, else the library, outside our process for its limit."""
    if program := shutil.which("dot"):
        return [program, "-Tsvg"]
    if find_spec("pygraphviz") is not None:
        return [sys.executable, "-c", _DRAW]
    raise MssError(
        "SVG needs Graphviz: install its program 'dot', or pip install 'mss-server[svg]'; "
        "--format dot prints what it draws from"
    )
