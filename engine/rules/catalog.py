"""The known events: which payload fields are the user, the addresses, and the secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..model.masking import maskable

USER_ROLE, LOCALE_ROLE = "user", "locale"
ROLE_MARK, SECRET_MARK = "x-mss-role", "x-mss-sensitive"


# A key of a payload, as it stands in the schema or in lower case: its spelling, and that of what is inside.
Spelling: TypeAlias = Mapping[str, "tuple[str, Spelling]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSchema:
    """The marks of one event's payload schema."""

    name: str  # KIND.KEY
    schema: Mapping[str, Any] = field(repr=False)
    roles: Mapping[str, tuple[str, ...]]  # user, email, phone, locale, ... -> path of the field
    secrets: tuple[tuple[str, ...], ...]  # paths of sensitive fields
    spelling: Spelling = field(repr=False)

    @classmethod
    def read(cls, name: str, schema: Mapping[str, Any]) -> EventSchema:
        marked = tuple(_properties(schema, ()))
        return cls(
            name=name,
            schema=schema,
            roles={spec[ROLE_MARK]: path for path, spec in marked if ROLE_MARK in spec},
            secrets=tuple(path for path, spec in marked if spec.get(SECRET_MARK) is True),
            spelling=_spelling(schema),
        )

    def secrets_in(self, payload: Mapping[str, Any]) -> tuple[str, ...]:
        """The sensitive values of one payload, longest first, so that no part of one is left over."""
        if not self.secrets:
            return ()
        return maskable(text for path in self.secrets for text in _strings(_at(payload, path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The payload schemas of known events, by ``KIND.KEY``."""

    schemas: Mapping[str, EventSchema] = field(default_factory=dict)
    flawed: frozenset[str] = frozenset()  # events whose schema is there and cannot be used

    def get(self, event: str) -> EventSchema | None:
        return self.schemas.get(event)

    def canonical(self, event: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload with its keys spelled as the schema spells them.

        The Go programs match keys without regard to case: a sender that writes ``UserID`` is
        understood by them, and has to be understood here.
        """
        known = self.schemas.get(event)
        return _spell(known.spelling, payload) if known and known.spelling else payload


def _properties(
    schema: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for name, spec in schema.get("properties", {}).items():
        yield (*path, name), spec
        yield from _properties(spec, (*path, name))


def _spelling(schema: Mapping[str, Any]) -> Spelling:
    folded = {
        name.lower(): (name, _spelling(inside)) for name, inside in schema.get("properties", {}).items()
    }
    return {**{name: folded[name.lower()] for name, _ in folded.values()}, **folded}


def _spell(spelling: Spelling, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    spelled: dict[str, Any] = {}
    for key, value in payload.items():  # of a repeated key the last wins
        name, inside = spelling.get(key) or spelling.get(key.lower()) or (key, None)
        spelled[name] = _spell(inside, value) if inside and isinstance(value, Mapping) else value
    return spelled


def _at(payload: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = payload
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
