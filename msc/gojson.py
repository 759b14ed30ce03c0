"""JSON as Go's encoding/json reads and writes it. Pure; every error is a WireError.

Differences from Python's json: no NaN and no infinity; invalid UTF-8 and halves of surrogate pairs become
U+FFFD; keys of a struct are matched without regard to case; ``<``, ``>``, ``&``, U+2028 and U+2029 are
escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .errors import WireError

MAX_DEPTH = 200  # of nested arrays and objects; deeper ones are refused

_MAX_DIGITS = 308  # an integer with so many digits is below the largest double
_LONG_NUMBER = re.compile(f"[0-9]{{{_MAX_DIGITS + 1}}}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_INFINITY = float("inf")
_ESCAPED = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_RARE = re.compile("[\u2028\u2029\ud800-\udfff]")


def load_fields(data: bytes, names: frozenset[str]) -> dict[str, Any]:
    """Return the fields ``names`` (in lower case) of the object in ``data``, as Go fills a struct.

    Keys match in any case; the last of a repeated key wins. Other keys may be included. The document null has
    no fields. Raises WireError.
    """
    text = _decode(data)
    document = _parse(_DECODER, text)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise WireError("the message is not an object", reason="not-an-object")
    if not document.keys() <= names and any(key.casefold() in names for key in document.keys() - names):
        document = _folded(text, names)
    checked: dict[str, Any] = _checked(document, text)
    return checked


def dumps(value: Any, *, inside: int = 0) -> str:
    """Return ``value`` as compact JSON, to be nested in ``inside`` objects.

    Raises WireError if it is not JSON, or if `load_fields` would refuse it.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        raise WireError(f"not JSON: {error}", reason="not-json") from None
    if _brackets(text) + inside > MAX_DEPTH or (len(text) > _MAX_DIGITS and _LONG_NUMBER.search(text)):
        _require_shallow(_parse(_DECODER, text), MAX_DEPTH - inside)
    for char in "<>&":
        text = text.replace(char, _ESCAPED[char])
    return text if text.isascii() else _RARE.sub(lambda match: _ESCAPED.get(match.group(), "\\ufffd"), text)


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        # One U+FFFD for each invalid byte, as in Go; "replace" would merge several.
        return _SURROGATE.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def _parse(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        message = f"the message is not JSON: {error.msg} at character {error.pos}"
        raise WireError(message, reason="not-json") from None
    except RecursionError:
        raise _too_deep() from None


def _checked(document: Any, text: str) -> Any:
    """Return ``document``, parsed from ``text``, without lone surrogates. Raises WireError if too deep."""
    if _brackets(text) > MAX_DEPTH:
        _require_shallow(document, MAX_DEPTH)
    if _SURROGATE_ESCAPE.search(text):
        try:
            return _whole(document)
        except RecursionError:  # the stack of the caller is deep already
            raise _too_deep() from None
    return document


def _folded(text: str, names: frozenset[str]) -> dict[str, Any]:
    """Return the fields of an object whose keys are in another case."""
    outermost: list[tuple[str, Any]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # the outermost object is the last to be complete
        return dict(pairs)

    _parse(json.JSONDecoder(object_pairs_hook=note, parse_int=_int, parse_float=_float), text)
    return {name: value for key, value in outermost if (name := key.casefold()) in names}


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def _brackets(text: str) -> int:
    """Return an upper limit of the depth. Usually it suffices to see that a document is not too deep."""
    return text.count("[") + text.count("{")


def _require_shallow(document: Any, depth: int) -> None:
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(depth):
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for group in children for child in group if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> WireError:
    return WireError("the message is nested too deeply", reason="too-deep")


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        _float(digits)
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (_INFINITY, -_INFINITY):
        raise WireError("a number is out of range", reason="number-out-of-range")
    return value


def _constant(name: str) -> NoReturn:
    raise WireError(f"the message is not JSON: {name}", reason="not-json")


_DECODER = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
