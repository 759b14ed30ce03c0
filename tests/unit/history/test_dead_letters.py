"""Dead letters: headers, redrive, and the masked payload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.policy_builders import event, policy

from engine.broker import Topology
from engine.broker.codec import Redrive, encode, redrive_of
from engine.broker.reader import StoredMessage
from engine.history.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    EventRedrive,
    header_value,
    masked_payload,
    only_redriven,
    readable,
    redrive_message,
    sensitive_header,
)
from engine.model.errors import NotRedrivable
from engine.model.messages import Delivery, Inline, Kind, Message, RedriveId, Severity
from engine.planning.planner import Plan, plan

SECRET = "https://iam.example.com/s?token=a'b&c=1"
DELIVERY = Delivery(
    id="d" * 32, kind=Kind.AUDIT, key="x", reqid="r1", rule="r", revision="rev", channel="email", user="u",
    to=("a@example.com",), locale="en", severity=Severity.NONE, secrets=(SECRET,), created=5,
    payload={"link": SECRET, "n": 1},
    message=Message(
        title=f"Go to {SECRET}", text=f"Go to {SECRET}", html="<a href='https://iam.example.com/s?token=a&#x27;b&amp;c=1'>go</a>",
        inline=(Inline(name="logo.png", media_type="image/png", data=b"x" * 99),),
    ),
)  # fmt: skip


def dead_letter(reason: str = "refused", size: int = 10, **headers: str) -> DeadLetter:
    named = {f"Mss-{name.title()}": value for name, value in headers.items()}
    return DeadLetter.from_message(
        StoredMessage(
            subject=f"mss.dead.notice.{reason}", sequence=7, at=1000, headers=named, payload=b"", size=size
        )
    )


def of_event(**headers: str) -> DeadLetter:
    return dead_letter("not-json", **{"subject": "kiam.console.notice.x", **headers})


@given(st.lists(st.text(max_size=600), min_size=4, max_size=4), st.binary(max_size=200))
def test_a_dead_letter_is_stored_and_read_with_all_its_fields(texts: list[str], payload: bytes) -> None:
    detail, reqid, rule, channel = texts
    dead = DeadLetter(
        kind=Kind.AUDIT, reason="refused", detail=detail, subject="kiam.console.audit.x", reqid=reqid, rule=rule,
        channel=channel, delivery="d", revision="rev", chain="a, b", sensitive='[["a"]]', attempts=3, received=5,
    )  # fmt: skip
    stored = dead.to_message(Topology(), payload, id_="x", max_payload=100)
    assert (stored.id, stored.payload) == ("dead.x", payload[:100])
    read = DeadLetter.from_message(
        StoredMessage(
            subject=stored.subject, sequence=7, at=1000, headers=stored.headers, payload=b"", size=100
        )
    )
    assert (read.kind, read.reason, read.is_event, read.id) == (Kind.AUDIT, "refused", True, "7-1000")
    assert read.truncated == (len(payload) if len(payload) > 100 else 0)
    for name in DeadLetter.__slots__:
        if name not in ("truncated", "sequence", "at", "size"):
            expected, found = str(getattr(dead, name)), str(getattr(read, name))
            assert header_value(found) == header_value(expected)


def test_a_redriven_delivery_keeps_its_id_and_gets_a_new_deadline() -> None:
    redriven = redrive_message(dead_letter(delivery="d" * 32), encode(DELIVERY), at=9_000)
    assert redriven == replace(DELIVERY, redrive=RedriveId(dead_letter="7-1000", at=9_000))
    assert isinstance(redriven, Delivery)
    assert redriven.deadline_start == 9_000 and DELIVERY.deadline_start == 5  # its deadline starts again
    assert redriven.run_id != DELIVERY.run_id == DELIVERY.id  # and so do its attempts


def test_a_redriven_event_is_published_unchanged_on_its_subject() -> None:
    redriven = redrive_message(of_event(received="77"), b"{nonsense", at=9_000)
    assert isinstance(redriven, EventRedrive)
    assert (redriven.subject, redriven.payload) == ("kiam.console.notice.x", b"{nonsense")
    assert redrive_of(redriven.headers) == Redrive(id=RedriveId(dead_letter="7-1000", at=9_000), received=77)


def test_a_redriven_event_with_a_rule_is_only_for_that_delivery() -> None:
    redriven = redrive_message(of_event(rule="r", channel="email", delivery="x"), b"{}", at=9_000)
    assert isinstance(redriven, EventRedrive)
    again = redrive_of(redriven.headers)
    assert again is not None and again.is_partial
    assert (again.rule, again.channel, again.delivery, again.received) == ("r", "email", "x", 1000)


@pytest.mark.parametrize(
    ("dead", "payload", "reason"),
    [
        (of_event(truncated="99"), b"{}", "only its beginning was kept"),
        (dead_letter(truncated="99"), encode(DELIVERY), "only its beginning was kept"),
        (dead_letter("bad-delivery"), b"{}", "cannot be read as a delivery"),
    ],
)
def test_a_truncated_or_unreadable_dead_letter_is_not_redrivable(
    dead: DeadLetter, payload: bytes, reason: str
) -> None:
    with pytest.raises(NotRedrivable, match=reason):
        redrive_message(dead, payload, at=1)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"Mss-Rule": "r", "Mss-Channel": "email"},  # without a dead letter, a rule is ignored
        {"Mss-Dead-Letter": "1-1"},
        {"Mss-Dead-Letter": "1-1 ", "Mss-Redriven-At": "1", "Mss-Received": "1"},
        {"Mss-Dead-Letter": "a.b", "Mss-Redriven-At": "1", "Mss-Received": "1"},
        {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": "-1", "Mss-Received": "1"},
        {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": "1", "Mss-Received": "9" * 19},
        {"Mss-Dead-Letter": "1-1", "Mss-Redriven-At": "²", "Mss-Received": "1"},
    ],
)
def test_invalid_redrive_headers_are_ignored(headers: dict[str, str] | None) -> None:
    assert redrive_of(headers) is None


RULES = """
rules:
  - id: r
    event: notice.own.event
    to: {phone: phones, email: mail}
    notify: [sms, email, {channel: terminal, when: {never: {exists: true}}}]
    template: t
  - id: other
    event: notice.own.event
    to: {email: mail}
    notify: [email]
    template: t
"""


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    rulebook = policy(tmp_path, RULES).require()
    phones = ["+8613800000001", "+8613800000002"]
    return plan(rulebook, event({"phones": phones, "mail": "a@example.com"}, "notice.own.event"))


def again(**more: str) -> Redrive:
    return Redrive(id=RedriveId(dead_letter="7-1000", at=9_000), received=5, **more)


def test_a_whole_redrive_marks_all_deliveries(planned: Plan) -> None:
    redriven = only_redriven(planned, again())
    assert [d.id for d in redriven.deliveries] == [d.id for d in planned.deliveries]
    assert {d.redrive for d in redriven.deliveries} == {RedriveId(dead_letter="7-1000", at=9_000)}
    assert redriven.suppressed == planned.suppressed and redriven.matches == planned.matches


def test_a_partial_redrive_omits_the_other_deliveries(planned: Plan) -> None:
    texts = [d for d in planned.deliveries if d.channel == "sms"]
    redriven = only_redriven(planned, again(rule="r", channel="sms", delivery=texts[1].id))
    assert [d.to for d in redriven.deliveries] == [texts[1].to]
    assert [match.rule.id for match in redriven.matches] == ["r"]
    assert redriven.suppressed == ()


def test_a_partial_redrive_without_its_delivery_takes_all_of_the_rule_and_channel(planned: Plan) -> None:
    redriven = only_redriven(planned, again(rule="r", channel="sms", delivery="renamed"))
    assert [d.channel for d in redriven.deliveries] == ["sms", "sms"]
    assert [d.rule for d in only_redriven(planned, again(rule="other", channel="email")).deliveries] == [
        "other"
    ]
    assert only_redriven(planned, again(rule="gone", channel="email")).deliveries == ()
    assert [s.reason for s in only_redriven(planned, again(rule="r", channel="terminal")).suppressed] == [
        "condition"
    ]


def test_a_failure_has_the_id_of_the_delivery(tmp_path: Path) -> None:
    templates = {"templates__t__sms.txt": "{{ payload.mail.nothing.at.all }}"}
    phones = ["+8613800000001", "+8613800000002"]
    received = event({"phones": phones, "mail": "a@example.com"}, "notice.own.event")
    failed = plan(policy(tmp_path / "1", RULES, **templates).require(), received).failures
    whole = plan(policy(tmp_path / "2", RULES).require(), received)
    assert [f.delivery for f in failed] == [d.id for d in whole.deliveries if d.channel == "sms"]
    assert len(set(failed)) == 2  # two dead letters, not one for both


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (DeadLetterFilter(), True),
        (
            DeadLetterFilter(
                kind=Kind.NOTICE, reason="refused", rule="规则", channel="email", reqid="r1", since=1000
            ),
            True,
        ),
        (DeadLetterFilter(kind=Kind.AUDIT), False),
        (DeadLetterFilter(reason="expired"), False),
        (DeadLetterFilter(rule="规"), False),
        (DeadLetterFilter(channel="sms"), False),
        (DeadLetterFilter(reqid="r2"), False),
        (DeadLetterFilter(delivery="x"), False),
        (DeadLetterFilter(since=1001), False),
    ],
)
def test_a_filter_matches_if_all_its_fields_do(wanted: DeadLetterFilter, matches: bool) -> None:
    assert wanted.matches(dead_letter(rule=header_value("规则"), channel="email", reqid="r1")) is matches


@given(st.text(max_size=100))
def test_header_values_are_ascii_and_can_be_decoded(text: str) -> None:
    value = header_value(text)
    assert value.isascii() and "\n" not in value and "\r" not in value
    if "\\" not in text and not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert readable(value).split() == " ".join(text.split())[:500].split() or not text.isprintable()


def test_escapes_of_the_original_text_stay() -> None:
    assert readable(r"C:\x1b[31m \x41 \u0007 \ud800 \u00e9") == r"C:\x1b[31m \x41 \u0007 \ud800 é"


def test_a_delivery_is_shown_without_its_secrets() -> None:
    data = masked_payload(dead_letter(), encode(DELIVERY))
    assert data["id"] == DELIVERY.id and data["to"] == ["a@example.com"] and data["event"] == "audit.x"
    assert data["text"] == "Go to ***" and data["html"] == "<a href='***'>go</a>"
    assert data["payload"] == {"link": "***", "n": 1} and data["pictures"] == ["logo.png"]
    assert "token" not in json.dumps(data)
    assert "cannot be read" in masked_payload(dead_letter(), encode(DELIVERY)[:-1])


def masked_event(payload: Any, *paths: tuple[str, ...]) -> Any:
    data = payload if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False).encode()
    return masked_payload(
        of_event(sensitive=header_value(sensitive_header(paths))) if paths else of_event(), data
    )


def test_an_event_is_shown_without_its_sensitive_fields() -> None:
    message = {
        "reqid": "r",
        "payload": {"link": SECRET, "user": {"pin": 12}, "n": 12, "text": f"at {SECRET}"},
    }
    data = masked_event(message, ("link",), ("user", "pin"))
    assert data["payload"] == {"link": "***", "user": {"pin": "***"}, "n": "***", "text": "at ***"}
    assert masked_event(message) == message  # no field is known to be sensitive


def test_sensitive_fields_are_masked_in_any_case_and_if_repeated() -> None:
    data = masked_event(
        b'{"PAYLOAD":{"Link":["secret-1"],"LINK":"secret-2","x":"secret-1 secret-2"}}', ("link",)
    )
    assert data["PAYLOAD"]["x"] == "*** ***" and "secret" not in json.dumps(data)
    twice = masked_event(b'{"payload":{"link":"secret-1"},"payload":{"x":"secret-1"}}', ("link",))
    assert "secret" not in json.dumps(twice)


def test_an_unreadable_event_is_not_shown_if_it_may_have_secrets() -> None:
    half = b'{"payload":{"link":"secret-1"'
    assert "secret-1" not in masked_event(half, ("link",))
    assert masked_event(half) == half.decode()
    many = tuple((f"field-{number}",) for number in range(100))
    assert sensitive_header(many) == "*"
    assert "secret-1" not in masked_event({"payload": {"link": "secret-1"}}, *many)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_shown(data: bytes) -> None:
    for dead in (dead_letter(), of_event(), of_event(sensitive='[["a"]]')):
        masked_payload(dead, data)
