"""The known events and the fields of their payloads that are the user, the addresses and the secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..model.masking import maskable
from .paths import resolve

USER_ROLE, LOCALE_ROLE = "user", "locale"
ROLE_MARK, SECRET_MARK = "x-mss-role", "x-mss-sensitive"

# From a key, as in the schema or in lower case, to its spelling in the schema and the keys below it.
Spelling: TypeAlias = Mapping[str, "tuple[str, Spelling]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSchema:
    """The marked fields in the payload schema of one event."""

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
        """Return the sensitive values of a payload, longest first, so that each is masked as a whole."""
        if not self.secrets:
            return ()
        return maskable(
            text for path in self.secrets for value in resolve(payload, path) for text in _strings(value)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The payload schemas of known events, by ``KIND.KEY``."""

    schemas: Mapping[str, EventSchema] = field(default_factory=dict)
    flawed: frozenset[str] = frozenset()  # events whose schema has an error

    def get(self, event: str) -> EventSchema | None:
        return self.schemas.get(event)

    def canonical(self, event: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the payload with its keys spelled as in the schema.

        The Go programs ignore the case of keys, so MSS must accept ``UserID`` as well.
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
    for key, value in payload.items():  # the last of several equal keys wins
        name, inside = spelling.get(key) or spelling.get(key.lower()) or (key, None)
        spelled[name] = _spell(inside, value) if inside and isinstance(value, Mapping) else value
    return spelled


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
