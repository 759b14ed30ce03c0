"""From an event to deliveries: recipients, addresses, content, and the reasons for suppressed messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.policy_builders import event, policy

from engine.planning.draft import delivery_id
from engine.planning.planner import Plan, plan
from engine.rules.rulebook import Rulebook

LOGIN = {"userid": "u1", "mailto": "a@example.com", "phone": "+86 138-0000-0000", "locale": "zh-CN"}


def rulebook(folder: Path, rules: str, **files: str | bytes) -> Rulebook:
    return policy(folder, rules, **files).require()


def made(plan_: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(d.rule, d.channel, d.to) for d in plan_.deliveries]


def test_the_schema_marks_the_recipient(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [email, sms, terminal]}]",
    )
    result = plan(book, event(LOGIN))
    assert made(result) == [
        ("r", "email", ("a@example.com",)),
        ("r", "sms", ("+8613800000000",)),
        ("r", "terminal", ()),
    ]
    assert {d.user for d in result.deliveries} == {"u1"}
    assert result.deliveries[0].message.text == "Hello u1"


def test_equal_events_have_equal_plans_and_different_messages_different_ids(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        """
        rules:
          - {id: a, event: notice.login.abnormal, template: t, notify: [email, sms]}
          - {id: b, event: notice.login.abnormal, template: t, notify: [email]}
        """,
    )
    one, again, other = (
        plan(book, event(LOGIN)),
        plan(book, event(LOGIN)),
        plan(book, event(LOGIN, reqid="b" * 32)),
    )
    assert one == again
    ids = [d.id for result in (one, other) for d in result.deliveries]
    assert len(ids) == len(set(ids)) == 6
    assert all(len(id_) == 32 for id_ in ids)


def test_an_id_is_the_same_in_every_release(tmp_path: Path) -> None:
    """Otherwise a delivery stored before an upgrade could be sent twice."""
    to = ("ä@example.com", "b@example.com")
    assert delivery_id(event({}), "r", "email", "t", to) == "153d639df2c3a8ea92fdeccb1c343a05"


def test_content_that_does_not_name_the_recipient_is_rendered_once(tmp_path: Path) -> None:
    rules = """
        rules: [{id: r, event: notice.login.abnormal, template: NAME, to: {phone: phone, user: userid},
                 notify: [sms]}]
        """
    many = LOGIN | {"phone": ["+8613800000000", "+8613800000001"]}
    files = {
        "templates__same__sms.txt": "You are {{ payload.userid }}",
        "templates__own__sms.txt": "To {{ recipient.address }}",
        "templates__part__sms.txt": "{% include '_parts/to.txt' %}",
        "templates/_parts/to.txt": "To {{ recipient.address }}",
    }
    for name, texts in [
        ("same", ["You are u1", "You are u1"]),
        ("own", ["To +8613800000000", "To +8613800000001"]),
        ("part", ["To +8613800000000", "To +8613800000001"]),
    ]:
        book = rulebook(tmp_path / name, rules.replace("NAME", name), **files)
        one, other = (delivery.message for delivery in plan(book, event(many)).deliveries)
        assert [one.text, other.text] == texts
        assert (one is other) == (name == "same")


def test_an_entry_written_twice_is_one_delivery(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [email, {channel: email}]}]",
    )
    assert len(plan(book, event(LOGIN)).deliveries) == 1


def test_to_overrides_the_schema_and_can_name_an_entry_of_people(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        """
        people:
          secops: {email: [sec@example.com, ops@example.com], phone: ["+4915100000000", "+4915100000001"]}
        rules:
          - id: r
            event: notice.login.managed
            template: t
            to: {email: manager.mail, locale: lang}
            notify:
              - email
              - {channel: sms, to: secops}
              - {channel: email, to: secops}
        """,
    )
    payload = {**LOGIN, "manager": {"mail": ["m@example.com", "n@example.com"]}, "lang": "en"}
    result = plan(book, event(payload, "notice.login.managed"))
    assert made(result) == [
        ("r", "email", ("m@example.com", "n@example.com")),  # one mail: the first To, the rest Cc
        ("r", "sms", ("+4915100000000",)),  # an SMS for each number
        ("r", "sms", ("+4915100000001",)),
        ("r", "email", ("sec@example.com", "ops@example.com")),
    ]


@pytest.mark.parametrize(
    ("payload", "suppressed"),
    [
        ({"mailto": None}, [("email", "no_address")]),
        ({}, [("email", "no_address")]),
        ({"mailto": []}, [("email", "no_address")]),
        ({"mailto": {"x": 1}}, [("email", "no_address")]),
        ({"mailto": "not an address"}, [("email", "bad_address")]),
        ({"mailto": "a@example.com\r\nBcc: x@example.com"}, [("email", "bad_address")]),
    ],
)
def test_a_missing_recipient_is_recorded(tmp_path: Path, payload: Any, suppressed: list[Any]) -> None:
    book = rulebook(tmp_path, "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [email]}]")
    result = plan(book, event(payload))
    assert made(result) == []
    assert [(s.channel, s.reason) for s in result.suppressed] == suppressed


def test_the_other_addresses_of_a_recipient_with_a_bad_one_are_notified(tmp_path: Path) -> None:
    book = rulebook(tmp_path, "rules: [{id: r, event: audit.accountaddemail, template: t, notify: [email]}]")
    payload = {"mailto": ["junk", "a@example.com", "B <b@example.com>"]}
    result = plan(book, event(payload, "audit.accountaddemail"))
    assert made(result) == [("r", "email", ("a@example.com", "B <b@example.com>"))]
    assert [(s.reason, s.detail) for s in result.suppressed] == [("bad_address", "junk")]


def test_rules_apply_by_priority_then_file_then_position_until_stop(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        """
        rules:
          - {id: late, event: notice.>, template: t, notify: [terminal], priority: 10}
          - {id: second, event: notice.login.*, template: t, notify: [terminal]}
          - {id: first, event: notice.login.abnormal, template: t, notify: [terminal], priority: -1}
        """,
        **{
            "a.yaml": "rules: [{id: early-file, event: '>', template: t, notify: [terminal], enabled: shadow, stop: true}]"
        },
    )
    names = [match.rule.id for match in book.match(event(LOGIN))]
    assert names == ["first", "early-file", "second", "late"]  # a shadow never stops anything
    stopped = rulebook(
        tmp_path / "stop",
        """
        rules:
          - {id: one, event: notice.>, template: t, notify: [terminal], stop: true, when: {userid: u1}}
          - {id: two, event: notice.>, template: t, notify: [terminal]}
        """,
    )
    assert [m.rule.id for m in stopped.match(event(LOGIN))] == ["one"]
    assert [m.rule.id for m in stopped.match(event({"userid": "u2"}))] == ["two"]


def test_a_rule_in_shadow_mode_is_recorded_and_one_that_is_off_is_not(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        """
        rules:
          - {id: s, event: notice.login.abnormal, template: t, notify: [email, sms], enabled: shadow}
          - {id: o, event: notice.login.abnormal, template: t, notify: [email], enabled: false}
        """,
    )
    result = plan(book, event(LOGIN))
    assert made(result) == []
    assert [(s.rule, s.channel, s.reason) for s in result.suppressed] == [
        ("s", "email", "shadow"),
        ("s", "sms", "shadow"),
    ]


def test_an_entry_of_notify_can_have_conditions(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        """
        rules:
          - id: r
            event: notice.login.abnormal
            template: t
            notify: [email, {channel: siem, when: {risk.score: {gte: 90}}}]
        """,
    )
    low, high = plan(book, event(LOGIN)), plan(book, event({**LOGIN, "risk": {"score": 91}}))
    assert made(low) == [("r", "email", ("a@example.com",))]
    assert [(s.channel, s.reason) for s in low.suppressed] == [("siem", "condition")]
    assert [d.channel for d in high.deliveries] == ["email", "siem"]


def test_only_a_channel_for_machines_gets_the_payload(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        "rules: [{id: no-text, event: notice.login.abnormal, notify: [siem, {channel: email, template: t}]}]",
    )
    siem, email = plan(book, event(LOGIN)).deliveries
    assert siem.payload == LOGIN and siem.message.text == ""
    assert email.payload is None


def test_a_template_that_fails_for_one_channel_does_not_affect_the_others(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: u, notify: [email, sms]}]",
        **{
            "templates/u/email.txt": "---\nsubject: S\n---\n{{ payload.reason.upper() }}",
            "templates/u/sms.txt": "fine",
        },
    )
    result = plan(book, event(LOGIN))
    assert made(result) == [("r", "sms", ("+8613800000000",))]
    assert [(f.rule, f.channel) for f in result.failures] == [("r", "email")]
    assert "reason" in result.failures[0].detail


def test_a_delivery_has_the_sensitive_values_to_mask(tmp_path: Path) -> None:
    book = rulebook(tmp_path, "rules: [{id: r, event: notice.login.abnormal, template: t, notify: [email]}]")
    link = "https://iam.example.com/secure?token=abc"
    assert plan(book, event({**LOGIN, "href": link})).deliveries[0].secrets == (link,)


def test_keys_of_an_event_with_a_schema_ignore_case(tmp_path: Path) -> None:
    book = rulebook(
        tmp_path,
        "rules: [{id: r, event: notice.login.abnormal, template: t, when: {userid: u1}, notify: [email]}]",
    )
    payload = book.catalogue.canonical("notice.login.abnormal", {"UserID": "u1", "MAILTO": "a@example.com"})
    assert made(plan(book, event(payload))) == [("r", "email", ("a@example.com",))]
