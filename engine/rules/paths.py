"""Paths into a payload: their text form, and the values they lead to.

A path descends into the elements of lists, so it may lead to several values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FieldPath = tuple[str, ...]  # keys from the payload downwards

ANY, ALL, NOT = COMBINATORS = ("any", "all", "not")  # keys of a block that are not paths


def parse_path(text: str) -> FieldPath:
    r"""Split ``user.email`` into its keys. Raise ValueError, with a message for the author, if it is no path.

    ``\.`` is a dot inside a key and ``\\`` a backslash. A backslash before the first key marks it as a
    key: ``\any``.
    """
    keys, key, at = [], "", 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            following = text[at + 1 : at + 2]
            if following in (".", "\\"):
                key += following
                at += 1
            elif at or not following:
                raise ValueError(
                    f"{text!r}: a backslash must be first, or be followed by a dot or a backslash"
                )
        elif char == ".":
            keys.append(key)
            key = ""
        else:
            key += char
        at += 1
    keys.append(key)
    if not all(keys):
        raise ValueError("a path is empty" if not text else f"{text!r}: a key between the dots is empty")
    return tuple(keys)


def format_path(path: FieldPath) -> str:
    """Return the text that ``parse_path`` reads as ``path``."""
    text = ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in path)
    return f"\\{text}" if text in COMBINATORS else text


def resolve(payload: Mapping[str, Any], path: FieldPath) -> list[Any]:
    """Return the values at ``path``, in order.

    In a list on the way, a number picks one element; any other key is looked up in every element. A list
    at the end is one value.
    """
    inside: Any = payload
    for key in path:  # the common case: objects all the way
        if inside.__class__ is not dict:
            break
        if key not in inside:
            return []
        inside = inside[key]
    else:
        return [inside]
    found: list[Any] = []
    pending: list[tuple[Any, int]] = [(payload, 0)]  # not recursive: a payload may be nested deep
    while pending:
        value, step = pending.pop()
        if step == len(path):
            found.append(value)
        elif isinstance(value, list):
            position = _position(path[step])
            if position is None:
                pending.extend((element, step) for element in reversed(value))
            elif position < len(value):
                pending.append((value[position], step + 1))
        elif isinstance(value, Mapping) and path[step] in value:
            pending.append((value[path[step]], step + 1))
    return found


def _position(key: str) -> int | None:
    """Return ``key`` as a list position; None if it is no number."""
    if not (key.isascii() and key.isdigit()) or (key[0] == "0" and key != "0"):
        return None
    return int(key[:18])  # no list is longer, and int() has a limit


def flatten(values: Iterable[Any]) -> list[Any]:
    """Replace each list among the values by its elements, nested lists included."""
    elements: list[Any] = []
    pending = list(values)[::-1]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(reversed(value))
        else:
            elements.append(value)
    return elements
