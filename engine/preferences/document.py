"""A user's preferences: the document, parsed and checked.

It is stored as the user wrote it. ``schemas/preferences.schema.json`` describes it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from ..model.addresses import usable_address
from ..model.errors import InvalidPreferences
from ..model.wording import shorten
from ..planning.recipients import ADDRESSES, LOCALE, QUIET, ZONE, Choices
from ..rules.schedule import DAY, Window, parse_window, parse_zone
from ..templates import library
from .options import PreferenceOptions

MAX_DOCUMENT_BYTES = 16 * 1024  # of one document as JSON
RESERVED = (LOCALE, ZONE, QUIET, ADDRESSES)  # keys that are not categories

_MAX_NAME_LENGTH, _MAX_ADDRESS_LENGTH = 64, 512  # characters
_MAX_CATEGORIES, _MAX_CHANNELS, _MAX_WINDOWS, _MAX_ADDRESSES = 64, 64, 16, 16
_MAX_SHOWN = 61  # characters of a value in a reason


def parse(document: Any) -> Choices:
    """Return the preferences in ``document``, decoded JSON or YAML. Raises InvalidPreferences."""
    if not isinstance(document, Mapping):
        raise InvalidPreferences(["preferences are a mapping such as {security: [sms]}"])
    reasons: list[str] = []
    choices = Choices(
        channels=dict(_channels(document, reasons)),
        addresses=dict(_addresses(document.get(ADDRESSES, {}), reasons)),
        locale=_locale(document.get(LOCALE), reasons),
        zone=_zone(document.get(ZONE), reasons),
        quiet=tuple(_quiet(document.get(QUIET, ()), reasons)),
    )
    if reasons:
        raise InvalidPreferences(reasons)
    return choices


def merged(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``present`` with each key of ``changes`` replaced; null removes a key."""
    return {key: value for key, value in {**present, **changes}.items() if value is not None}


def check_choice(
    options: PreferenceOptions | None, document: Any, changed: Collection[str] | None = None
) -> tuple[str, ...]:
    """Return the reasons against ``document``: those of its form, else those of the policy's ``options``.

    The options are checked for the keys in ``changed``; by default for all keys.
    """
    try:
        choices = parse(document)
    except InvalidPreferences as error:
        return error.reasons
    if options is None:
        return ()
    return tuple(options.violations(choices, document.keys() if changed is None else changed))


def _channels(
    document: Mapping[Any, Any], reasons: list[str]
) -> Iterator[tuple[str, Mapping[str, bool] | Sequence[str]]]:
    if len(document) > _MAX_CATEGORIES:
        reasons.append(f"there are more than {_MAX_CATEGORIES} keys")
        return
    for category, chosen in document.items():
        if category in RESERVED:
            continue
        if not _is_name(category):
            reasons.append(f"{_shown(category)} cannot be a category")
        elif not isinstance(chosen, list | Mapping):
            reasons.append(f"{category}: a list of the channels that are on, or each of them true or false")
        elif len(chosen) > _MAX_CHANNELS:
            reasons.append(f"{category}: more than {_MAX_CHANNELS} channels")
        elif odd := [name for name in chosen if not _is_name(name)]:
            reasons.append(f"{category}: {_shown(odd[0])} cannot be a channel")
        elif isinstance(chosen, Mapping):
            if odd := [name for name, on in chosen.items() if not isinstance(on, bool)]:
                reasons.append(f"{category}: {odd[0]} is true or false")
            else:
                yield sys.intern(category), {sys.intern(name): on for name, on in chosen.items()}
        else:
            # Most users choose the same few names.
            yield sys.intern(category), tuple(map(sys.intern, chosen))


def _addresses(written: Any, reasons: list[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(written, Mapping) or len(written) > _MAX_ADDRESSES:
        reasons.append(f"{ADDRESSES}: a mapping such as {{phone: +49301234567}} of at most {_MAX_ADDRESSES}")
        return
    for kind, address in written.items():
        if not _is_name(kind):
            reasons.append(f"{ADDRESSES}: {_shown(kind)} cannot be a kind of address")
        elif not (
            isinstance(address, str)
            and address.strip()
            and len(address) <= _MAX_ADDRESS_LENGTH
            and usable_address(kind, address.strip())
        ):
            reasons.append(f"{ADDRESSES}: {kind}: {_shown(address)} is no address of that kind")
        else:
            yield kind, address.strip()


def _locale(written: Any, reasons: list[str]) -> str:
    if written is None:
        return ""
    if isinstance(written, str) and len(written) <= _MAX_NAME_LENGTH and library.normalise_locale(written):
        return written
    reasons.append(f"{LOCALE}: {_shown(written)} is no language such as zh-CN")
    return ""


def _zone(written: Any, reasons: list[str]) -> ZoneInfo | None:
    if written is None:
        return None
    try:
        if isinstance(written, str) and 0 < len(written) <= _MAX_NAME_LENGTH:
            return parse_zone(written)
    except ValueError:
        pass
    reasons.append(f"{ZONE}: there is no time zone {_shown(written)}; they are called as in Europe/Berlin")
    return None


def _quiet(written: Any, reasons: list[str]) -> Iterator[Window]:
    windows = [written] if isinstance(written, str) else written
    if not isinstance(windows, list | tuple) or len(windows) > _MAX_WINDOWS:
        reasons.append(f"{QUIET}: a window such as 22:00-07:00, or a list of at most {_MAX_WINDOWS}")
        return
    parsed = []
    for each in windows:
        if not isinstance(each, str):
            reasons.append(f"{QUIET}: {_shown(each)} is no window such as 22:00-07:00")
            continue
        try:
            parsed.append(parse_window(each))
        except ValueError as error:
            reasons.append(f"{QUIET}: {error}")
    # The ends are enough: a stretch of time without a window begins where one ends.
    if parsed and all(any(_holds(window, other.end % DAY) for window in parsed) for other in parsed):
        reasons.append(f"{QUIET}: no time of the day is left in which messages may come")
    yield from parsed


def _holds(window: Window, minute: int) -> bool:
    if window.overnight:
        return minute >= window.start or minute < window.end
    return window.start <= minute < window.end


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME_LENGTH and value.isprintable()


def _shown(value: Any) -> str:
    return shorten(repr(value), _MAX_SHOWN)


def encode(user: str, document: Mapping[str, Any]) -> bytes:
    """Return the record of one user. Raises InvalidPreferences for a bad id or too large a document."""
    if not user or user != user.strip():
        raise InvalidPreferences(
            [f"userid: no event has {user!r}: an id is not empty, and has no space around it"]
        )
    try:
        data = msgspec.json.encode(document)
        if len(data) <= MAX_DOCUMENT_BYTES:
            return msgspec.json.encode({"userid": user, "preferences": document})
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPreferences([f"no JSON: {error}"]) from error
    raise InvalidPreferences([f"{len(data)} bytes as JSON, and at most {MAX_DOCUMENT_BYTES} are kept"])


def decode(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the user and the document of a record. Raises InvalidPreferences if it is none."""
    try:
        record = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidPreferences([f"no JSON: {error}"]) from error
    match record:
        case {"userid": str(user), "preferences": dict(document)}:
            return user, document
    raise InvalidPreferences(["no record of somebody's preferences"])
