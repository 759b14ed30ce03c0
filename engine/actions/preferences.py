"""Handlers: get and set a user's preferences, and list the options.

A caller with access to the action's own subject may name any user: the user id is in the payload, which the
broker's permissions do not see. They do see the subject that is one token deeper, where the token is the
user id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.errors import BrokerError, InvalidPreferences
from ..model.subjects import is_safe_token
from ..planning.recipients import Choices
from ..planning.requests import OUTCOME_UNKNOWN, ActionRequest, ActionResponse, failed
from ..preferences.document import MAX_DOCUMENT_BYTES, check_choice, merged, parse
from ..preferences.options import CategoryOptions, PreferenceOptions, options_of
from ..rules.rulebook import ActionSpec
from ..templates import library
from . import HandlerResources

_MAX_USER_LENGTH = 256  # characters
_UNAVAILABLE = "preferences are not available: the broker does not answer"
_UNREADABLE = "the stored preferences cannot be read, and count as none"


class PreferencesHandler:
    """A handler for one of the three actions."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._cache = resources.preferences
        self._rulebook = resources.rulebook
        self._does = {
            "preferences.get": self._get,
            "preferences.set": self._set,
            "preferences.options": self._options,
        }[spec.handler]
        self._labels: Mapping[str, Mapping[str, Any]] = spec.options.get("labels", {})
        self._changes = spec.handler == "preferences.set"
        # By revision: a reference to the rulebook would keep an old one in memory until the next request.
        self._known_options: tuple[str, PreferenceOptions] | None = None

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._does(*_read(request))
        except InvalidPreferences as error:
            return ActionResponse(code=1, message=str(error), payload={"reasons": list(error.reasons)})
        except (BrokerError, TimeoutError) as error:
            detail = str(error) or "the time was up"
            return failed(OUTCOME_UNKNOWN if self._changes else _UNAVAILABLE, detail)

    async def close(self) -> None:
        """Close nothing: it has no connection of its own."""

    async def _get(self, user: str, payload: Mapping[str, Any]) -> ActionResponse:
        document, note = await self._document_of(user)
        return ActionResponse(payload={"userid": user, "preferences": document}, detail=note)

    async def _set(self, user: str, payload: Mapping[str, Any]) -> ActionResponse:
        changes = payload.get("preferences")
        if not isinstance(changes, Mapping):
            raise InvalidPreferences(["preferences: a mapping such as {security: [sms]}"])
        replaces = payload.get("replace") is True
        options = self._current_options()

        def change(present: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
            document = merged({} if replaces else present, changes)
            removed = {key for key in present if key not in document}
            if reasons := check_choice(options, document, {*changes, *removed}):
                raise InvalidPreferences(reasons)
            return document, document

        document = await self._cache.change(user, change)
        return ActionResponse(payload={"userid": user, "preferences": document})

    async def _options(self, user: str, payload: Mapping[str, Any]) -> ActionResponse:
        document, note = await self._document_of(user)
        try:
            choices = parse(document)
        except InvalidPreferences as error:
            document, choices, note = {}, Choices(), f"{_UNREADABLE}: {error}"
        rulebook, options = self._rulebook(), self._current_options()
        requested = payload.get("locale")
        locales = library.locale_chain(
            choices.locale, requested if isinstance(requested, str) else "", rulebook.defaults.locale
        )

        def label(of: str, name: str) -> str:
            return _label(self._labels.get(of, {}).get(name), locales) or name

        def category_document(category: CategoryOptions) -> dict[str, Any]:
            return {
                "category": category.category,
                "label": label("categories", category.category),
                "critical": bool(category.critical),
                "channels": [
                    {
                        "channel": name,
                        "label": label("channels", name),
                        "on": category.is_on(choices, name),
                        "always": name in category.always_on,
                    }
                    for name in category.channels
                ],
            }

        return ActionResponse(
            payload={
                "userid": user,
                "preferences": document,
                "categories": [category_document(category) for category in options.categories.values()],
                "default": category_document(options.everything),
                "languages": list(options.languages),
                "addresses": sorted(options.addresses),
            },
            detail=note,
        )

    async def _document_of(self, user: str) -> tuple[dict[str, Any], str]:
        """Return the user's document, and a note for the operators if it cannot be read."""
        try:
            return await self._cache.document_of(user), ""
        except InvalidPreferences as error:
            return {}, f"{_UNREADABLE}: {error}"

    def _current_options(self) -> PreferenceOptions:
        rulebook = self._rulebook()
        if self._known_options is None or self._known_options[0] != rulebook.revision:
            self._known_options = rulebook.revision, options_of(rulebook)
        return self._known_options[1]


open_handler = PreferencesHandler


def _read(request: ActionRequest) -> tuple[str, Mapping[str, Any]]:
    """Return the user id and the payload. Raises InvalidPreferences."""
    if len(request.data) > 4 * MAX_DOCUMENT_BYTES:
        raise InvalidPreferences(
            [f"{len(request.data)} bytes are too many: at most {MAX_DOCUMENT_BYTES} are kept"]
        )
    payload = request.payload if isinstance(request.payload, Mapping) else {}
    written, person = payload.get("userid"), request.person
    user = _user(written)
    if person is None:
        if not user:
            raise InvalidPreferences(["userid: the payload names no user"])
        return user, payload
    if not is_safe_token(person):
        raise InvalidPreferences(
            ["userid: the subject has no user id: at most 64 letters, digits, '_' and '-'"]
        )
    if written not in (None, "") and user != person:
        raise InvalidPreferences([f"userid: this subject is for {person} only"])
    return person, payload


def _user(written: Any) -> str:
    """Return the id as it would be in an event; ``""`` if it is not one."""
    if isinstance(written, int) and not isinstance(written, bool):
        written = str(written)
    user = written.strip() if isinstance(written, str) else ""
    return user if len(user) <= _MAX_USER_LENGTH else ""


def _label(written: Any, locales: Sequence[str]) -> str:
    """Return the label in the first of ``locales`` that it is written in."""
    if not isinstance(written, Mapping):
        return written or ""
    by_tag = {library.normalise_locale(tag): text for tag, text in written.items()}
    return next((by_tag[tag] for tag in locales if tag in by_tag), "")
