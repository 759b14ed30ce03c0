"""``mss init``: a first policy without problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli import cli
from engine.documents import schemas


def mss(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_the_first_policy_has_no_problems_and_its_tests_pass(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "policy"
    result = mss("init", str(folder))
    assert result.exit_code == 0
    named = [Path(line.strip()) for line in result.output.splitlines() if line.startswith("  ")]
    assert named == sorted(path for path in folder.rglob("*") if path.is_file())
    checked = mss("check", str(folder), "--strict")
    assert checked.exit_code == 0, checked.output
    tested = mss("test", str(folder), "--require-coverage")
    assert tested.exit_code == 0, tested.output
    assert "2 tests, 2 passed" in tested.output


def test_an_editor_finds_the_schema_without_a_network(tmp_path: Path) -> None:
    assert mss("init", str(tmp_path)).exit_code == 0
    for file in tmp_path.glob("*.yaml"):
        first = file.read_text().splitlines()[0]
        _, _, name = first.partition("# yaml-language-server: $schema=")
        assert json.loads((tmp_path / name).read_text()) == schemas.load("policy")


def test_the_first_policy_has_two_languages_and_two_channels(tmp_path: Path) -> None:
    mss("init", str(tmp_path))
    shown = mss("render", "order-shipped", str(tmp_path)).output
    for page in ("email, en", "email, zh-CN", "terminal, en", "terminal, zh-CN"):
        assert page in shown


@pytest.mark.parametrize("there", ["file.txt", ".hidden"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    result = mss("init", str(tmp_path))
    assert result.exit_code == 1 and "not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert mss("init", str(tmp_path / there)).exit_code == 1
    assert (tmp_path / there).read_text() == "mine"
