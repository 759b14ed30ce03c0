"""What the reader of one message sees otherwise than the reader of another."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import zip_longest

from ..catalogue import longest_first, mask
from ..model import Delivery
from ..templates import as_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TEXT_LENGTH = 200  # characters of a text
_OF_ONE = (
    "to",
    "locale",
    "title",
    "text",
    "payload",
)  # what there is to say where the other side has nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field, side by side. "" is nothing on that side."""

    name: str
    live: str
    new: str


def differ(live: Delivery, new: Delivery) -> bool:
    """Whether a reader sees any difference."""
    return _seen(live) != _seen(new)


def fields_between(
    live: Delivery | None, new: Delivery | None, secrets: Collection[str] = ()
) -> tuple[FieldChange, ...]:
    """The fields that differ, of long texts the first lines that do; ``secrets`` are masked."""
    mine, its = _seen(live), _seen(new)
    names = [name for name in {**mine, **its} if mine.get(name, "") != its.get(name, "")]
    if live is None or new is None:
        names = [name for name in names if name in _OF_ONE]
    elif "html" in names and live.message.html and new.message.html:
        # People do not read markup: what they see of it, where that differs.
        mine["html"], its["html"] = _as_seen(live.message.html, new.message.html)
    hidden = longest_first({*secrets, *map(escape, secrets)})
    return tuple(
        _field(name, mask(mine.get(name, ""), hidden), mask(its.get(name, ""), hidden)) for name in names
    )


def _seen(delivery: Delivery | None) -> dict[str, str]:
    if delivery is None:
        return {}
    message = delivery.message
    pictures = (f"{each.name} {hashlib.sha256(each.data).hexdigest()[:8]}" for each in message.inline)
    seen: Mapping[str, str] = {
        "to": ", ".join(delivery.to),
        "user": delivery.user,
        "locale": delivery.locale if message.text or message.html else "",
        "severity": str(delivery.severity),
        "waits until": _time(delivery.not_before) if delivery.not_before else "",
        "title": message.title,
        "text": message.text,
        "html": message.html,
        "pictures": ", ".join(pictures),
        "within": f"{delivery.fallback_after:g} s" if delivery.fallback_after else "",
        "else over": ", ".join(each.channel for each in delivery.fallbacks),
        "payload": "" if delivery.payload is None else repr(dict(delivery.payload)),
    }
    for each in delivery.fallbacks:
        words = _seen(each).items()
        seen = {**seen, **{f"{name}, else over {each.channel}": value for name, value in words}}
    return {name: value for name, value in seen.items() if value}


def _time(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="seconds").replace("+00:00", "Z")


def _as_seen(mine: str, its: str) -> tuple[str, str]:
    texts = as_text(mine), as_text(its)
    return texts if texts[0] != texts[1] else (mine, its)


def _field(name: str, mine: str, its: str) -> FieldChange:
    if mine and its:
        lines = zip_longest(mine.splitlines(), its.splitlines(), fillvalue="")
        mine, its = next(((a, b) for a, b in lines if a != b), (mine, its))
    at = next((i for i, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), 0)
    start = max(0, at - _MAX_TEXT_LENGTH // 2)
    return FieldChange(name=name, live=_cut(mine, start), new=_cut(its, start))


def _cut(text: str, start: int) -> str:
    """As much of ``text`` from ``start`` on as is shown."""
    before = "…" if start and len(text) > start else ""
    rest = text[start:] if before else text
    return before + (rest if len(rest) <= _MAX_TEXT_LENGTH else f"{rest[: _MAX_TEXT_LENGTH - 1]}…")
