"""The packaged schemas, and the messages about violations of them."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from engine.channels import TYPES
from engine.documents import schema_validation
from engine.documents.schema_validation import EXPECTS
from engine.documents.schemas import check, check_schema, load, names
from engine.documents.yaml import read
from engine.model.problems import Diagnostic

POLICY = """
defaults: {locale: en, site: {name: KrossIAM, anything: [1, {a: b}]}, retry: {attempts: 3}}
channels:
  email:
    type: email
    from: "KrossIAM <noreply@example.com>"
    subject_prefix: "[KrossIAM] "
    reply_to: help@example.com
    message_id_domain: example.com
    mtas:
      - {name: main, host: smtp.example.com, port: 465, tls: implicit, user: u, password: "${SMTP_PASSWORD}"}
      - {host: "${SMTP_HOST}", port: "${SMTP_PORT}", tls: starttls, ca: /etc/own.pem, cc: [a@b.c], bcc: a@b.c}
    timeout: 20s
    concurrency: 32
    retry: {attempts: 8, first: 5s, max: 30m, deadline: 24h}
  sms: {type: apprise, url: "twilio://${SID}:${TOKEN}@+15550001111/{to}", address: phone}
  siem: {type: nats, subject: siem.iam.events}
  terminal: {type: console}
  crm:
    type: webhook
    url: https://crm.example.com/hooks/iam
    secret: "${HOOK_SECRET}"
    headers: {Authorization: "Bearer ${TOKEN}"}
people:
  secops: {email: [secops@example.com], phone: "+8613800000000", locale: zh-CN, im: ["@secops"]}
actions:
  sendverifyemail:
    handler: notify
    description: A link
    channel: [email, sms]
    to: {user: userid, email: to, locale: locale}
    template: verify-email
    vars: {a: 1}
    sensitive: [href]
    timeout: 30s
    concurrency: 5
    queue: 0
    idempotent: true
  iplocation: {handler: iplocation, database: "${GEOIP_DATABASE:-/var/lib/x.mmdb}"}
  check.captcha: {handler: http, url: https://captcha.internal/check, ca: /etc/own.pem, headers: {A: "${B}"}}
  legacything: {handler: forward, subject: legacy.actions.thing}
rules:
  - id: abnormal-login
    description: Somebody signed in from where they never do
    enabled: shadow
    event: [notice.login.abnormal, audit.login.*, log, notice.>, ">"]
    when:
      result: success
      country: [CN, HK, {prefix: [S, T]}]
      risk.score: {gte: 70, lt: 100.5}
      device.trusted: {exists: false}
      reason: null
      any:
        - reason: {prefix: impossible_, not: {any_of: [a, 1]}}
        - all: [{a: {equals: true}}, {b: {not: [1, 2]}}]
      not: {c: {suffix: d}}
    priority: -100
    stop: true
    severity: high
    to: {user: userid, email: mailto, phone: phone, locale: locale, matrix: im.matrix}
    notify:
      - email
      - {channel: sms, when: {risk.score: {gte: 90}}, template: ops, to: secops, vars: {a: 1}}
    template: abnormal-login
    vars: {help_url: https://iam.example.com/help}
  - {id: small, event: log.app, notify: [email]}
tests:
  - name: an abnormal login
    at: "2026-03-02T23:30:00+08:00"
    given:
      - {event: notice.login.abnormal, payload: {userid: u1, risk: {score: 91}}}
      - {after: 5m, event: notice.login.abnormal}
    channels: {email: refused}
    expect:
      rules: [abnormal-login]
      deliveries:
        - {channel: sms, to: "+8613800000000", locale: zh-CN, contains: x, rule: small, title: t}
        - {to: [a@b.c], contains: [x, y]}
      failed: [{channel: email}]
      suppressed: [{channel: siem, reason: no_address, rule: small}]
  - {name: another, given: {event: log}, expect: {rules: []}}
"""
SETTINGS = """
prefix: kiam.console
namespace: mss
stream_prefix: MSS
servers: [nats://n1:4222, tls://n2, "nats://user:pw@[::1]:4222"]
user: u
password: p
token: t
nkey: /etc/mss.nk
credentials: /etc/mss.creds
tls: {ca: ca.pem, cert: c.pem, key: k.pem, hostname: nats, handshake_first: true}
rules: rules
services: {notice: true, audit: false, log: true, actions: {iplocation: false}}
action_deadline: 60s
replicas: 3
clock_tolerance: 10s
retention: {archive: 7d, history: 30d, dead: 30d, ledger: 1d}
ack_wait: 10s
shutdown_grace: 20s
metrics: {listen: "127.0.0.1:9180"}
log: {level: info, format: json}
"""


def errors_in(data: Any, schema: Any) -> list[Diagnostic]:
    return schema_validation.violations_of(data, schema_validation.STRICT(schema))


def found(text: str, schema: str = "policy") -> list[tuple[str, str, str, str]]:
    """Return ``line:column``, code, message and hint of each problem."""
    problems = check(read(text, "a.yaml"), schema)
    return [(f"{p.place.line}:{p.place.column}", p.code, p.message, p.hint) for p in problems]


def rule(**keys: str) -> str:
    """Return a rule in flow style with each key on its own line."""
    whole = {"id": "x", "event": "notice.x", "notify": "[email]"} | keys
    return "rules:\n- {" + ",\n   ".join(f"{key}: {value}" for key, value in whole.items()) + "}\n"


class TestPackaged:
    def test_the_documents_come_before_the_events(self) -> None:
        assert names()[:4] == ["policy", "mss", "preferences", "envelope"]
        assert {"events/notice/login.abnormal", "events/audit/accountaddemail"} <= set(names())

    @pytest.mark.parametrize("name", names())
    def test_each_file_is_a_valid_schema(self, name: str) -> None:
        Draft202012Validator.check_schema(load(name))
        assert check_schema(load(name)) == []
        assert load(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert load(name)["$id"].startswith("urn:mss:")

    def test_each_schema_has_its_own_id(self) -> None:
        ids = [load(name)["$id"] for name in names()]
        assert len(ids) == len(set(ids))

    def test_an_unknown_name_gets_a_hint(self) -> None:
        with pytest.raises(LookupError, match="no schema 'polcy'; did you mean 'policy'"):
            load("polcy")
        with pytest.raises(LookupError, match="there are: policy, mss"):
            load("../../pyproject")

    @pytest.mark.parametrize("name", ["policy", "mss", "envelope"])
    def test_every_property_and_pattern_is_described(self, name: str) -> None:
        root = load(name)
        for pointer, schema in subschemas(root, ""):
            for key, inside in schema.get("properties", {}).items():
                target = inside
                while "description" not in target:
                    assert "$ref" in target, f"{pointer}/properties/{key} has no description"
                    target = schema_validation.dereference(root, target)
                assert target["description"].endswith("."), f"{pointer}/properties/{key}"
            if "pattern" in schema:
                assert EXPECTS in schema, f"{pointer} has a pattern and does not say what it expects"

    @pytest.mark.parametrize("name", ["policy", "mss"])
    def test_defaults_and_examples_are_valid(self, name: str) -> None:
        root = load(name)
        checked = 0
        for pointer, schema in subschemas(root, ""):
            for value in [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]:
                assert errors_in(value, {**schema, "$defs": root["$defs"]}) == [], pointer
                checked += 1
        assert checked > 10

    @pytest.mark.parametrize("name", [name for name in names() if name.startswith("events/")])
    def test_event_schemas_allow_further_fields_and_mark_roles(self, name: str) -> None:
        schema = load(name)
        assert all("description" in spec for spec in schema["properties"].values())
        if name.startswith("events/notice/mss."):  # of MSS's own making: closed, and about nobody
            assert schema["additionalProperties"] is False
            return
        assert schema["additionalProperties"] is True
        assert schema["required"] == ["userid"]
        roles = [spec["x-mss-role"] for spec in schema["properties"].values() if "x-mss-role" in spec]
        assert len(roles) == len(set(roles))
        assert {"user", "email", "locale"} <= set(roles)

    def test_events_of_the_applications_are_valid(self) -> None:
        added = {
            "newemail": "n@b.c",
            "userid": "u",
            "httpurl": "https://x",
            "locale": "zh-CN",
            "mailto": None,
        }
        assert errors_in(added | {"subject": "s", "more": 1}, load("events/audit/accountaddemail")) == []
        assert errors_in(added | {"mailto": ["a@b.c"]}, load("events/notice/accountaddemail")) == []
        login = {"userid": "u", "risk": {"score": 91}, "device": {"trusted": False}, "mailto": "a@b.c"}
        assert errors_in(login, load("events/notice/login.abnormal")) == []
        (finding,) = errors_in(login | {"risk": {"score": "91"}}, load("events/notice/login.abnormal"))
        assert finding.path == ("risk", "score")
        assert load("events/notice/login.abnormal")["properties"]["href"]["x-mss-sensitive"] is True
        assert "x-mss-sensitive" not in load("events/audit/accountaddemail")["properties"]["httpurl"]

    def test_the_channel_types_match_the_registry(self) -> None:
        defs = load("policy")["$defs"]
        assert defs["channel_type"]["enum"] == list(TYPES)
        branches = {
            b["if"]["properties"]["type"]["const"]: b["then"]["$ref"] for b in defs["channel"]["allOf"]
        }
        assert branches == {name: f"#/$defs/channel_{name}" for name in TYPES}
        common = {"type", "address", "timeout", "concurrency", "retry"}
        for name in TYPES:
            assert defs[f"channel_{name}"]["additionalProperties"] is False
            assert common <= set(defs[f"channel_{name}"]["properties"])


def subschemas(schema: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield pointer, schema
        for keyword in (
            "items",
            "additionalProperties",
            "propertyNames",
            "then",
        ):  # an if is no property's home
            yield from subschemas(schema.get(keyword), f"{pointer}/{keyword}")
        for keyword in ("properties", "$defs"):
            for key, inside in schema.get(keyword, {}).items():
                yield from subschemas(inside, f"{pointer}/{keyword}/{key}")
        for keyword in ("anyOf", "allOf"):
            for index, inside in enumerate(schema.get(keyword, [])):
                yield from subschemas(inside, f"{pointer}/{keyword}/{index}")


class TestValidDocuments:
    def test_a_complete_policy_is_valid(self) -> None:
        document = read(POLICY, "a.yaml")
        assert document.problems == ()
        assert check(document, "policy") == []
        assert list(Draft202012Validator(load("policy")).iter_errors(document.data)) == []

    def test_complete_settings_are_valid(self) -> None:
        assert found(SETTINGS, "mss") == []
        assert found("metrics: false\nservers: localhost:4222", "mss") == []

    @pytest.mark.parametrize("name", ["policy", "mss"])
    def test_an_empty_file_is_valid(self, name: str) -> None:
        assert found("# nothing yet\n", name) == []

    def test_envelopes_of_the_clients_are_valid(self) -> None:
        request = '{"version": "0.1.1", "time": 1, "reqid": "a", "payload": {}}'
        reply = '{"version": "0.1.1", "time": 1, "reqid": "a", "code": 0, "message": "ok", "payload": null}'
        assert found(request, "envelope") == found(reply, "envelope") == []
        assert found('{"version": "0.1.1", "time": 1}', "envelope") == [
            ("1:1", "missing-key", "the key 'reqid' is missing", "")
        ]
        assert [code for _, code, _, _ in found(request.replace("0.1.1", "v0.1"), "envelope")] == [
            "bad-format"
        ]


ALLOWED = "id, description, event, when, notify, to, template, vars, enabled, priority, stop, budget, …"


class TestCodes:
    def test_an_unknown_key_lists_the_allowed_ones(self) -> None:
        assert found("rules: []\nchanels: {}\nxyzzy: 1") == [
            (
                "2:1",
                "unknown-key",
                "unknown key 'chanels'; allowed: defaults, channels, people, time_intervals, actions, rules, tests",
                "did you mean 'channels'?",
            ),
            (
                "3:1",
                "unknown-key",
                "unknown key 'xyzzy'; allowed: defaults, channels, people, time_intervals, actions, rules, tests",
                "",
            ),
        ]

    def test_a_misspelled_key_is_one_mistake(self) -> None:
        assert found("rules:\n  - id: x\n    evnt: notice.x\n    Notify: [email]") == [
            ("3:5", "unknown-key", f"unknown key 'evnt'; allowed: {ALLOWED}", "did you mean 'event'?"),
            ("4:5", "unknown-key", f"unknown key 'Notify'; allowed: {ALLOWED}", "did you mean 'notify'?"),
        ]

    def test_a_long_list_of_allowed_keys_is_cut(self) -> None:
        ((_, _, message, _),) = found("channels:\n  m: {type: email, from: a@b.c, mtas: [{host: h}], zzz: 1}")
        assert message.endswith(", mtas")
        schema = {"properties": {f"k{i:02}": {} for i in range(30)}, "additionalProperties": False}
        (finding,) = errors_in({"zzz": 1}, schema)
        assert finding.message.endswith("k11, …")

    def test_a_missing_key_is_named(self) -> None:
        assert found("rules:\n  - description: x") == [
            ("2:5", "missing-key", "the key 'id' is missing", ""),
            ("2:5", "missing-key", "the key 'event' is missing", ""),
            ("2:5", "missing-key", "the key 'notify' is missing", ""),
        ]
        assert found("tls:\n  cert: x", "mss") == [
            ("2:3", "missing-key", "the key 'key' is missing; 'cert' needs it", "")
        ]

    @pytest.mark.parametrize(
        ("text", "message", "hint"),
        [
            ("rules: {a: b}", "expected a list, found a mapping", "write it as a list: start it with '- '"),
            ("rules:", "expected a list, found nothing", "give it a value, or remove the key"),
            (rule(event="5"), "expected a string or a list, found the number 5", ""),
            (rule(notify="email"), "expected a list, found 'email'", "write [email]"),
            (rule(notify="[5]"), "expected a string or a mapping, found the number 5", ""),
            (rule(to="[a]"), "expected a string or a mapping, found a list", ""),
            (rule(priority="high"), "expected a whole number, found 'high'", ""),
            (rule(priority="1.0"), "expected a whole number, found the number 1.0", ""),
            (rule(priority="true"), "expected a whole number, found true", ""),
            (rule(stop="yes"), "expected true or false, found 'yes'", ""),
            (
                rule(description="5"),
                "expected a string, found the number 5",
                "put it in quotes if text is meant",
            ),
            (rule(description="true"), "expected a string, found true", "put it in quotes if text is meant"),
            (rule(when="{a: {gte: '5'}}"), "expected a number, found '5'", ""),
            (
                rule(when="{a: {prefix: 5}}"),
                "expected a string or a list, found the number 5",
                "put it in quotes if text is meant",
            ),
            (
                rule(when="{a: [[1]]}"),
                "expected a string, a number, true or false, null or a mapping, found a list",
                "",
            ),
            (rule(when="{not: [{a: 1}]}"), "expected a mapping, found a list", ""),
            (
                "channels: {a: {type: console, timeout: 5}}",
                "expected a duration such as 30s, 5m, 1h, found the number 5",
                "",
            ),
            (
                "people: {a: {phone: +8613800000000}}",
                "expected a string or a list, found the number 8613800000000",
                "put it in quotes if text is meant",
            ),
            ("- a", "expected a mapping, found a list", ""),
            ("null", "expected a mapping, found nothing", "give it a value, or remove the key"),
        ],
    )
    def test_a_wrong_type_says_what_was_expected_and_found(self, text: str, message: str, hint: str) -> None:
        assert [problem[1:] for problem in found(text)] == [("wrong-type", message, hint)]

    @pytest.mark.parametrize(
        ("text", "message", "hint"),
        [
            (
                rule(severity="hgh"),
                "expected one of none, low, medium, high, found 'hgh'",
                "did you mean 'high'?",
            ),
            (
                rule(enabled="shadwo"),
                "expected one of true, false, shadow, found 'shadwo'",
                "did you mean 'shadow'?",
            ),
            (rule(enabled="1"), "expected one of true, false, shadow, found the number 1", ""),
            (
                "channels: {a: {type: emial}}",
                "expected one of email, apprise, webhook, nats, console, found 'emial'",
                "did you mean 'email'?",
            ),
        ],
    )
    def test_a_value_outside_a_list_names_the_list(self, text: str, message: str, hint: str) -> None:
        ((_, code, said, hinted),) = found(text)
        assert (code, said, hinted) == ("not-allowed", message, hint)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (rule(id="A b"), "a name of at most 64"),
            (rule(id='"x\\n"'), "a name of at most 64"),
            (rule(event="notices.x"), "KIND.KEY such as notice.login.abnormal"),
            (rule(event="notice"), "KIND.KEY"),
            (rule(event="notice.>.x"), "KIND.KEY"),
            (rule(event="[notice.x, notice..y]"), "KIND.KEY"),
            (rule(notify="[E-Mail]"), "a channel name"),
            (rule(to="{user: '{{ payload.userid }}'}"), "a path into the payload"),
            (rule(to="{User: x}"), "a kind of address"),
            ("people: {a: {email: nobody}}", "a mail address"),
            ("people: {A: {email: a@b.c}}", "a name of at most 64"),
            ("channels: {a: {type: console, timeout: 5 s}}", "a duration such as 30s, 5m, 1h"),
            ("channels: {a: {type: webhook, url: crm}}", "a web address"),
            ("channels: {a: {type: nats, subject: a.*}}", "a NATS subject"),
            ("channels: {a: {type: apprise, url: slack}}", "an Apprise URL"),
            (
                'channels: {a: {type: webhook, url: "http://x", headers: {"a b": c}}}',
                "the name of an HTTP header",
            ),
            (
                'channels: {a: {type: webhook, url: "http://x", headers: {a: "b\\r\\nc: d"}}}',
                "text on one line",
            ),
            ("channels: {a: {type: email, from: me, mtas: [{host: h}]}}", "a mail address such as"),
            (
                "channels: {a: {type: email, from: a@b.c, mtas: [{host: h, port: smtp}]}}",
                "a port from 1 to 65535",
            ),
            ("defaults: {locale: no way}", "a language tag"),
            (
                "tests: [{name: x, given: {event: log}, expect: {rules: []}, at: 2026-03-02}]",
                "a time with its offset",
            ),
            ("tests: [{name: x, given: {event: notice.*}, expect: {rules: []}}]", "KIND.KEY of one event"),
        ],
    )
    def test_text_in_the_wrong_format_says_what_was_expected(self, text: str, words: str) -> None:
        ((_, code, message, _),) = found(text)
        assert code == "bad-format"
        assert message.startswith(f"expected {words}")
        assert not re.search(r"\^|\\|\$\)|\[0-9|\[a-z", message)

    @pytest.mark.parametrize(
        ("text", "schema", "message"),
        [
            ("replicas: 9", "mss", "expected 1 to 5, found the number 9"),
            (
                "channels: {a: {type: console, concurrency: 0}}",
                "policy",
                "expected 1 to 1000, found the number 0",
            ),
            (
                "channels: {a: {type: email, from: a@b.c, mtas: [{host: h, port: 70000}]}}",
                "policy",
                "expected 1 to 65535, found the number 70000",
            ),
        ],
    )
    def test_a_value_out_of_range_names_the_limits(self, text: str, schema: str, message: str) -> None:
        ((_, code, said, _),) = found(text, schema)
        assert (code, said) == ("out-of-range", message)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (rule(notify="[]"), "an empty list; expected at least 1 value"),
            (rule(event="[]"), "an empty list; expected at least 1 value"),
            (rule(when="{a: []}"), "an empty list; expected at least 1 value"),
            (rule(when="{a: {}}"), "an empty mapping; expected at least 1 key"),
            ("people: {a: {}}", "an empty mapping; expected at least 1 key"),
            (
                "channels: {a: {type: email, from: a@b.c, mtas: []}}",
                "an empty list; expected at least 1 value",
            ),
            ("people: {a: {matrix: ''}}", "an empty string; expected at least 1 character"),
        ],
    )
    def test_an_empty_value_is_refused(self, text: str, message: str) -> None:
        ((_, code, said, _),) = found(text)
        assert (code, said) == ("empty", message)

    def test_of_alternatives_the_one_with_the_type_of_the_value_is_reported(self) -> None:
        assert found(rule(when="{a: {gtee: 5}}"))[0][1:] == (
            "unknown-key",
            "unknown key 'gtee'; allowed: equals, any_of, gt, gte, lt, lte, prefix, suffix, contains, wildcard, regex, cidr, …",
            "did you mean 'gte'?",
        )
        assert [code for _, code, _, _ in found(rule(when="{any: [{a: [1, {not: {x: 1}}]}]}"))] == [
            "unknown-key"
        ]
        assert found(rule(notify="[email, {chanel: a}]"))[0][3] == "did you mean 'channel'?"
        for value in ("true", "5", "[]"):
            ((_, code, message, _),) = found(f"metrics: {value}", "mss")
            assert code == "wrong-type"
            assert message.startswith("expected false, or a mapping such as {listen: 127.0.0.1:9180}, found")
        assert [(code, place) for place, code, _, _ in found("metrics: {lisen: x}", "mss")] == [
            ("unknown-key", "1:11")
        ]


class TestPlaces:
    def test_a_problem_is_at_its_key_or_value(self) -> None:
        text = "channels:\n  Mail:\n    type: console\n  b:\n    type: console\n    timeout: 5\n    foo: 1\n"
        assert [place for place, *_ in found(text)] == ["2:3", "6:14", "7:5"]

    def test_a_problem_has_a_json_pointer(self) -> None:
        problems = check(read("channels:\n  a/b: {type: console}\nrules: [{}, 5]", "a.yaml"), "policy")
        assert {p.pointer for p in problems} == {"/channels/a~1b", "/rules/0", "/rules/1"}

    def test_each_problem_is_reported_once(self) -> None:
        text = "rules:\n- &r {id: A, event: notice.x, notify: [email]}\n- *r\n- *r\n"
        assert [place for place, *_ in found(text)] == ["2:11"]

    def test_a_problem_of_the_yaml_is_not_repeated(self) -> None:
        assert found(rule(priority=".nan")) == []
        assert found(rule(when="*nothing")) == []

    def test_a_file_that_cannot_be_read_has_no_missing_keys(self) -> None:
        assert found("a: [", "envelope") == []

    def test_a_value_too_deep_for_the_library_is_a_problem(self) -> None:
        text = rule(when="{a: " + "{not: " * 90 + "{gtt: 1}" + "}" * 90 + "}")
        document = read(text, "a.yaml")
        assert document.problems == ()

        def called_from(depth: int) -> list[str]:
            return called_from(depth - 1) if depth else [p.code for p in check(document, "policy")]

        assert called_from(600) == ["too-deep"]


class TestErrors:
    def test_keywords_that_only_other_schemas_use_are_described(self) -> None:
        schema = {
            "properties": {
                "a": {"multipleOf": 2, "description": "an even number"},
                "c": {"not": {}},
                "d": {"oneOf": [{"type": "string"}, {"minLength": 1}]},
                "e": {"maxItems": 1},
                "f": {"exclusiveMinimum": 5},
                "g": {"const": 5},
            },
            "patternProperties": {"^x-": {}},
            "additionalProperties": False,
        }
        value = {"a": 3, "c": 1, "d": "x", "e": [1, 2], "f": 5, "g": 6, "x-1": 1, "y": 1}
        assert {finding.path[0]: (finding.code, finding.message) for finding in errors_in(value, schema)} == {
            "a": ("bad-value", "expected an even number, found the number 3"),
            "c": ("bad-value", "the number 1 does not satisfy the schema's 'not'"),
            "d": ("bad-value", "'x' does not satisfy the schema's 'oneOf'"),
            "e": ("out-of-range", "expected at most 1 values, found 2"),
            "f": ("out-of-range", "expected more than 5, found the number 5"),
            "g": ("bad-value", "expected 5, found the number 6"),
            "y": ("unknown-key", "unknown key 'y'; allowed: a, c, d, e, f, g"),
        }

    def test_a_false_schema_allows_nothing(self) -> None:
        assert [f.message for f in errors_in(1, False)] == ["no value is allowed here"]
        assert errors_in(1, True) == []

    def test_a_float_is_never_a_whole_number(self) -> None:
        assert [f.code for f in errors_in(1.0, {"type": "integer"})] == ["wrong-type"]

    def test_nothing_is_fetched(self) -> None:
        (finding,) = check_schema({"$ref": "http://127.0.0.1:1/x.json"})
        assert finding.code == "bad-schema"
        (finding,) = check_schema({"$ref": "#/nowhere"})
        assert finding.code == "bad-schema"

    def test_long_values_are_cut(self) -> None:
        (finding,) = errors_in("x\n" * 500, {"type": "number"})
        assert len(finding.message) < 120
        assert "\n" not in finding.message

    def test_an_invalid_schema_is_refused(self) -> None:
        assert check_schema({"type": "string"}) == check_schema(True) == []
        assert [f.path for f in check_schema({"type": "strin", "pattern": "("})] == [("type",), ("pattern",)]
        assert [f.code for f in check_schema(5)] == ["wrong-type"]

    def test_diagnostics_are_compared_by_value(self) -> None:
        assert Diagnostic(path=("a",), code="x", message="m") == Diagnostic(
            path=("a",), code="x", message="m"
        )


def paths_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(inside, (*path, key))


WHOLE = {"policy": read(POLICY, "a.yaml").data, "mss": read(SETTINGS, "a.yaml").data}
odd_scalars = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    -5,
    70000,
    "",
    "x",
    "A b",
    "5s",
    "x\n",
    "notice.x",
    "${X}",
    "notice.\x85",
]
AMBIGUOUS = re.compile(r"\d\.0\b|\\u0085")  # in JSON: a float without a fraction, a line end of YAML 1.1
odd_lists = [[], [1], ["x"], [["x"]], [{}]]
odd_mappings = [{}, {"a": 1}, {"not": {}}, {"gte": "x"}, {"type": "email"}, {"channel": "x"}]
odd_values = st.sampled_from([*odd_scalars, *odd_lists, *odd_mappings]).map(copy.deepcopy)


@pytest.mark.parametrize("name", ["policy", "mss"])
@settings(max_examples=settings.default.max_examples // 2)  # the library is slow
@given(draw=st.data())
def test_the_fast_check_agrees_with_the_library(name: str, draw: st.DataObject) -> None:
    data = copy.deepcopy(WHOLE[name])
    for _ in range(draw.draw(st.integers(1, 3))):
        path = draw.draw(st.sampled_from(list(paths_in(data))))
        parent = data
        for step in path[:-1]:
            parent = parent[step]
        action = draw.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            parent[path[-1]] = draw.draw(odd_values)
        elif action == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[draw.draw(st.sampled_from(["foo", "A b", "when", "type", "user", "any"]))] = draw.draw(
                odd_values
            )
    expected = schema_validation.STRICT(load(name)).is_valid(data)
    fits = schema_validation.predicate(load(name))(data)
    assert fits is expected or (expected and AMBIGUOUS.search(json.dumps(data)))
    # JSON is YAML. Each violation becomes a problem with a place and a readable message.
    problems = check(read(json.dumps(data), "a.yaml"), name)
    assert (problems == []) is expected
    for problem in problems:
        assert "any of the given schemas" not in problem.message
        assert "does not satisfy" not in problem.message
        assert problem.place.line == 1


@pytest.mark.parametrize("target", ["rule", "channel", "person", "test", "block", "duration"])
def test_a_usual_value_goes_through_the_fast_check_only(target: str) -> None:
    example = {
        "rule": WHOLE["policy"]["rules"][0],
        "channel": WHOLE["policy"]["channels"]["email"],
        "person": WHOLE["policy"]["people"]["secops"],
        "test": WHOLE["policy"]["tests"][0],
        "block": WHOLE["policy"]["rules"][0]["when"],
        "duration": "5s",
    }[target]
    definitions = load("policy")["$defs"]
    assert schema_validation.predicate({"$ref": f"#/$defs/{target}", "$defs": definitions})(example)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1.0),
        ({"items": {"type": "integer"}}, [1, 1.0]),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1.0}),
        ({"pattern": r"^\S+$"}, "a\x85b"),
        ({"pattern": r"^\S+$"}, "a\x1cb"),
        ({"propertyNames": {"pattern": r"^\S+$"}}, {"a\x85b": 1}),
        ({"type": "string"}, "\ud800"),
    ],
)
def test_the_fast_check_leaves_what_is_ambiguous_to_the_library(schema: Any, value: Any) -> None:
    assert not schema_validation.predicate(schema)(value)


def test_ten_thousand_rules_are_checked_quickly() -> None:
    text = "rules:\n" + "".join(
        f"  - {{id: rule-{i}, event: notice.k{i}, when: {{a.b: {{gte: 7}}, c: [C, H]}}, notify: [email]}}\n"
        for i in range(10_000)
    )
    document = read(text + "  - {id: A, event: log, notify: [email]}\n", "a.yaml")
    started = time.monotonic()
    assert [p.place.line for p in check(document, "policy")] == [10_002]
    assert time.monotonic() - started < 4
