"""mss render: every channel and language, with a sample, on the terminal and as files."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.locations import ROOT
from support.policy_builders import policy

from engine.cli import cli
from engine.cli.render import pages
from engine.rules.rulebook import Rulebook

RULES = """
rules: [{id: r, event: notice.own, to: {email: mail, phone: tel, locale: lang}, notify: [email, sms]}]
"""
FILES = {
    "templates/r/en/email.html": '---\nsubject: "Hi {{ payload.name }}"\n---\n<p>{{ recipient.locale }}</p><img src="cid:a b.png">',
    "templates/r/en/a b.png": b"\x89PNG",
    "templates/r/de/email.html": '---\nsubject: "Hallo {{ payload.name }}"\n---\n<p>{{ recipient.address }}</p>',
    "templates/r/default.md": "*{{ payload.name }}*",
}
TYPES = {key: {"type": "string"} for key in ("name", "mail", "tel", "lang")}
EXAMPLES = json.dumps({"type": "object", "examples": [{"name": "Example"}], "properties": TYPES})
FIELDS = json.dumps({"properties": {**TYPES, "name": {"type": "string", "examples": ["Field"]}}})
TESTS = """
tests:
  - {name: english, given: {event: notice.own, payload: {name: Ada, lang: en}}, expect: {rules: [r]}}
  - {name: german, given: {event: notice.own, payload: {name: Emil, lang: de, mail: e@example.com}}, expect: {rules: [r]}}
"""


def mss(*arguments: str, input_: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["render", *arguments], input=input_)


def shown(folder: Path, rules: str = RULES, **files: str | bytes) -> dict[tuple[str, str], tuple[str, str]]:
    """Sample and title or text of every page of the template, by channel and language."""
    made = policy(folder, rules, **{**FILES, **files})
    result = {}
    for page in pages(made.require(), made.cases, "r"):
        assert page.message is not None, page.error
        result[page.channel, page.locale] = (page.sample, page.title or page.message.text)
    return result


def test_the_sample_is_that_of_the_language(tmp_path: Path) -> None:
    assert shown(tmp_path, RULES + TESTS) == {
        ("email", "de"): ("the test 'german'", "Hallo Emil"),
        ("email", "en"): ("the test 'english'", "Hi Ada"),
        ("sms", "en"): ("the test 'english'", "*Ada*"),
    }


def test_the_example_of_the_event_comes_before_the_tests(tmp_path: Path) -> None:
    made = shown(tmp_path, RULES + TESTS, **{"events/notice/own.schema.json": EXAMPLES})
    assert made["email", "de"] == ("the example of notice.own", "Hallo Example")


def test_the_examples_of_fields_come_last(tmp_path: Path) -> None:
    with_tests = shown(tmp_path / "a", RULES + TESTS, **{"events/notice/own.schema.json": FIELDS})
    assert with_tests["email", "en"][1] == "Hi Ada"
    without = shown(tmp_path / "b", **{"events/notice/own.schema.json": FIELDS})
    assert without["email", "en"] == ("the examples of notice.own's fields", "Hi Field")


def test_a_test_of_another_rule_is_no_sample(tmp_path: Path) -> None:
    rules = RULES.replace("event: notice.own,", "event: notice.own, when: {name: Emil},")
    assert shown(tmp_path, rules + TESTS.replace("english, given", "english, at: '2026-01-01T00:00:00Z', given").replace(
        "lang: en}}, expect: {rules: [r]}", "lang: en}}, expect: {rules: []}"
    ))["email", "en"] == ("the test 'german'", "Hi Emil")  # fmt: skip


def rendered(folder: Path, *more: str, input_: str | None = None) -> Result:
    assert policy(folder, RULES + TESTS, **FILES).ok
    return mss("r", str(folder), *more, input_=input_)


def test_on_the_terminal(tmp_path: Path) -> None:
    result = rendered(tmp_path)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:3] == ["email, de  with the test 'german'", "  Hallo Emil", "  e@example.com"]
    assert [line for line in lines if ", " in line and "with" in line][1:] == [
        "email, en  with the test 'english'",
        "sms, en  with the test 'english'",
    ]


def test_one_channel_and_one_language(tmp_path: Path) -> None:
    assert rendered(tmp_path, "--channel", "sms").output.startswith("sms, en ")
    result = rendered(tmp_path, "--locale", "de_DE", "--channel", "email")
    assert result.output.startswith("email, de ") and "email, en" not in result.output


def test_a_payload_given_wins(tmp_path: Path) -> None:
    result = rendered(
        tmp_path, "--payload", "-", "--locale", "en", input_='{"name": "Grace", "MAIL": "g@x.example"}'
    )
    assert "Hi Grace" in result.output and "with the payload given" in result.output


def test_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = rendered(tmp_path / "p", "--out", str(out))
    assert result.exit_code == 0 and result.output.strip() == str(out / "r" / "index.html")
    there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert there == [
        "r/de/email.html", "r/de/email.txt",
        "r/en/a b.png", "r/en/email.html", "r/en/email.txt", "r/en/sms.md",
        "r/index.html",
    ]  # fmt: skip
    assert 'src="a%20b.png"' in (out / "r/en/email.html").read_text()
    assert (out / "r/en/a b.png").read_bytes() == b"\x89PNG"
    index = (out / "r/index.html").read_text()
    for source in ("de/email.html", "en/email.html"):
        assert f'src="{source}"' in index
    assert "<strong>Hallo Emil</strong>" in index


def test_open_shows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    result = rendered(tmp_path / "p", "--open", "--out", str(tmp_path / "o"))
    assert opened == [result.output.strip()] and Path(opened[0]).is_file()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert Path(rendered(tmp_path / "p", "--open").output.strip()).is_relative_to(tmp_path)


def test_titles_have_what_the_channel_puts_before_them() -> None:
    result = mss("abnormal-login", str(ROOT / "rules"), "--channel", "email", "--locale", "en")
    assert "  [KrossIAM] New sign-in from Singapore" in result.output.splitlines()


def test_a_template_that_no_rule_uses_is_shown_too(tmp_path: Path) -> None:
    files = {"templates/u/en/email.txt": "---\nsubject: S\n---\n{{ rule.id }}", "templates/u/en/sms.txt": "x"}
    assert policy(tmp_path, RULES, **{**FILES, **files}).ok
    result = mss("u", str(tmp_path))
    assert "email, en  with an empty payload" in result.output and "sms, en" in result.output


@pytest.mark.parametrize(
    ("template", "words"),
    [("verify-email", ["[KrossIAM] (subject)", "(userid)", "(href)"]), ("sms-code", ["(code)"])],
)
def test_what_an_action_says(template: str, words: list[str]) -> None:
    """No schema describes its payload: its fields are shown by their names."""
    result = mss(template, str(ROOT / "rules"), "--locale", "en")
    assert result.exit_code == 0, result.output
    assert all(each in result.stdout for each in words)


def test_words_that_need_more_than_the_sample_brings(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES, **FILES).ok
    result = mss("r", str(tmp_path))
    assert result.exit_code == 1
    assert "Error: email, en, with an empty payload" in result.output and "--payload FILE" in result.output
    out = mss("r", str(tmp_path), "--out", str(tmp_path / "out"))
    assert out.exit_code == 1 and "no attribute" in (tmp_path / "out/r/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rr"], "unknown template 'rr'"),
        (["r", "--channel", "emial"], "did you mean 'email'?"),
        (["r", "--locale", "!"], "not a language tag"),
        (["r", "--payload", "-"], "invalid JSON"),
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    policy(tmp_path, RULES, **FILES)
    name, *options = arguments
    result = mss(name, str(tmp_path), *options, input_="no json")
    assert result.exit_code == 2 and words in result.output
    assert mss().exit_code == 2
    assert mss("r", str(tmp_path), "--payload", "-", input_="[]").exit_code == 2


def test_a_policy_with_errors(tmp_path: Path) -> None:
    policy(tmp_path, RULES.replace("sms]", "smss]"), **FILES)
    result = mss("r", str(tmp_path))
    assert result.exit_code == 1 and "unknown channel 'smss'" in result.output


@pytest.mark.parametrize("pattern", [">", "*.x", "notice.*", "audit.>", "log", "log.a.*"])
def test_wildcards_stand_for_something(tmp_path: Path, pattern: str) -> None:
    rules = f"rules: [{{id: r, event: '{pattern}', template: t, notify: [terminal]}}]"
    book: Rulebook = policy(tmp_path, rules).require()
    (page,) = (page for page in pages(book, (), "t", payload={"a": 1}) if page.channel == "terminal")
    assert page.message is not None and json.dumps(page.message.text) == '"Hello"'
