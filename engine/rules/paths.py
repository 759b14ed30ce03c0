"""Paths into a payload: how they are written, and the values they lead to.

A path descends into the elements of lists, so it may lead to several values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FieldPath = tuple[str, ...]  # keys from the payload downwards

ANY, ALL, NOT = COMBINATORS = ("any", "all", "not")  # beside the paths in a block, and none themselves


def parse_path(text: str) -> FieldPath:
    r"""``user.email`` as its keys; ValueError, in words for operators, when it is no path.

    ``\.`` is a dot inside a key and ``\\`` a backslash. A backslash before the first key keeps the
    key from being read as something else: ``\any``.
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
                raise ValueError(f"{text!r}: a backslash stands before a dot or a backslash, or at the start")
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
    """The text of which ``parse_path`` makes ``path``."""
    text = ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in path)
    return f"\\{text}" if text in COMBINATORS else text


def resolve(payload: Mapping[str, Any], path: FieldPath) -> list[Any]:
    """The values that ``path`` leads to, in order; none where it leads nowhere.

    A list on the way is gone into: a number picks one element, any other key is looked for in
    every element. A list at the end is one value.
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
    """The list position that ``key`` names, None where it is no number."""
    if not (key.isascii() and key.isdigit()) or (key[0] == "0" and key != "0"):
        return None
    return int(key[:18])  # longer ones are beyond any list as they are, and int() has a limit


def flatten(values: Iterable[Any]) -> list[Any]:
    """The values with the elements of lists, nested ones too, in the place of the lists."""
    elements: list[Any] = []
    pending = list(values)[::-1]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(reversed(value))
        else:
            elements.append(value)
    return elements
