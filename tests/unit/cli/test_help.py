"""The help of ``mss``: sections, summaries, the terminal's width, and examples that work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engine.cli import COMMANDS, SECTIONS, cli

FILES = {
    "event.json": '{"userid": "u1", "result": "success"}',
    "order.json": '{"name": "Ada", "mail": "ada@example.com", "parcel": "P-1", "items": 1}',
    "login.json": '{"userid": "u1"}',
    "address.json": '{"ipaddr": "203.0.113.9"}',
    "user.json": '{"userid": "u1"}',
    "policy.yaml": "channels: {terminal: {type: console}}\n",
    "chosen.yaml": "u1: {locale: de}\n",
}


def commands(group: click.Group = cli, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


EVERY = dict(commands())
EXAMPLES = [
    (names, line.strip())
    for names, command in EVERY.items()
    for line in (command.epilog or "").splitlines()
    if "mss " in line
]


def help_of(*names: str) -> list[str]:
    """The help on a terminal of COLUMNS."""
    context = cli.make_context("mss", [], resilient_parsing=True)
    for length in range(1, len(names) + 1):
        command = EVERY[names[:length]]
        context = click.Context(command, info_name=names[length - 1], parent=context)
    return context.get_help().splitlines()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_commands_stand_in_sections_with_whole_summaries() -> None:
    lines = help_of()
    assert [line[:-1] for line in lines if line[:-1] in SECTIONS] == list(SECTIONS)
    for name in COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.endswith(".") and len(line) <= 80


@pytest.mark.parametrize("names", EVERY, ids=" ".join)
def test_help_fits_the_terminal_and_ends_with_examples(names: tuple[str, ...]) -> None:
    lines = help_of(*names)
    assert max(map(len, lines)) <= 80
    assert lines[lines.index("  Examples:") + 1 :]
    assert "..." not in " ".join(lines[1:])


def test_help_uses_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = help_of("push")
    monkeypatch.setenv("COLUMNS", "160")
    wide = help_of("push")
    assert max(map(len, wide)) > 120 and len(wide) < len(narrow)


def test_an_option_means_the_same_in_every_command() -> None:
    metavars: dict[str, set[str]] = {}
    for command in EVERY.values():
        for option in command.params:
            if (
                isinstance(option, click.Option)
                and not option.is_flag
                and not isinstance(option.type, click.Choice)
            ):
                assert option.metavar is not None, (command.name, option.opts)
                assert re.fullmatch(r"[A-Z@|.\[\]]+", option.metavar)
                metavars.setdefault(option.opts[-1], set()).add(option.metavar)
    assert {name: found for name, found in metavars.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("names", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_is_a_call_of_its_command(
    names: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples of the section Policy are executed, the others are parsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(click, "launch", lambda _: 0)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for folder in ("rules", "shop") if names != ("init",) else ():
        CliRunner().invoke(cli, ["init", folder])
    (tmp_path / "all.jsonl").touch()
    given, _, call = line.rpartition(" | ")
    call, _, source = re.sub(r" > \S+", "", call).partition(" < ")
    words = shlex.split(call)
    called = next(
        name for name in sorted(EVERY, key=len, reverse=True) if words[1 : len(name) + 1] == [*name]
    )
    assert words[0] == "mss" and called[: len(names)] == names
    if called[0] not in SECTIONS["Policy"]:
        monkeypatch.setattr(EVERY[called], "callback", lambda **_: None)
    text = (tmp_path / source).read_text() if source else "".join(shlex.split(given)[1:])
    result = CliRunner().invoke(cli, words[1:], input=text)
    assert result.exit_code == 0, result.output
