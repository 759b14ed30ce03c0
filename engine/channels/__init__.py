"""The channel registry: the types of channels, their needs, and how one is opened. Entry: `open_channel`.

A type's module is imported when its first channel opens, so that ``mss check`` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from ..model.errors import PolicyError
from ..model.messages import Delivery
from ..model.problems import Problem
from ..model.times import iso_time
from ..rules.rulebook import ChannelSpec


class Channel(Protocol):
    """Send deliveries somewhere.

    ``send`` returns a short note, the answer of the receiving system, once it has accepted the message.
    It raises ``Refused`` if a retry is pointless, and ``Deferred`` if nothing was sent and a retry can
    succeed (with ``remaining`` if all but these addresses have the message). It raises ``Unknown`` if the
    message may have been sent. It never raises anything else (cancellation apart), never retries and never
    logs: the delivery worker does. Every await on the outside ends within ``spec.timeout``. ``send`` is
    called concurrently, at most ``spec.concurrency`` times at once.
    """

    async def send(self, delivery: Delivery) -> str: ...

    async def close(self) -> None:
        """Close connections. No delivery follows; never raises."""


def print_now(text: str) -> None:
    """Write one block of text to standard output."""
    print(text, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResources:
    """The parts of the process that a channel may use."""

    # Publishes on a subject, with headers, and returns once the server has the message; raises BrokerError.
    publish: Callable[[str, bytes, Mapping[str, str]], Awaitable[None]]
    write: Callable[[str], None] = print_now  # prints one block of text for people


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelType:
    """The properties of a type that are known without importing it."""

    module: str  # in this package; defines ``open_channel(spec, resources)`` and ``read_settings(spec)``
    address: str | None = None  # the kind of address it needs, unless its settings name another
    many: bool = False  # one message can have several addresses
    renders_text: bool = True  # False: for programs, which get the event if there is no template


TYPES: dict[str, ChannelType] = {
    "email": ChannelType(module="email.channel", address="email", many=True),
    "apprise": ChannelType(module="apprise"),
    "webhook": ChannelType(module="webhook", renders_text=False),
    "nats": ChannelType(module="nats", renders_text=False),
    "console": ChannelType(module="console", renders_text=False),
}


def open_channel(spec: ChannelSpec, resources: ChannelResources) -> Channel:
    """Open the channel that ``spec`` describes; it connects at the first send.

    Raises PolicyError for settings that no schema can judge: a missing certificate file, a resolved
    reference that is not a port.
    """
    return cast(Channel, _module(spec).open_channel(spec, resources))


def check_channel(spec: ChannelSpec) -> None:
    """Raise PolicyError for settings with which the channel would not open."""
    _module(spec).read_settings(spec)


def _module(spec: ChannelSpec) -> ModuleType:
    return import_module(f".{TYPES[spec.type].module}", __name__)


def unusable(spec: ChannelSpec, message: str) -> PolicyError:
    """Return the error for settings that cannot work, at the place of the channel."""
    problem = Problem(place=spec.place, code="unusable-channel", message=f"channel {spec.name}: {message}")
    return PolicyError([problem])


def event_json(delivery: Delivery) -> bytes:
    """Return ``{"type", "timestamp", "data": {...}}``, compact and the same at every attempt.

    ``type`` is ``KIND.KEY``, ``timestamp`` the time at which the broker received the event (RFC 3339,
    UTC), and ``data.payload`` the payload of the event.
    """
    body = {
        "type": f"{delivery.kind}.{delivery.key}" if delivery.key else str(delivery.kind),
        "timestamp": iso_time(delivery.created),
        "data": {
            "id": delivery.id,
            "reqid": delivery.reqid,
            "rule": delivery.rule,
            "severity": str(delivery.severity),
            "locale": delivery.locale,
            "user": delivery.user,
            "title": delivery.message.title,
            "text": delivery.message.text,
            "payload": delivery.payload,
        },
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8; written as \udXXX it is legal JSON.
    return text.encode("utf-8", "backslashreplace")
