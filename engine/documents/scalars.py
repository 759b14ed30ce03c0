"""What an unquoted scalar means in YAML 1.2's core schema."""

from __future__ import annotations

import re
from typing import Any

MAX_DIGITS = 1000  # of one number

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_NUMBER_STARTS = frozenset("-+.0123456789")


def scalar(text: str) -> Any:
    """The value that ``text`` stands for; ValueError, in words for operators, where a number has none."""
    first = text[:1]
    if first not in _NUMBER_STARTS or not first:
        return _WORDS.get(text, text)
    if _INTEGER.fullmatch(text):
        return int(_bounded(text))
    if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        return int(_bounded(text), 0)
    if _FLOAT.fullmatch(text):
        number = float(_bounded(text))
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the number {text} is too large")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is no finite number")
    return text


def _bounded(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return digits
