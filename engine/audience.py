"""Whom a rule tells, and at which addresses: what the event says of them, and what the policy says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from .addresses import parse_mailbox, parse_phone
from .catalogue import LOCALE_ROLE, USER_ROLE
from .choices import Choices
from .model import Event, Recipient
from .paths import FieldPath, resolve
from .rulebook import Audience, ChannelSpec, Rulebook


class ResolvedAddresses(Struct, frozen=True, kw_only=True):
    """One message's addresses, and what had to be left out."""

    to: tuple[str, ...]
    unusable: tuple[str, ...] = ()


def recipient_of(rulebook: Rulebook, event: Event, audience: Audience) -> Recipient:
    """Who ``audience`` means for this event; the catalogue's marks say what ``to`` leaves out."""
    if audience.person:
        return rulebook.people[audience.person]
    known = rulebook.catalogue.get(event.name)
    roles = known.roles if known else {}
    paths = {**roles, **audience.fields} if audience.fields else roles
    found = {role: _texts_at(event.payload, path) for role, path in paths.items()}
    return Recipient(
        user=next(iter(found.pop(USER_ROLE, ())), ""),
        locale=next(iter(found.pop(LOCALE_ROLE, ())), ""),
        addresses={kind: values for kind, values in found.items() if values},
    )


def with_preferences(recipient: Recipient, choices: Choices | None) -> Recipient:
    """``recipient`` with what they have chosen: an address of their own counts where the event has none."""
    if choices is None:
        return recipient
    own = {kind: (address,) for kind, address in choices.addresses.items()}
    return replace(
        recipient,
        addresses={**own, **recipient.addresses},
        locale=choices.locale or recipient.locale,
        zone=choices.zone or recipient.zone,
    )


def addresses_for(channel: ChannelSpec, recipient: Recipient) -> Iterator[ResolvedAddresses]:
    """The addresses of each message: all in one where the channel can, else one message each."""
    if channel.address is None:
        yield ResolvedAddresses(to=())
        return
    usable: dict[str, None] = {}
    unusable: list[str] = []
    for text in recipient.addresses.get(channel.address, ()):
        address = usable_address(channel.address, text)
        if address is None:
            unusable.append(text[:100])
        else:
            usable[address] = None
    together = [tuple(usable)] if channel.many or not usable else [(address,) for address in usable]
    for position, to in enumerate(together):
        yield ResolvedAddresses(to=to, unusable=() if position else tuple(unusable))


def usable_address(kind: str, text: str) -> str | None:
    """The address in the form a channel can use, or None where it is none."""
    if kind == "email":
        mailbox = parse_mailbox(text)
        return None if mailbox is None else str(mailbox)
    if kind == "phone":
        return parse_phone(text)
    return text if text.isprintable() else None


def _texts_at(payload: Mapping[str, Any], path: FieldPath) -> tuple[str, ...]:
    values = resolve(payload, path)
    if len(values) == 1 and values[0].__class__ is str:  # the common case
        text = values[0].strip()
        return (text,) if text else ()
    return tuple(texts(values))


def texts(values: list[Any]) -> Iterator[str]:
    """The non-empty texts among what a path leads to; numbers, as user ids are, become texts."""
    for value in values:
        if isinstance(value, list):
            yield from texts(value)
        elif isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)
