"""The loader reports every problem with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.locations import ROOT
from support.policy_builders import CHANNELS, policy, write

from engine.model.problems import Problem
from engine.policy.loader import load_policy


def found(problems: tuple[Problem, ...]) -> list[tuple[str, int, int, str]]:
    return [(p.place.file, p.place.line, p.place.column, p.code) for p in problems]


def used(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """The problems without the warnings of what the usual policy has and one rule does not use or test."""
    return tuple(p for p in problems if not p.code.startswith(("unused-", "untested-")))


def test_the_example_policy_has_no_problem() -> None:
    checked = load_policy(ROOT / "rules", environment={})
    assert [p for p in checked.problems if p.severity != "info"] == []
    assert checked.ok and checked.rules == 3


def test_one_run_reports_every_kind_of_mistake(tmp_path: Path) -> None:
    files = {
        "channels.yaml": CHANNELS,
        "a.yaml": (
            "rules:\n"
            "  - id: one\n"
            "    event: notice.login.abnormal\n"
            "    notifi: [email]\n"
            "    notify: [email]\n"
            "    template: t\n"
            "  - id: two\n"
            "    event: notice.login.abnormal\n"
            "    notify: [emial]\n"
            "    template: t\n"
            "    priority: high\n"
            "  - id: three\n"
            "    event: notice.login.abnormal\n"
            "    notify: [emial, email]\n"
            "    template: gone\n"
            "    severity: low\n"
            "    severity: high\n"
        ),
        "b.yaml": "rules:\n\t- id: four\n\t  event: notice.login.abnormal\n",
        "templates/t/email.txt": "---\nsubject: S\n---\nx",
    }
    checked = load_policy(write(tmp_path, files), environment={})
    places = found(checked.problems)
    assert ("a.yaml", 4, 5, "unknown-key") in places
    assert ("a.yaml", 11, 15, "wrong-type") in places
    assert ("a.yaml", 14, 14, "unknown-channel") in places
    assert ("a.yaml", 15, 15, "missing-template") in places
    assert ("a.yaml", 17, 5, "duplicate-key") in places
    assert ("b.yaml", 2, 1, "yaml-tab") in places
    hints = {p.code: p.hint for p in checked.problems}
    assert hints["unknown-channel"] == "did you mean 'email'?"
    assert hints["unknown-key"] == "did you mean 'notify'?"
    assert not checked.ok and checked.rulebook is None


@pytest.mark.parametrize(
    ("rules", "line", "column", "code"),
    [
        ("rules: [{id: r, event: notice.login.abnormal, template: t, notify: [nobody]}]", 1, 69, "unknown-channel"),
        ("rules: [{id: r, event: notice.x.y, to: secops, template: t, notify: [email]}]", 1, 40, "unknown-person"),
        ("rules: [{id: r, event: notice.login.abnormal, notify: [email]}]", 1, 56, "missing-template"),
        ("rules: [{id: r, event: notce.login, template: t, notify: [terminal]}]", 1, 24, "bad-format"),
        ("rules: [{id: r, event: notice.own.event, template: t, notify: [email]}]", 1, 64, "no-address"),
        ("people: {secops: {email: [nope]}}", 1, 27, "bad-format"),
        (
            "rules:\n- {id: r, event: notice.login.abnormal, template: t, notify: [terminal]}\n"
            "- {id: r, event: notice.login.abnormal, template: t, notify: [terminal]}",
            3, 8, "defined-twice",
        ),
        ("channels: {email: {type: console}}", 1, 12, "defined-twice"),
        ("channels: {x: {type: apprise, url: 'json://h/{to}'}}", 1, 36, "missing-address"),
        ("channels: {x: {type: webhook, url: '${NO_SUCH}'}}", 1, 36, "unset-variable"),
        ("channels: {x: {type: apprise, url: 'slck://a/b/c'}}", 1, 12, "unusable-channel"),
        ("channels: {x: {type: webhook, url: '${NO_SUCH:-ftp://x}'}}", 1, 12, "unusable-channel"),
        (
            "channels: {x: {type: email, from: a@example.com, mtas: [{host: h.example, ca: /no/such.pem}]}}",
            1, 12, "unusable-channel",
        ),
        ("channels: {x: {type: webhook, url: 'https://h/', secret: 'file:/no/such'}}", 1, 58, "unreadable"),
        (
            "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [terminal], when: {a: {gte: x}}}]",
            1, 96, "wrong-type",
        ),
        (
            "people: {p: {phone: '+4912345'}}\n"
            "rules: [{id: r, event: notice.x.y, to: p, template: t, notify: [email]}]",
            2, 65, "no-address",
        ),
    ],
)  # fmt: skip
def test_a_mistake_has_its_place(tmp_path: Path, rules: str, line: int, column: int, code: str) -> None:
    problems = [p for p in policy(tmp_path, rules).problems if p.severity == "error"]
    assert [(p.place.line, p.place.column, p.code) for p in problems] == [(line, column, code)]


def test_an_event_without_a_schema_is_allowed_with_a_warning(tmp_path: Path) -> None:
    checked = policy(
        tmp_path, "rules: [{id: r, event: notice.own, to: {email: mail}, template: t, notify: [email]}]"
    )
    assert [(p.code, p.severity) for p in used(checked.problems)] == [("unknown-event", "warning")]
    assert checked.ok


def test_a_schema_in_the_policy_extends_the_catalogue(tmp_path: Path) -> None:
    schema = '{"type": "object", "properties": {"mail": {"type": "string", "x-mss-role": "email"}}}'
    rules = "rules: [{id: r, event: notice.own.event, template: t, notify: [email]}]"
    checked = policy(tmp_path, rules, **{"events/notice/own.event.schema.json": schema})
    assert used(checked.problems) == ()
    broken = policy(tmp_path, rules, **{"events/notice/own.event.schema.json": '{"type": "no such type"}'})
    assert {p.place.file for p in broken.problems if p.severity == "error"} == {
        "events/notice/own.event.schema.json"
    }


def test_templates_are_checked_with_the_policy(tmp_path: Path) -> None:
    checked = policy(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: u, notify: [email]}]",
        **{"templates/u/email.txt": "---\nsubject: x\nsubjekt: y\n---\nHello\n{{ payload.x"},
    )
    assert found(used(checked.problems)) == [
        ("templates/u/email.txt", 3, 1, "unknown-key"),
        ("templates/u/email.txt", 6, 1, "template-syntax"),
    ]


def test_a_mail_needs_a_subject(tmp_path: Path) -> None:
    checked = policy(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: u, notify: [email]}]",
        **{"templates/u/email.txt": "no front matter"},
    )
    assert [p.code for p in used(checked.problems)] == ["missing-subject"]


def test_references_are_resolved_in_channels_but_not_in_rules(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    files = {
        "c.yaml": f"""
            channels:
              hook: {{type: webhook, url: "https://${{HOST:-h.example}}/x", secret: "file:{secret}"}}
            rules:
              - {{id: r, event: notice.login.abnormal, notify: [hook], when: {{userid: "${{HOST}}"}}}}
            """
    }
    checked = load_policy(write(tmp_path / "p", files), environment={"HOST": "other.example"})
    book = checked.require()
    assert book.channels["hook"].options == {"url": "https://other.example/x", "secret": "s3cret"}
    assert book.rules[0].when.holds({"userid": "${HOST}"})


def test_the_revision_depends_on_the_content_alone(tmp_path: Path) -> None:
    one = policy(tmp_path / "a", "rules: []")
    same = policy(tmp_path / "b", "rules: []")
    other = policy(tmp_path / "c", "rules: [ ]")
    assert one.revision == same.revision != other.revision


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    missing = load_policy(tmp_path / "nothing", environment={})
    assert [p.code for p in missing.problems] == ["unreadable"]
    write(tmp_path, {"a/x.yaml": "channels: {t: {type: console}}", "bin.yaml": b"\x00\x01\x02"})
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a" / "fifo.yaml")
    codes = {p.code for p in load_policy(tmp_path, environment={}).problems}
    assert "symlink-loop" in codes and "unreadable" in codes
