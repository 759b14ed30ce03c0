"""``mss graph``: the policy as a diagram, from events through rules to channels."""

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
from .common import FOLDER, examples, format_option, rulebook_of, stderr

_LIMIT = 60.0  # seconds for Graphviz
_DRAW = (
    "import sys, pygraphviz; "
    "graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format='svg', prog='dot'))"
)


@click.command(epilog=examples("mss graph > policy.mmd", "mss graph shop --format svg > shop.svg"))
@FOLDER
@format_option("mermaid", "dot", "svg")
def graph(folder: Path, format_: str) -> None:
    """Draw a policy: its events, rules and channels.

    A dashed line depends on conditions or preferences, is a fallback, or belongs to a rule in shadow mode.
    SVG needs Graphviz: either its program dot, or the extra svg of the package. DIR is the policy; by
    default, the folder rules.
    """
    picture = graph_of(rulebook_of(folder, load_policy(folder), console=stderr()))
    try:
        click.echo({"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}[format_](picture))
    except MssError as error:
        raise click.ClickException(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """An arrow from an event to a rule, or from a rule to a channel."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False  # it depends on conditions or preferences, is a fallback, or is of a shadow rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The names of events, rules and channels, and the arrows between them."""

    events: tuple[str, ...]
    rules: tuple[str, ...]
    channels: tuple[str, ...]
    inputs: tuple[Arrow, ...]  # events -> rules
    outputs: tuple[Arrow, ...]  # rules -> channels


def graph_of(rulebook: Rulebook) -> Graph:
    """Return the graph of a policy; its rules are in the order of evaluation."""
    inputs = {
        Arrow(source=str(pattern), target=rule.id, dashed=bool(rule.when.parts)): None
        for rule in rulebook.rules
        for pattern in rule.events
    }
    outputs = {
        arrow: None for rule in rulebook.rules for entry in rule.notify for arrow in _arrows(rule, entry)
    }
    return Graph(
        events=tuple(dict.fromkeys(arrow.source for arrow in inputs)),
        rules=tuple(rule.id for rule in rulebook.rules),
        channels=tuple(dict.fromkeys(arrow.target for arrow in outputs)),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def _arrows(rule: Rule, entry: NotifyEntry) -> Iterator[Arrow]:
    """Yield an arrow to each channel of the entry; the arrow to a fallback names the previous channel."""
    before, preferred = "", isinstance(entry, PreferredChannel)
    for step in (entry,) if isinstance(entry, Notify) else entry.steps:
        audience = step.to or rule.to
        after = f"if {before} fails" if before else ""
        chosen, shadow = "if preferred" if preferred else "", "shadow" if rule.mode is Mode.SHADOW else ""
        labels = [after, audience.person, chosen, shadow]
        conditions = entry.when is not None or step.when is not None
        yield Arrow(
            source=rule.id,
            target=step.channel,
            label=", ".join(filter(None, labels)),
            dashed=bool(before) or preferred or conditions or rule.mode is Mode.SHADOW,
        )
        before = step.channel if isinstance(entry, FirstOf) else ""


def as_mermaid(graph: Graph) -> str:
    """Return a flowchart in the language of Mermaid."""

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
            *arrows("e", graph.events, "r", graph.rules, graph.inputs),
            *arrows("r", graph.rules, "c", graph.channels, graph.outputs),
        ]
    )


def _mermaid(text: str) -> str:
    """Escape text in quotes, for which Mermaid has entities instead of a backslash."""
    return "".join(f"#{ord(char)};" if char in '"#;<>&' else char for char in text)


def as_dot(graph: Graph) -> str:
    """Return a digraph in the language of Graphviz."""
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
    for source, target, arrows in (("e", "r", graph.inputs), ("r", "c", graph.outputs)):
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
    """Return the graph as SVG. Raises MssError if Graphviz is missing or fails."""
    command = _graphviz()
    try:
        done = subprocess.run(  # noqa: S603 -- a program of the PATH, or this Python, by its absolute path
            command, input=as_dot(graph).encode(), capture_output=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MssError(f"Graphviz: {error}") from error
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip()
        raise MssError(f"Graphviz: {reason or f'exit code {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _graphviz() -> list[str]:
    """Return the command that draws: Graphviz, or else pygraphviz in a process, which can be stopped.

    Raises MssError if both are missing.
    """
    if program := shutil.which("dot"):
        return [program, "-Tsvg"]
    if find_spec("pygraphviz") is not None:
        return [sys.executable, "-c", _DRAW]
    raise MssError(
        "SVG needs Graphviz: install its program 'dot', or pip install 'mss-server[svg]'; "
        "--format dot prints the input of Graphviz"
    )
