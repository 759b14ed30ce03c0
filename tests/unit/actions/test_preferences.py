"""The replies of the actions for preferences to wrong requests."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from weakref import ref

import pytest
from support.policy_builders import policy

from engine.actions import HandlerResources
from engine.actions.preferences import PreferencesHandler
from engine.model.errors import BrokerError, InvalidPreferences
from engine.planning.requests import OUTCOME_UNKNOWN, ActionRequest, ActionResponse
from engine.rules.rulebook import Rulebook

POLICY = """
rules:
  - {id: a, event: notice.a, category: security, to: {user: userid, email: mailto}, template: t, notify: [email]}
actions:
  get: {handler: preferences.get}
  set: {handler: preferences.set}
  options: {handler: preferences.options, labels: {categories: {security: {zh: "\u5b89\u5168"}}, channels: {email: Mail}}}
"""


class Kept:
    """A cache with one user's document, or with an error in its place."""

    def __init__(self, document: dict[str, Any] | Exception) -> None:
        self.document = document

        self.users: set[str] = set()  # the requested users

    async def document_of(self, user: str) -> dict[str, Any]:
        self.users.add(user)
        if isinstance(self.document, Exception):
            raise self.document
        return self.document

    async def change(self, user: str, step: Callable[[dict[str, Any]], tuple[Any, Any]]) -> Any:
        changed, result = step(await self.document_of(user))
        self.document = changed
        return result


@pytest.fixture(scope="module")
def rulebook(tmp_path_factory: pytest.TempPathFactory) -> Rulebook:
    return cast(Rulebook, policy(tmp_path_factory.mktemp("policy"), POLICY).require())


def resources_with(rulebook: Callable[[], Rulebook], kept: Kept) -> HandlerResources:
    made = cast(Any, HandlerResources)(
        connection=None, rulebook=rulebook, open_channel=None, metrics=None, preferences=kept
    )
    return cast(HandlerResources, made)


def asked(
    rulebook: Rulebook, action: str, kept: Kept, payload: Any, *, person: str | None = None
) -> ActionResponse:
    resources = resources_with(lambda: rulebook, kept)
    data = json.dumps(payload).encode()
    request = ActionRequest(
        key=action, reqid="r", payload=payload, data=data, sent=0, received=0, person=person
    )

    async def ask() -> ActionResponse:
        handler = PreferencesHandler(rulebook.actions[action], resources)
        return await handler.handle(request, asyncio.get_running_loop().time() + 5)

    return asyncio.run(ask())


@pytest.mark.parametrize("payload", [None, [], {}, {"userid": ""}, {"userid": True}, {"userid": "x" * 300}])
@pytest.mark.parametrize("action", ["get", "set", "options"])
def test_a_payload_without_a_user_is_rejected(rulebook: Rulebook, action: str, payload: Any) -> None:
    answer = asked(rulebook, action, Kept({}), payload)
    assert (answer.code, answer.message) == (1, "userid: the payload names no user")


def test_a_user_id_may_be_a_number_as_in_events(rulebook: Rulebook) -> None:
    answer = asked(rulebook, "get", Kept({"locale": "de"}), {"userid": 7})
    assert answer.payload == {"userid": "7", "preferences": {"locale": "de"}}


@pytest.mark.parametrize("userid", [None, "", "7", 7, " 7 "])
@pytest.mark.parametrize("action", ["get", "set", "options"])
def test_the_subject_names_the_user(rulebook: Rulebook, action: str, userid: Any) -> None:
    kept = Kept({"locale": "de"})
    payload = {"userid": userid, "preferences": {"security": ["email"]}}
    answer = asked(rulebook, action, kept, payload, person="7")
    assert answer.code == 0 and answer.payload is not None and answer.payload["userid"] == "7"
    assert kept.users == {"7"}


def test_no_payload_is_needed_if_the_subject_names_the_user(rulebook: Rulebook) -> None:
    assert asked(rulebook, "get", Kept({}), None, person="u").payload == {"userid": "u", "preferences": {}}
    answer = asked(rulebook, "set", Kept({}), None, person="u")
    assert answer.code == 1 and answer.message.startswith("preferences: a mapping")


@pytest.mark.parametrize("userid", ["v", "U", "u.", 7, True, False, 0, [], ["u"], {}, "u" * 300])
@pytest.mark.parametrize("action", ["get", "set", "options"])
def test_the_subject_of_one_user_accepts_no_other_user(rulebook: Rulebook, action: str, userid: Any) -> None:
    kept = Kept({"locale": "de"})
    payload = {"userid": userid, "preferences": {"locale": "en"}}
    answer = asked(rulebook, action, kept, payload, person="u")
    reason = "userid: this subject is for u only"
    assert (answer.code, answer.message, answer.payload) == (1, reason, {"reasons": [reason]})
    assert kept.users == set() and kept.document == {"locale": "de"}


@pytest.mark.parametrize("person", ["", "*", "a@b", "\u00a0u", "\u00fc", "u" * 65])
@pytest.mark.parametrize("userid", [None, "u"])
def test_a_subject_with_an_invalid_user_id_is_rejected(rulebook: Rulebook, person: str, userid: Any) -> None:
    kept = Kept({})
    answer = asked(rulebook, "get", kept, {"userid": userid}, person=person)
    assert answer.code == 1 and answer.message.startswith("userid: the subject has no user id")
    assert kept.users == set()


def test_without_a_broker_the_outcome_of_a_change_is_unknown(rulebook: Rulebook) -> None:
    away = Kept(BrokerError("no answer"))
    assert "not available" in asked(rulebook, "get", away, {"userid": "u"}).message
    answer = asked(rulebook, "set", away, {"userid": "u", "preferences": {"locale": "de"}})
    assert (answer.code, answer.message, answer.detail) == (1, OUTCOME_UNKNOWN, "no answer")


def test_unreadable_preferences_count_as_none_and_operators_are_informed(rulebook: Rulebook) -> None:
    for kept in (Kept(InvalidPreferences(["no JSON"])), Kept({"locale": 7})):
        answer = asked(rulebook, "options", kept, {"userid": "u"})
        assert answer.payload is not None and answer.payload["preferences"] == {}
        assert answer.code == 0 and "count as none" in answer.detail


@pytest.mark.parametrize("changes", [None, [], "x"])
def test_a_request_without_changes_is_rejected(rulebook: Rulebook, changes: Any) -> None:
    answer = asked(rulebook, "set", Kept({}), {"userid": "u", "preferences": changes})
    assert answer.code == 1 and answer.message.startswith("preferences: a mapping")


def test_a_change_merges_or_replaces_the_document(rulebook: Rulebook) -> None:
    kept = Kept({"gone": ["pager"], "locale": "de"})
    answer = asked(rulebook, "set", kept, {"userid": "u", "preferences": {"locale": "en"}})
    assert answer.code == 0 and kept.document == {"gone": ["pager"], "locale": "en"}
    answer = asked(rulebook, "set", kept, {"userid": "u", "preferences": {"security": []}, "replace": True})
    assert answer.code == 0 and kept.document == {"security": []}


def test_the_last_channel_of_a_critical_category_stays_on(tmp_path: Path) -> None:
    rules = POLICY.replace("category: security", "category: security, critical: true")
    strict = cast(Rulebook, policy(tmp_path, rules).require())
    kept = Kept({"security": ["email"]})
    reason = "security: one of email has to stay on"
    for off in ([], {"email": False}):
        answer = asked(strict, "set", kept, {"userid": "u", "preferences": {"security": off}})
        assert (answer.code, answer.message, answer.payload) == (1, reason, {"reasons": [reason]})
    # A removed choice counts too: the default decides it then.
    changes = {"security": None, "default": []}
    answer = asked(strict, "set", kept, {"userid": "u", "preferences": changes})
    assert answer.code == 1 and reason in answer.message
    assert kept.document == {"security": ["email"]}


def test_labels_are_in_the_nearest_language(rulebook: Rulebook) -> None:
    def labels(document: dict[str, Any], **more: Any) -> tuple[str, str]:
        payload = asked(rulebook, "options", Kept(document), {"userid": "u", **more}).payload or {}
        (security,) = payload["categories"]
        return security["label"], security["channels"][0]["label"]

    assert labels({}) == ("security", "Mail")
    assert labels({}, locale="zh_CN") == ("\u5b89\u5168", "Mail")
    assert labels({"locale": "zh-Hans-CN"}, locale="en") == ("\u5b89\u5168", "Mail")
    assert labels({}, locale=7) == ("security", "Mail")


async def test_a_request_for_options_does_not_keep_an_old_policy_in_memory(tmp_path: Path) -> None:
    present = [policy(tmp_path, POLICY).require()]
    before = ref(present[0].index)
    handler = PreferencesHandler(present[0].actions["options"], resources_with(lambda: present[0], Kept({})))
    request = ActionRequest(key="options", reqid="r", payload={"userid": "u"}, data=b"", sent=0, received=0)
    deadline = asyncio.get_running_loop().time() + 5
    gc.disable()
    try:
        assert (await handler.handle(request, deadline)).code == 0
        present[0] = policy(tmp_path, POLICY.replace("security", "safety")).require()
        assert before() is None
    finally:
        gc.enable()
    answer = await handler.handle(request, deadline)
    assert [each["category"] for each in answer.payload["categories"]] == ["safety"]
