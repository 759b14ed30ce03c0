"""Mask secrets in text before it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"

_MIN_LENGTH = 4  # characters; masking "1" wherever it occurs would destroy the text


def maskable(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values that are long enough to be masked wherever they occur, the longest first."""
    return longest_first(value for value in values if len(value) >= _MIN_LENGTH)


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return each secret once, in the order in which ``mask`` leaves no part of one over."""
    return tuple(sorted(set(secrets), key=len, reverse=True))


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with each of ``secrets`` replaced by three asterisks."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def masked(value: Any, secrets: tuple[str, ...]) -> Any:
    """Return ``value`` with ``secrets`` masked, in every text inside it and where a number is one."""
    if isinstance(value, str):
        return mask(value, secrets)
    if isinstance(value, Mapping):
        return {key: masked(inside, secrets) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inside, secrets) for inside in value]
    return MASK if not isinstance(value, bool) and str(value) in secrets else value
