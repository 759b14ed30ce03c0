"""The preferences that a policy offers, and the reasons against others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.policy_builders import policy

from engine.preferences.document import check_choice, merged, parse
from engine.preferences.options import PreferenceOptions, options_of

RULES = """
people:
  ops: {email: [ops@example.com]}
rules:
  - {id: login, event: notice.login.x, category: security, critical: true, TO,
     notify: [email, {first_of: [sms, terminal]}]}
  - {id: device, event: notice.device.x, category: security, TO, notify: [email]}
  - {id: news, event: notice.news.x, category: news, TO, notify: [preferred, terminal], allow: [sms, email]}
  - {id: room, event: notice.room.x, category: rooms, template: t,
     notify: [terminal, siem, {channel: email, to: ops}]}
  - {id: plain, event: notice.plain.x, TO, notify: [sms]}
  - {id: dark, event: notice.dark.x, category: dark, TO, notify: [sms], enabled: shadow}
""".replace("TO", "template: t, to: {user: userid, email: mailto, phone: phone}")
TEMPLATES = {
    "templates__t__de__email.txt": "---\nsubject: Betreff\n---\nHallo",
    "templates__t__zh-CN__default.txt": "x",
}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> PreferenceOptions:
    return options_of(policy(tmp_path_factory.mktemp("policy"), RULES, **TEMPLATES).require())


def test_channels_for_the_user_are_offered(options: PreferenceOptions) -> None:
    offered = {name: category.channels for name, category in options.categories.items()}
    assert offered == {"security": ("email", "sms"), "news": ("sms", "email")}
    assert options.everything.channels == ("email", "sms")
    assert options.addresses == {"email", "phone"}
    assert options.languages == ("de", "en", "zh-CN")


def test_a_channel_is_on_by_preference_or_by_default(options: PreferenceOptions) -> None:
    def on(category: str, document: dict[str, Any]) -> list[str]:
        offered, choices = options.categories[category], parse(document)
        return [channel for channel in offered.channels if offered.is_on(choices, channel)]

    assert on("news", {}) == ["sms"]  # the rule's favourite
    assert on("news", {"news": ["email"]}) == ["email"]
    assert on("news", {"default": []}) == []
    assert on("security", {}) == ["email", "sms"]
    assert on("security", {"security": {"email": False}}) == ["email", "sms"]  # critical: in any case


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"security": ["sms"]}, ""),
        ({"security": []}, "security: one of email, sms has to stay on"),
        ({"security": {"sms": False, "email": False}}, "security: one of email, sms has to stay on"),
        ({"security": {"sms": False}}, ""),
        ({"default": []}, "security: one of email, sms has to stay on"),
        ({"default": [], "security": ["email"]}, ""),
        ({"news": []}, ""),
        ({"newz": []}, "newz: there is no such category; did you mean 'news'?"),
        ({"rooms": ["email"]}, "rooms: there is no such category"),
        ({"news": {"mail": True}}, "news: mail is not offered; did you mean 'email'?"),
        ({"news": ["terminal"]}, "news: terminal is not offered"),
        ({"default": ["siem"]}, "default: siem is not offered"),
        ({"addresses": {"phone": "+4930123456"}}, ""),
        ({"addresses": {"chat": "me"}}, "addresses: no channel needs a chat"),
        ({"addresses": {"email": "me"}}, "addresses: email: 'me' is no address of that kind"),
        ({"locale": "de-AT"}, ""),
        ({"locale": "fr"}, ""),  # the templates without a language apply
        ({"time_zone": "Nowhere"}, "there is no time zone"),
    ],
)
def test_reasons_against_preferences(
    options: PreferenceOptions, document: dict[str, Any], reason: str
) -> None:
    reasons = check_choice(options, document)
    assert bool(reasons) == bool(reason)
    assert reason in "".join(reasons)


def test_a_language_without_templates_is_rejected(tmp_path: Path) -> None:
    rules = "rules: [{id: a, event: notice.a, to: {email: mailto}, template: w, notify: [email]}]"
    templates = {"templates__w__en__email.txt": "---\nsubject: S\n---\nx"}
    book = policy(tmp_path, rules, **templates).require()
    assert check_choice(options_of(book), {"locale": "fr"}) == ()
    book = replace(book, defaults=replace(book.defaults, locale="de"))
    reasons = check_choice(options_of(book), {"locale": "fr"})
    assert reasons == ("locale: no template is in fr; there are: en",)


def test_unchanged_keys_are_not_checked(options: PreferenceOptions) -> None:
    """A removed category must not keep a user from choosing another language."""
    stale = {"gone": ["sms"], "addresses": {"chat": "me"}}
    document = merged(stale, {"locale": "de", "news": None})
    assert document == {**stale, "locale": "de"}
    assert check_choice(options, document, {"locale", "news"}) == ()
    assert len(check_choice(options, document)) == 2
