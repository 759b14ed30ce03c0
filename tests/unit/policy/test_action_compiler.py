"""The actions of a policy have one handler each, and every mistake has its place."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from support.geoip_database import write_database
from support.policy_builders import policy

from engine.actions import HANDLERS
from engine.documents import schemas
from engine.planning.requests import SHAPES
from engine.policy.loader import Policy, load_policy

USED = """
rules:
  - {id: r, event: notice.login.abnormal, template: t, notify: [email, sms, terminal, siem]}
tests:
  - {name: x, given: {event: notice.login.abnormal, payload: {userid: u}}, expect: {rules: [r]}}
"""


def actions(folder: Path, text: str, **files: str) -> Policy:
    return policy(folder, USED, **{"actions.yaml": "actions:\n" + indented(text), **files})


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in dedent(text).strip("\n").splitlines())


def found(checked: Policy) -> list[tuple[str, str]]:
    return [(f"{p.place.file}:{p.place.line}:{p.place.column}", p.code) for p in checked.problems]


def test_every_handler_accepts_all_of_its_settings(tmp_path: Path) -> None:
    database = write_database(tmp_path / "x.mmdb")
    checked = actions(
        tmp_path / "p",
        f"""
        tell:
          handler: notify
          description: Tells
          channel: [sms, email]
          to: {{user: userid, email: mail.to, phone: phone, locale: locale}}
          template: t
          vars: {{a: 1}}
          sensitive: [code, nested.token]
          timeout: 30s
          concurrency: 5
          queue: 0
          idempotent: true
        t: {{handler: notify, channel: terminal, to: {{user: who}}}}
        iplocation: {{handler: iplocation, database: {database}}}
        check.captcha: {{handler: http, url: "https://captcha.internal/check", headers: {{A: b}}}}
        legacything: {{handler: forward, subject: legacy.actions.thing}}
        """,
    )
    assert [code for _, code in found(checked) if code != "no-address"] == []
    (tmp_path / "q").mkdir()
    checked = actions(
        tmp_path / "q",
        """
        tell: {handler: notify, channel: [sms, email], to: {email: mail.to, phone: phone}, template: t,
               sensitive: [code, nested.token], timeout: 30s, concurrency: 5, queue: 0, idempotent: true}
        """,
    )
    spec = checked.require().actions["tell"]
    assert spec.channels == ("sms", "email") and spec.to == {"email": ("mail", "to"), "phone": ("phone",)}
    assert spec.sensitive == (("code",), ("nested", "token"))
    assert (spec.timeout, spec.concurrency, spec.queue, spec.idempotent) == (30.0, 5, 0, True)


@pytest.mark.parametrize(
    ("text", "place", "code", "words"),
    [
        ("a: {handler: notifi, channel: email}", "2:16", "not-allowed", "did you mean 'notify'?"),
        ("a: {channel: email}", "2:6", "missing-key", "'handler'"),
        ("a: {}", "2:6", "missing-key", "'handler'"),
        ("a:", "2:5", "wrong-type", "expected a mapping"),
        ("a b: {handler: forward, subject: s}", "2:3", "bad-format", "the key of an action"),
        ("a: {handler: forward, subject: 'x.*'}", "2:34", "bad-format", "without wildcards"),
        ("a: {handler: http, url: 'ftp://x'}", "2:27", "bad-format", "a web address"),
        ("a: {handler: http, url: 'https://x', ca: /no/such.pem}", "2:3", "unusable-action", "certificates"),
        ("a: {handler: http, url: '${NO_SUCH}'}", "2:27", "unset-variable", "NO_SUCH"),
        ("a: {handler: iplocation, database: /no/such.mmdb}", "2:3", "unusable-action", "No such file"),
        ("a: {handler: iplocation}", "2:6", "missing-key", "'database'"),
        ("t: {handler: notify, channel: emil, to: {email: to}}", "2:33", "unknown-channel", "did you mean 'email'?"),
        ("t: {handler: notify, channel: email, to: {phone: to}}", "2:44", "no-address", "the email"),
        ("a: {handler: notify, channel: email, to: {email: to}}", "2:3", "missing-template", "'a'"),
        ("t: {handler: notify, channel: email, to: {email: 'a..b'}}", "2:52", "bad-path", "a..b"),
        ("sendverifyemail: {handler: notify, channel: email, template: t, to: {email: mailto}}", "2:79", "unknown-path",
         "requests for sendverifyemail have no field 'mailto'"),
        ("t: {handler: notify, channel: email, to: {email: to}, idempotent: 1}", "2:69", "wrong-type", "true or false"),
        ("t: {handler: iplocation, database: x, idempotent: true}", "2:41", "unknown-key", "idempotent"),
        ("a: {handler: preferences.set}\na.b: {handler: forward, subject: s}", "3:3", "overlapping-action", "the user 'b'"),
        ("a: {handler: preferences.set}\na.b: {handler: forward}", "3:3", "overlapping-action", "requests for a "),
        ("a: {handler: preferences.get, more: 1}\na.b: {handler: preferences.get}", "3:3", "overlapping-action", "a.NAME"),
        ("t: {handler: preferences.get, labels: {}}", "2:33", "unknown-key", "labels"),
        ("t: {handler: preferences.options, labels: {channels: {emil: Mail}}}", "2:57", "unknown-channel",
         "did you mean 'email'?"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_place_and_code(
    tmp_path: Path, text: str, place: str, code: str, words: str
) -> None:
    checked = actions(tmp_path, text)
    problems = [p for p in checked.problems if p.code == code]
    assert [f"{p.place.file}:{p.place.line}:{p.place.column}" for p in problems] == [f"actions.yaml:{place}"]
    assert words in problems[0].message + problems[0].hint


@pytest.mark.parametrize(
    "text",
    [
        "a: {handler: preferences.set}\na.b.c: {handler: forward, subject: s}",  # not one token deeper
        "a: {handler: preferences.set}\nab: {handler: forward, subject: s}",
        "a: {handler: forward, subject: s}\na.b: {handler: preferences.set}",
        "a: {handler: [preferences.set]}\na.b: {handler: forward, subject: s}",
    ],
)
def test_these_keys_do_not_overlap(tmp_path: Path, text: str) -> None:
    assert "overlapping-action" not in [code for _, code in found(actions(tmp_path, text))]


def test_a_key_in_two_files_is_a_problem(tmp_path: Path) -> None:
    checked = actions(
        tmp_path,
        "a: {handler: forward, subject: s}",
        **{"more.yaml": "actions: {a: {handler: http, url: 'https://x'}}"},
    )
    (problem,) = [p for p in checked.problems if p.code == "defined-twice"]
    assert str(problem.place) == "more.yaml:1:11" and "actions.yaml:2:3" in problem.message
    assert not checked.ok
    twice = actions(tmp_path, "a: {handler: forward, subject: s}\na: {handler: forward, subject: s}")
    assert ("actions.yaml:3:3", "duplicate-key") in found(twice)


@pytest.mark.parametrize(
    ("database", "environment", "severity"),
    [
        ("/no/such.mmdb", {}, "warning"),
        ("${DB}", {"DB": "/no/such.mmdb"}, "warning"),
        ("${DB:-/no/such.mmdb}", {"DB": "/no/other.mmdb"}, "warning"),
        ("${DB:-/no/such.mmdb}", {}, "info"),  # nobody has said yet where it is
    ],
)
def test_a_missing_database_is_reported(
    tmp_path: Path, database: str, environment: dict[str, str], severity: str
) -> None:
    (tmp_path / "a.yaml").write_text(
        f'actions: {{iplocation: {{handler: iplocation, database: "{database}"}}}}'
    )
    checked = load_policy(tmp_path, environment)
    assert [(p.code, p.severity) for p in checked.problems] == [("unusable-action", severity)]
    assert checked.ok  # it is served all the same: the answer is code 1 until the database is there
    (tmp_path / "b.mmdb").write_bytes(b"no database")
    checked = load_policy(tmp_path, {"DB": str(tmp_path / "b.mmdb")})
    if "DB" in database:
        assert "not a MaxMind database" in checked.problems[0].message


def test_registry_and_schema_have_the_same_handlers() -> None:
    defs = schemas.load("policy")["$defs"]
    assert defs["action_handler"]["enum"] == list(HANDLERS)
    for name, branch in zip(HANDLERS, defs["action"]["allOf"], strict=True):
        assert branch["if"]["properties"]["handler"] == {"const": name}
        assert branch["then"] == {"$ref": f"#/$defs/action_{name}"}


def test_the_example_policy_serves_the_actions_of_krossiam(tmp_path: Path) -> None:
    rules = Path(__file__).parents[3] / "rules"
    checked = load_policy(rules, {"GEOIP_DATABASE": str(write_database(tmp_path / "x.mmdb"))})
    assert checked.problems == ()
    assert set(SHAPES) <= set(checked.require().actions)
