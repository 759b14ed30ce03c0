"""Formats and exit codes of the commands that need no broker. The others have end-to-end tests."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.policy_builders import CHANNELS, write

import msc
from engine.cli import cli

GOOD = {
    "policy.yaml": (
        "channels: {t: {type: console}}\n"
        "rules: [{id: r, event: notice.login.abnormal, notify: [t]}]\n"
        "tests: [{name: n, given: {event: notice.login.abnormal}, expect: {rules: [r]}}]\n"
    )
}
WARNED = {"policy.yaml": "channels: {t: {type: console}}\nrules: [{id: r, event: notice.own, notify: [t]}]"}
BAD = {
    "channels.yaml": CHANNELS,
    "a.yaml": "rules:\n  - id: r\n    event: notice.login.abnormal\n    notify: [email]\n    templat: t\n",
}


def mss(*arguments: str, input: str | None = None) -> Result:  # noqa: A002 -- as click's
    return CliRunner().invoke(cli, list(arguments), input=input)


def test_a_good_policy_is_ok(tmp_path: Path) -> None:
    result = mss("check", str(write(tmp_path, GOOD)))
    assert result.exit_code == 0
    assert result.output.startswith(f"{tmp_path}: ok, 1 rule, revision ")


def test_strict_fails_on_warnings_too(tmp_path: Path) -> None:
    folder = str(write(tmp_path, WARNED))
    assert mss("check", folder).exit_code == 0
    result = mss("check", folder, "--strict")
    assert result.exit_code == 1
    assert "warning: no payload schema describes notice.own" in result.output


def test_text_shows_each_problem_with_its_line(tmp_path: Path) -> None:
    result = mss("check", str(write(tmp_path, BAD)))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{tmp_path}/a.yaml:5:5: error: unknown key 'templat'")
    assert "[unknown-key]" in lines[0]
    assert lines[1:4] == ["   5 |     templat: t", "     |     ^", "    did you mean 'template'?"]
    assert lines[-1] == f"{tmp_path}: 1 error"


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    result = mss("check", str(write(tmp_path, BAD)), "--format", "json")
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert set(document) == {"ok", "revision", "rules", "problems"}
    assert document["ok"] is False and document["rules"] == 1
    (problem,) = document["problems"]
    assert set(problem) == {"file", "line", "column", "pointer", "severity", "code", "message", "hint"}
    assert (problem["file"], problem["line"], problem["column"]) == (f"{tmp_path}/a.yaml", 5, 5)
    assert problem["pointer"] == "/rules/0/templat"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    result = mss("check", str(tmp_path / "nothing"))
    assert result.exit_code == 1
    assert "there is no such folder" in result.output


def test_schemas_are_listed_and_printed() -> None:
    names = mss("schema").output.split()
    assert {"policy", "mss", "envelope", "events/notice/login.abnormal"} <= set(names)
    for name in names:
        assert json.loads(mss("schema", name).output)["$schema"]
    result = mss("schema", "polic")
    assert result.exit_code == 2 and "did you mean 'policy'?" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "--event", "notice", "--payload", "-"],  # no key
        ["publish", "--event", "action.x", "--payload", "-"],
        ["publish", "--event", "notice.x"],  # no payload
        ["publish", "--event", "notice.x", "--payload", "-"],  # no JSON
        ["request", "--event", "action.x", "--payload", "/no/such/file"],
        ["request", "--event", "notice.x", "--payload", "-"],
        ["nonsense"],
        ["check", "--format", "xml"],
        ["trace"],
        ["trace", ""],
        ["trace", "r", "--format", "xml"],
        ["dead", "retry"],  # neither IDs nor --all
        ["dead", "retry", "--rule", "r"],
        ["dead", "retry", "1", "--all"],
        ["dead", "drop", "1", "--rule", "r"],
        ["dead", "list", "--since", "2"],
        ["dead", "list", "--kind", "action"],
        ["dead", "list", "--limit", "-1"],
        ["dead", "show"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    assert mss(*arguments, input="no json").exit_code == 2


def test_policy_commands_do_not_load_the_client() -> None:
    """nats-py and aiohttp take as long to import as a small policy to check."""
    commands = "check, explain, graph, render, test"
    looked = "print(sorted({'nats', 'aiohttp', 'apprise', 'msc'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from engine.cli import {commands}; {looked}"],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_broker_that_does_not_answer_has_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(msc, "connect", partial(msc.connect, connect_timeout=0.5))
    result = mss(
        "request", "--event", "action.x", "--payload", "-", "--server", "nats://127.0.0.1:1", input="{}"
    )
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_problems_in_the_settings_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "mss.yaml"
    path.write_text("prefx: x\n")
    result = mss("serve", "-c", str(path))
    assert result.exit_code == 1
    assert f"{path}:1:1: error: unknown key 'prefx'" in result.output
