"""Payloads of the actions that Go programs ask for, read as the original server reads them.

A field is matched without regard to case, unknown fields are left as they are, null is the empty
text, and what is of another type is refused in the original's words. Raises UndecodableError.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ..errors import UndecodableError

_MAX_VALUE_LENGTH = 100  # characters of a value in a message


def read_payload(payload: Any, shape: Mapping[str, str]) -> dict[str, Any]:
    """``payload`` with every field of ``shape`` in it, as a text."""
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        kind = "slice" if isinstance(payload, list) else _go_type(payload)
        raise UndecodableError("wrong-type", f"'' expected a map, got '{kind}'")
    if not shape or (payload.keys() == shape.keys() and all(type(each) is str for each in payload.values())):
        return payload  # the common case
    values: dict[str, Any] = {}
    for key, value in payload.items():
        name = key if key in shape else key.casefold()
        if name not in shape:
            values[key] = value
        elif key == name or name not in payload:  # the exact spelling is preferred
            values[name] = value
    wrong = [
        f"* '{shape[name]}' expected type 'string', got unconvertible type '{_go_type(value)}', "
        f"value: '{_go_value(value)[:_MAX_VALUE_LENGTH]}'"
        for name, value in values.items()
        if name in shape and not isinstance(value, str | None)
    ]
    if wrong:
        lines = "\n".join(sorted(wrong))
        raise UndecodableError("wrong-type", f"{len(wrong)} error(s) decoding:\n\n{lines}")
    return values | {name: values.get(name) or "" for name in shape}


def _go_type(value: Any) -> str:
    """What Go calls the type that its JSON decoder makes of ``value``."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, list):
        return "[]interface {}"
    return "string" if isinstance(value, str) else "map[string]interface {}"


def _go_value(value: Any) -> str:
    """``value`` as Go's ``%v`` prints it; nested values only as far as a message shows them."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _go_number(value)
    if isinstance(value, list):
        return f"[{' '.join(_go_value(item) for item in value[:_MAX_VALUE_LENGTH])}]"
    if isinstance(value, dict):
        shown = sorted(value)[:_MAX_VALUE_LENGTH]
        return f"map[{' '.join(f'{key}:{_go_value(value[key])}' for key in shown)}]"
    return str(value)[:_MAX_VALUE_LENGTH]


def _go_number(value: float) -> str:
    """A double in its shortest form, with an exponent from 1e21 on and below 1e-4."""
    exact = Decimal(repr(float(value)))
    if not exact or Decimal("1e-4") <= abs(exact) < Decimal("1e21"):
        return f"{exact:f}".removesuffix(".0")
    mantissa, _, exponent = f"{exact.normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"
