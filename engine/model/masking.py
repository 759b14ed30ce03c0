"""Mask secrets in text before it is shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

MASK = "***"


def longest_first(secrets: Collection[str]) -> tuple[str, ...]:
    """In the order in which they are to be masked, so that no part of one is left over."""
    return tuple(sorted(set(secrets), key=len, reverse=True))


def mask(text: str, secrets: tuple[str, ...]) -> str:
    """``text`` without the values in ``secrets``."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def masked(value: Any, secrets: tuple[str, ...]) -> Any:
    """``value`` without the values in ``secrets``, which may be numbers, or stand anywhere inside."""
    if isinstance(value, str):
        return mask(value, secrets)
    if isinstance(value, Mapping):
        return {key: masked(inside, secrets) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inside, secrets) for inside in value]
    return MASK if not isinstance(value, bool) and str(value) in secrets else value
