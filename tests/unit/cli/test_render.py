"""``mss render``: each channel and language with a sample, as text and as files."""

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
    """Return the sample and the title or text, by channel and language."""
    made = policy(folder, rules, **{**FILES, **files})
    result = {}
    for page in pages(made.require(), made.cases, "r"):
        assert page.message is not None, page.error
        result[page.channel, page.locale] = (page.sample, page.title or page.message.text)
    return result


def test_the_sample_is_a_test_in_the_same_language(tmp_path: Path) -> None:
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


def test_a_test_of_another_rule_is_not_a_sample(tmp_path: Path) -> None:
    rules = RULES.replace("event: notice.own,", "event: notice.own, when: {name: Emil},")
    assert shown(tmp_path, rules + TESTS.replace("english, given", "english, at: '2026-01-01T00:00:00Z', given").replace(
        "lang: en}}, expect: {rules: [r]}", "lang: en}}, expect: {rules: []}"
    ))["email", "en"] == ("the test 'german'", "Hi Emil")  # fmt: skip


def rendered(folder: Path, *more: str, input_: str | None = None) -> Result:
    assert policy(folder, RULES + TESTS, **FILES).ok
    return mss("r", str(folder), *more, input_=input_)


def test_text_shows_each_channel_and_language(tmp_path: Path) -> None:
    result = rendered(tmp_path)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:3] == ["email, de  with the test 'german'", "  Hallo Emil", "  e@example.com"]
    assert [line for line in lines if ", " in line and "with" in line][1:] == [
        "email, en  with the test 'english'",
        "sms, en  with the test 'english'",
    ]


def test_options_select_a_channel_and_a_language(tmp_path: Path) -> None:
    assert rendered(tmp_path, "--channel", "sms").output.startswith("sms, en ")
    result = rendered(tmp_path, "--locale", "de_DE", "--channel", "email")
    assert result.output.startswith("email, de ") and "email, en" not in result.output


def test_the_payload_option_comes_first(tmp_path: Path) -> None:
    result = rendered(
        tmp_path, "--payload", "-", "--locale", "en", input_='{"name": "Grace", "MAIL": "g@x.example"}'
    )
    assert "Hi Grace" in result.output and "with the payload given" in result.output


def test_out_writes_html_text_and_an_index(tmp_path: Path) -> None:
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


def test_titles_have_the_prefix_of_the_channel() -> None:
    result = mss("abnormal-login", str(ROOT / "rules"), "--channel", "email", "--locale", "en")
    assert "  [KrossIAM] New sign-in from Singapore" in result.output.splitlines()


def test_an_unused_template_is_rendered(tmp_path: Path) -> None:
    files = {"templates/u/en/email.txt": "---\nsubject: S\n---\n{{ rule.id }}", "templates/u/en/sms.txt": "x"}
    assert policy(tmp_path, RULES, **{**FILES, **files}).ok
    result = mss("u", str(tmp_path))
    assert "email, en  with an empty payload" in result.output and "sms, en" in result.output


@pytest.mark.parametrize(
    ("template", "texts"),
    [("verify-email", ["[KrossIAM] (subject)", "(userid)", "(href)"]), ("sms-code", ["(code)"])],
)
def test_the_template_of_an_action_is_rendered_with_its_field_names(template: str, texts: list[str]) -> None:
    result = mss(template, str(ROOT / "rules"), "--locale", "en")
    assert result.exit_code == 0, result.output
    assert all(each in result.stdout for each in texts)


def test_a_template_that_fails_to_render_has_exit_code_1(tmp_path: Path) -> None:
    assert policy(tmp_path, RULES, **FILES).ok
    result = mss("r", str(tmp_path))
    assert result.exit_code == 1
    assert "Error: email, en, with an empty payload" in result.output and "--payload FILE" in result.output
    out = mss("r", str(tmp_path), "--out", str(tmp_path / "out"))
    assert out.exit_code == 1 and "no attribute" in (tmp_path / "out/r/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["rr"], "unknown template 'rr'"),
        (["r", "--channel", "emial"], "did you mean 'email'?"),
        (["r", "--locale", "!"], "not a language tag"),
        (["r", "--payload", "-"], "invalid JSON"),
    ],
)
def test_wrong_usage_has_exit_code_2(tmp_path: Path, arguments: list[str], text: str) -> None:
    policy(tmp_path, RULES, **FILES)
    name, *options = arguments
    result = mss(name, str(tmp_path), *options, input_="no json")
    assert result.exit_code == 2 and text in result.output
    assert mss().exit_code == 2
    assert mss("r", str(tmp_path), "--payload", "-", input_="[]").exit_code == 2


def test_a_policy_with_errors_is_refused(tmp_path: Path) -> None:
    policy(tmp_path, RULES.replace("sms]", "smss]"), **FILES)
    result = mss("r", str(tmp_path))
    assert result.exit_code == 1 and "unknown channel 'smss'" in result.output


@pytest.mark.parametrize("pattern", [">", "*.x", "notice.*", "audit.>", "log", "log.a.*"])
def test_a_rule_with_wildcards_has_a_sample_event(tmp_path: Path, pattern: str) -> None:
    rules = f"rules: [{{id: r, event: '{pattern}', template: t, notify: [terminal]}}]"
    book: Rulebook = policy(tmp_path, rules).require()
    (page,) = (page for page in pages(book, (), "t", payload={"a": 1}) if page.channel == "terminal")
    assert page.message is not None and json.dumps(page.message.text) == '"Hello"'
