"""A replay compares the deliveries of two policies, and renders only those whose inputs differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from support.policy_builders import CHANNELS, RECEIVED, event, write

from engine.history.replay import replay as module
from engine.history.replay.diff import ReplaySide
from engine.history.replay.replay import DeliveryChange, Replay
from engine.model.messages import Delivery, Event
from engine.planning.limits.state import StateSteps, StateUpdate
from engine.planning.planner import plan, render_plan
from engine.planning.recipients import Choices, ChoicesOf, no_preferences
from engine.planning.simulation import SimulatedState
from engine.policy.loader import load_files, read_folder
from engine.rules.index.rule_index import RuleIndex
from engine.rules.rulebook import Dedupe, Limits
from engine.templates.compiler import template_prints

RULE = "rules: [{id: r, event: notice.login.abnormal, notify: [email], template: t, when: {result: success}}]"
SITE = "---\nsubject: Hello\n---\n{{ site.name }}\n"
MORNING = "\ntime_intervals: {morning: {times: ['07:00-12:00']}}"
ALWAYS = "\ntime_intervals: {always: [{months: [january]}]}"
USUAL = {
    "channels.yaml": CHANNELS,
    "rules.yaml": RULE,
    "templates/t/email.txt": "---\nsubject: Hello\n---\nFrom {{ payload.ip }}\nBye\n",
    "templates/t/default.txt": "From {{ payload.ip }}",
    "templates/other/default.txt": "Other",
}
PAYLOAD = {"userid": "u1", "mailto": "a@example.com", "phone": "+8613800000000", "ip": "203.0.113.9",
           "result": "success", "city": "Köln"}  # fmt: skip


def side(folder: Path, name: str, changes: Mapping[str, str]) -> ReplaySide:
    files = read_folder(write(folder / name, {**USUAL, **changes}))
    return ReplaySide(
        rulebook=load_files(files, environment={}).require(), prints=template_prints(files.contents)
    )


def compared(
    folder: Path, changes: Mapping[str, str], *payloads: Mapping[str, Any], samples: int = 3
) -> Replay:
    replay = Replay(side(folder, "live", {}), side(folder, "new", changes), samples=samples)
    for number, payload in enumerate(payloads or (PAYLOAD,)):
        replay.add(event(payload, reqid=f"{number:032x}"))
    return replay


def counts(replay: Replay) -> dict[str, int]:
    total = sum(replay.tallies.values(), start=type(replay.events)())
    return {str(verdict): count for verdict, count in total.items() if count}


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every notification that was rendered."""
    seen: list[Any] = []

    def note(drafted: Any) -> Any:
        seen.extend(drafted.notifications)
        return render_plan(drafted)

    monkeypatch.setattr(module, "render_plan", note)
    return seen


def test_equal_policies_have_no_difference_and_nothing_is_rendered(
    tmp_path: Path, rendered: list[Any]
) -> None:
    replay = compared(
        tmp_path, {}, PAYLOAD, {**PAYLOAD, "result": "failure"}, {**PAYLOAD, "mailto": "b@example.com"}
    )
    assert counts(replay) == {"same": 2} and replay.samples == {} and rendered == []
    assert (replay.live_deliveries, replay.new_deliveries, replay.events) == (2, 2, {"notice": 3})


@pytest.mark.parametrize(
    ("changes", "expected", "writes"),
    [
        ({"rules.yaml": RULE.replace("[email]", "[email, sms]")}, {"same": 1, "appears": 1}, True),
        ({"rules.yaml": RULE.replace("{result: success}", "{result: failure}")}, {"vanishes": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: r, enabled: shadow")}, {"vanishes": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: s")}, {"vanishes": 1, "appears": 1}, True),
        ({"rules.yaml": RULE.replace("[email]", "[sms]")}, {"vanishes": 1, "appears": 1}, True),
        ({"rules.yaml": RULE.replace("when:", "to: {email: username}, when:")}, {"changes": 1}, True),
        ({"templates/t/email.txt": "---\nsubject: Hello\n---\nFrom afar\nBye\n"}, {"changes": 1}, True),
        ({"templates/t/email.txt": "---\nsubject: Hi\n---\nFrom {{ payload.ip }}\nBye\n"}, {"changes": 1}, True),
        ({"templates/t/email.txt": "---\nsubject: Hello\n---\nFrom {{ payload.city }}\nBye\n"}, {"changes": 1}, True),
        ({"templates/t/email.txt": "---\nsubject: Hello\n---\nFrom {{ payload['ip'] }}\nBye\n"}, {"same": 1}, True),
        ({"templates/t/email.txt": "---\nsubject: Hello\n---\n{{ payload.city }}{{ payload.country }}\n"},
         {"unwritable": 1}, True),
        ({"templates/other/default.txt": "Changed"}, {"same": 1}, False),
        ({"rules.yaml": RULE.replace("id: r", "id: r, severity: high")}, {"changes": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: r, vars: {x: 1}")}, {"same": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: r, mute_time_intervals: [always]") + ALWAYS}, {"changes": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: r, mute_time_intervals: [always], on_muted: drop") + ALWAYS},
         {"vanishes": 1}, True),
        ({"rules.yaml": RULE.replace("id: r", "id: r, priority: 7")}, {"same": 1}, False),
        ({"rules.yaml": RULE.replace("{result: success}", "{result: success, ip: {exists: true}}")}, {"same": 1}, False),
    ],
    ids=["channel added", "condition", "shadow", "renamed", "other channel", "other address", "text", "subject",
         "field", "same text", "unwritable", "other template", "severity", "vars", "waits", "muted", "priority", "narrower"],
)  # fmt: skip
def test_each_change_of_a_policy_has_its_effect_on_deliveries(
    tmp_path: Path, rendered: list[Any], changes: dict[str, str], expected: dict[str, int], writes: bool
) -> None:
    replay = compared(tmp_path, changes, {**PAYLOAD, "username": "b@example.com"})
    assert counts(replay) == expected
    assert bool(rendered) is writes


_NEIGHBOURS = 3  # of a variant; those that differ in one thing stand together
VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"rules.yaml": RULE.replace("[email]", "[email, {channel: sms, when: {city: Köln}}, terminal]")},
    {"rules.yaml": RULE.replace("[email]", "[{channel: sms, when: {city: Rome}}, email]")},
    {"rules.yaml": RULE.replace("id: r", "id: r, mute_time_intervals: [always]") + ALWAYS},
    {"rules.yaml": RULE.replace("id: r", "id: r, description: New, vars: {x: 1}")},
    {"rules.yaml": RULE.replace("when: {result: success}", "when: {result: [success, failure]}, severity: low")},
    {"rules.yaml": RULE.replace("when:", "to: {email: mailto, user: city}, when:")},
    {"rules.yaml": RULE.replace("when:", "to: boss, when:") + "\npeople: {boss: {email: boss@example.com}}"},
    {"rules.yaml": RULE.replace("when:", "to: boss, when:") + "\npeople: {boss: {email: b@example.com, locale: zh}}"},
    {"rules.yaml": RULE + "\ndefaults: {site: {name: Acme}}"},
    {"rules.yaml": RULE, "templates/t/zh/email.txt": "---\nsubject: 你好\n---\n{{ payload.ip }}"},
    {"rules.yaml": RULE + "\ndefaults: {locale: zh}", "templates/t/zh/email.txt": "---\nsubject: 你好\n---\n{{ payload.ip }}"},
    {"templates/t/email.txt": "---\nsubject: Hello\n---\n{{ payload.city }}\nBye\n"},
    {"rules.yaml": RULE + "\ndefaults: {site: {name: Acme}}", "templates/t/email.txt": SITE},
    {"rules.yaml": RULE + "\ndefaults: {site: {name: Other}}", "templates/t/email.txt": SITE},
    {"rules.yaml": RULE.replace("[email]", "[{first_of: [email, sms]}]")},
    {"rules.yaml": RULE.replace("[email]", "[{first_of: [email, sms], within: 5m}]")},
    {"rules.yaml": RULE.replace("[email]", "[{first_of: [{channel: email, when: {city: Rome}}, sms]}]")},
    {"rules.yaml": RULE.replace("[email]", "[{first_of: [sms, email]}]"), "templates/t/sms.txt": "{{ payload.city }}"},
    {"rules.yaml": RULE.replace("id: r", "id: r, mute_time_intervals: [morning]") + MORNING},
    {"rules.yaml": RULE.replace("id: r", "id: r, mute_time_intervals: [morning]") + MORNING
     + "\ndefaults: {time_zone: Asia/Tokyo}"},
    {"events/notice/login.abnormal.schema.json": json.dumps({"properties": {
        "userid": {}, "phone": {}, "ip": {}, "result": {}, "locale": {"x-mss-role": "locale"},
        "mailto": {"x-mss-role": "email"}, "city": {"x-mss-role": "user"}}})},
    {"templates/t/email.txt": "---\nsubject: Hello\n---\nFrom {{ payload.ip }}\nBye\n",
     "templates/t/default.txt": "{{ recipient.user }}"},
)  # fmt: skip


def test_counts_equal_a_comparison_of_all_rendered_deliveries(tmp_path: Path) -> None:
    """A replay skips what must be equal. Its counts must be those of a full comparison, for similar policies."""
    sides = [side(tmp_path, str(number), variant) for number, variant in enumerate(VARIANTS)]
    payloads = [
        {**PAYLOAD, "userid": f"u{number}", **more}
        for number, more in enumerate(
            [{}, {"city": "203.0.113.9"}, {"result": "failure"}, {"mailto": ["a@example.com", "b@example.com"]},
             {"mailto": "no address"}, {"city": "From 203.0.113.9"}, {"city": "Rome", "locale": "zh"}, {"city": 1}]
        )
    ]  # fmt: skip
    events = [event(payload, reqid=f"{number:032x}") for number, payload in enumerate(payloads)]
    planned = [[_in_full(each, one) for one in events] for each in sides]
    seen: set[str] = set()
    everything = list(enumerate(zip(sides, planned, strict=True)))
    for (a, (live, plans_before)), (b, (new, plans_after)) in product(everything, repeat=2):
        if abs(a - b) <= _NEIGHBOURS or 0 in (a, b):
            replay = Replay(live, new, samples=0)
            expected: Counter[str] = Counter()
            for one, before, after in zip(events, plans_before, plans_after, strict=True):
                replay.add(one)
                expected += _plainly(dict(before), dict(after))
            assert counts(replay) == expected, (live.rulebook.rules, new.rulebook.rules)
            assert (replay.live_deliveries, replay.new_deliveries) == (
                sum(map(len, plans_before)),
                sum(map(len, plans_after)),
            )
            seen |= expected.keys()
    assert seen == {"same", "changes", "appears", "vanishes"}


def _in_full(side: ReplaySide, one: Event) -> dict[str, Delivery]:
    def nameless(each: Delivery) -> Delivery:
        return structs.replace(each, revision="", fallbacks=tuple(map(nameless, each.fallbacks)))

    return {each.id: nameless(each) for each in plan(side.rulebook, one).deliveries}


def _plainly(before: dict[str, Delivery], after: dict[str, Delivery]) -> Counter[str]:
    """Count the changes by comparing all deliveries."""
    found: Counter[str] = Counter()
    for id_ in before.keys() & after.keys():
        found["same" if before.pop(id_) == after.pop(id_) else "changes"] += 1
    for id_, mine in list(before.items()):
        others = [key for key, its in after.items() if (its.rule, its.channel) == (mine.rule, mine.channel)]
        if others:  # to another address
            found["changes"] += 1
            del before[id_], after[others[0]]
    return found + Counter(vanishes=len(before), appears=len(after))


def test_samples_show_the_difference_and_its_reason(tmp_path: Path) -> None:
    text = "---\nsubject: Hello\n---\nFrom {{ payload.city }}\nBye\n"
    replay = compared(tmp_path, {"templates/t/email.txt": text}, *[PAYLOAD] * 5, samples=2)
    (samples,) = replay.samples.values()
    assert len(samples) == 2 and replay.tallies["r", "email"] == {DeliveryChange.CHANGES: 5}
    (field,) = samples[0].fields
    assert (field.name, field.live, field.new) == ("text", "From 203.0.113.9", "From Köln")
    assert samples[0].event == "notice.login.abnormal" and samples[0].reqid == "0" * 32
    for change, why in (
        ({"rules.yaml": RULE.replace("id: r", "id: r, enabled: shadow")}, "shadow"),
        ({"rules.yaml": RULE.replace("id: r", "id: r, enabled: false")}, "the rule does not exist, or it is disabled"),
        ({"rules.yaml": RULE.replace("success", "failure")}, "it does not match"),
        ({"rules.yaml": RULE.replace("[email]", "[{first_of: [sms, email]}]")}, "it is a fallback for sms"),
        ({"rules.yaml": RULE.replace("[email]", "[{channel: email, when: {city: Rome}}]")}, "condition"),
        ({"rules.yaml": RULE.replace("when:", "to: {email: country}, when:")},
         "no_address: the recipient has no email"),
        ({"rules.yaml": RULE.replace("rules: [", "rules: [{id: first, event: notice.>, notify: [sms], template: t, stop: true}, ")},
         "rule first stops before it, or it does not match"),
    ):  # fmt: skip
        replay = compared(tmp_path / why[:9].strip(), change)
        (vanished,) = replay.samples["r", "email", DeliveryChange.VANISHES]
        assert vanished.why == why and vanished.fields[0].live == "a@example.com"


def test_a_repeat_within_two_minutes_counts_once(tmp_path: Path) -> None:
    replay = Replay(side(tmp_path, "live", {}), side(tmp_path, "new", {}))
    one = event(PAYLOAD)
    for later in (0, 1_000_000, 119_000_000, 121_000_000):
        replay.add(structs.replace(one, received=one.received + later))
    assert counts(replay) == {"same": 2} and replay.live_deliveries == 2


def test_a_repeat_of_one_rule_does_not_hide_a_delivery_of_another(tmp_path: Path) -> None:
    more = (
        RULE[:-1]
        + ", {id: rome, event: notice.login.abnormal, when: {city: Rome}, notify: [sms], template: t}]"
    )
    replay = Replay(side(tmp_path, "live", {}), side(tmp_path, "new", {"rules.yaml": more}))
    first = event({**PAYLOAD, "city": "Oslo"})
    replay.add(first)
    replay.add(
        structs.replace(first, received=first.received + 1_000_000, payload={**PAYLOAD, "city": "Rome"})
    )
    assert counts(replay) == {"same": 1, "appears": 1}


def test_limits_apply_on_the_clock_of_the_events(tmp_path: Path) -> None:
    dedupe = Dedupe(key=(("userid",),), window=600.0)
    live = side(tmp_path, "live", {})
    narrow = side(tmp_path, "new", {"rules.yaml": RULE.replace("{result: success}", "{city: Köln}")})

    def counted(live: ReplaySide, new: ReplaySide) -> dict[str, int]:
        replay = Replay(live, new)
        for number, (city, minutes) in enumerate(
            [("Oslo", 0), ("Köln", 1), ("Köln", 2), ("Köln", 10), ("Köln", 12)]
        ):
            one = event({**PAYLOAD, "city": city}, reqid=f"{number:032x}")
            replay.add(structs.replace(one, received=one.received + minutes * 60_000_000))
        return counts(replay)

    # Live: the 1st and the 4th. New: the 2nd and the 5th.
    assert counted(limited(live, dedupe), limited(live, dedupe)) == {"same": 2}
    assert counted(limited(live, dedupe), live) == {"same": 2, "appears": 3}
    assert counted(live, limited(live, dedupe)) == {"same": 2, "vanishes": 3}
    assert counted(limited(live, dedupe), limited(narrow, dedupe)) == {"vanishes": 2, "appears": 2}


def limited(side: ReplaySide, dedupe: Dedupe) -> ReplaySide:
    rules = tuple(replace(rule, limits=Limits(dedupe=dedupe)) for rule in side.rulebook.rules)
    index = RuleIndex((rule.events, rule.when, rule) for rule in rules)
    return replace(side, rulebook=replace(side.rulebook, rules=rules, index=index))


WITH_DIGEST = RULE.replace("id: r", "id: r, digest: {key: userid, wait: 2m}")
ALL_CITIES = {
    "templates/t/email.txt": "---\nsubject: Hello\n---\n{{ events | map(attribute='payload.city') | join(' ') }}"
}
VISITS = [("Oslo", 0), ("Rome", 1), ("Bern", 4), ("Lima", 5), ("Bonn", 90)]  # cities and minutes


def replayed(
    live: ReplaySide, new: ReplaySide, *, minutes: int, choices_of: ChoicesOf = no_preferences
) -> Replay:
    """Replay the visits, and finish so many minutes after the first."""
    replay = Replay(live, new, choices_of=choices_of)
    for number, (city, minute) in enumerate(VISITS):
        one = event({**PAYLOAD, "city": city}, reqid=f"{number:032x}")
        replay.add(structs.replace(one, received=one.received + minute * 60_000_000))
    replay.finish(RECEIVED + minutes * 60_000_000)
    return replay


def test_digests_fall_due_on_the_clock_of_the_events(tmp_path: Path, rendered: list[Any]) -> None:
    with_digest = {"rules.yaml": WITH_DIGEST, **ALL_CITIES}
    live, equal = side(tmp_path, "live", with_digest), side(tmp_path, "equal", with_digest)
    replay = replayed(live, equal, minutes=91)  # Oslo Rome, Bern Lima; Bonn is still pending
    assert counts(replay) == {"same": 2} and rendered == []
    assert (replay.live_deliveries, replay.new_deliveries) == (2, 2)
    assert counts(replayed(live, equal, minutes=92)) == {"same": 3}

    longer = side(tmp_path, "longer", {"rules.yaml": WITH_DIGEST.replace("2m", "270s"), **ALL_CITIES})
    replay = replayed(live, longer, minutes=91)  # Oslo Rome Bern; Lima, a little later
    assert counts(replay) == {"changes": 2}
    first, last = replay.samples["r", "email", DeliveryChange.CHANGES]
    assert [(each.live, each.new) for each in first.fields] == [("Oslo Rome", "Oslo Rome Bern")]
    assert [(each.live, each.new) for each in last.fields] == [("Bern Lima", "Lima")]

    at_once = side(tmp_path, "at_once", {"rules.yaml": RULE, **ALL_CITIES})
    replay = replayed(live, at_once, minutes=100)
    assert counts(replay) == {"vanishes": 3, "appears": 5}
    assert (replay.live_deliveries, replay.new_deliveries) == (3, 5)
    assert {sample.why for samples in replay.samples.values() for sample in samples} == {
        "it sends no digest of these events", "it waits for a digest",
    }  # fmt: skip
    narrow = side(
        tmp_path,
        "narrow",
        {"rules.yaml": WITH_DIGEST.replace("{result: success}", "{city: Bonn}"), **ALL_CITIES},
    )
    assert counts(replayed(live, narrow, minutes=100)) == {"vanishes": 2, "same": 1}
    assert counts(replayed(narrow, live, minutes=100)) == {"appears": 2, "same": 1}


def test_budgets_are_counted_on_the_clock_of_the_events(tmp_path: Path) -> None:
    thrifty = {"rules.yaml": RULE.replace("id: r", "id: r, budget: 2/h"), **ALL_CITIES}
    live, equal = side(tmp_path, "live", thrifty), side(tmp_path, "equal", thrifty)
    lavish = side(tmp_path, "lavish", {"rules.yaml": RULE, **ALL_CITIES})
    assert counts(replayed(live, equal, minutes=100)) == {
        "same": 4
    }  # Oslo, Rome, at the full hour Bern and Lima, Bonn
    assert counts(replayed(live, lavish, minutes=100)) == {"same": 3, "vanishes": 1, "appears": 2}


def test_the_number_of_digests_without_a_match_is_bounded(tmp_path: Path) -> None:
    live = side(tmp_path, "live", {"rules.yaml": WITH_DIGEST, **ALL_CITIES})
    replay = Replay(live, side(tmp_path, "new", {"rules.yaml": "rules: []"}), samples=0, max_pending=10)
    for number in range(100):
        one = event({**PAYLOAD, "userid": f"u{number}"}, reqid=f"{number:032x}")
        replay.add(structs.replace(one, received=one.received + number * 1_000_000))
        assert number - 120 - 10 <= counts(replay).get("vanishes", 0) <= number
    replay.finish(RECEIVED + 150 * 1_000_000)
    assert counts(replay) == {"vanishes": 31}
    replay.finish(RECEIVED + 300 * 1_000_000)
    assert counts(replay) == {"vanishes": 100}


def test_preferences_apply_in_a_replay(tmp_path: Path) -> None:
    live = side(tmp_path, "live", {"rules.yaml": RULE.replace("id: r", "id: r, category: logins")})
    critical = RULE.replace("id: r", "id: r, category: logins, critical: true")
    new = side(tmp_path, "new", {"rules.yaml": critical})
    switched_off = {"u1": Choices(channels={"logins": []})}.get
    assert counts(replayed(live, live, minutes=100)) == {"same": 5}
    assert counts(replayed(live, live, minutes=100, choices_of=switched_off)) == {}
    replay = replayed(live, new, minutes=100, choices_of=switched_off)
    assert counts(replay) == {"appears": 5}
    assert (
        replay.samples["r", "email", DeliveryChange.APPEARS][0].why
        == "preference: u1 has switched it off for logins"
    )


def test_the_simulated_state_drops_values_that_have_expired() -> None:
    state = SimulatedState()
    seen = []

    def note(value: bytes) -> tuple[bytes, None]:
        seen.append(value)
        return b"x", None

    def row(key: str) -> StateSteps[str]:
        yield StateUpdate(key, note, ttl=1.0)
        return key

    for number in range(50_000):
        assert state.run(row(str(number)), now=number * 10_000) == str(number)
    assert len(state) < 11_000 and set(seen) == {b""}
    for now in (0, 999_999, 2_100_000):
        state.run(row("again"), now=10**12 + now)
    assert seen[-3:] == [b"", b"x", b""]


def test_secrets_are_masked_in_samples_even_if_html_escapes_them(tmp_path: Path) -> None:
    link = "https://iam.example.com/secure?token=abc&next=1"
    html = "templates/t/email.html"
    live = side(tmp_path, "live", {html: "<a href='{{ payload.href }}'>here</a>"})
    new = side(tmp_path, "new", {html: "<a class='x' href='{{ payload.href }}'>here</a>",
                                 "templates/t/email.txt": "---\nsubject: Hello\n---\nFrom {{ payload.href }}\n"})  # fmt: skip
    replay = Replay(live, new)
    replay.add(event({**PAYLOAD, "href": link}))
    (samples,) = replay.samples.values()
    assert {field.name for field in samples[0].fields} == {"text", "html"}
    assert "abc" not in str(samples) and "***" in str(samples)


def test_template_prints_change_with_included_templates() -> None:
    files = {
        "templates/a/email.txt": b"{% extends '_base.txt' %}",
        "templates/b/email.txt": b"{% include 'c/part.txt' %}",
        "templates/c/part.txt": b"part",
        "templates/d/email.txt": b"{% include 'c/' ~ payload.x %}",
        "templates/e/email.txt": b"plain",
        "templates/_l/_base.txt": b"base {% block x %}{% endblock %}",
        "rules.yaml": b"",
    }

    def changed(name: str, data: bytes = b"other") -> set[str]:
        before, after = template_prints(files), template_prints({**files, name: data})
        return {each for each in before if before[each] != after[each] and "/" not in each}

    assert changed("templates/c/part.txt") == {"b", "c", "d"}
    assert changed("templates/e/email.txt") == {"e", "d"}
    assert changed("templates/_l/logo.png") == {"a", "b", "c", "d", "e"}
    assert changed("rules.yaml") == set()
    files["templates/e/zh/email.txt"] = b"{% include 'c/part.txt' %}"
    before, after = template_prints(files), template_prints({**files, "templates/c/part.txt": b"other"})
    assert before["e"] != after["e"] and before["e/email.txt"] == after["e/email.txt"]
    assert before["e/zh/email.txt"] != after["e/zh/email.txt"]
    files["templates/a/email.txt"] = b"{% extends '_l/_base.txt' %}"
    assert changed("templates/_l/_base.txt", b"new {% block x %}{% endblock %}") == {"a", "d"}
