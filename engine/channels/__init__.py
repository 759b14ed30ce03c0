"""The channel registry: the types of channels, what each needs, and how one is opened. Entry: `open_channel`.

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

    ``send`` returns a short note, the other side's words, when it has taken the message. It raises
    ``Refused`` when trying again is pointless, ``Deferred`` when nothing went out and it may later
    (with ``remaining`` when it went out to all but these), ``Unknown`` when it may have gone out. It
    never raises anything else (cancellation apart), never retries and never logs: the deliverer does.
    Every await on the outside ends within ``spec.timeout``. ``send`` is called concurrently, at most
    ``spec.concurrency`` times at once.
    """

    async def send(self, delivery: Delivery) -> str: ...

    async def close(self) -> None:
        """Let go of connections. Nothing is sent afterwards; never raises."""
        ...


class Publish(Protocol):
    """Publish on NATS and return once the server has it; raises BrokerError when it has not."""

    def __call__(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> Awaitable[None]: ...


def print_now(text: str) -> None:
    """Write one block of text to standard output."""
    print(text, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResources:
    """What a channel may use of the process it runs in."""

    publish: Publish
    write: Callable[[str], None] = print_now  # prints one block of text for people


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelType:
    """What is known of a type without importing it."""

    module: str  # in this package; defines ``open_channel(spec, resources)`` and ``read_settings(spec)``
    address: str | None = None  # the kind of address it needs unless its settings say so
    many: bool = False  # one message may carry several addresses
    renders_text: bool = True  # it says something to people; without words it carries the event to a machine


TYPES: dict[str, ChannelType] = {
    "email": ChannelType(module="email", address="email", many=True),
    "apprise": ChannelType(module="apprise"),
    "webhook": ChannelType(module="webhook", renders_text=False),
    "nats": ChannelType(module="nats", renders_text=False),
    "console": ChannelType(module="console", renders_text=False),
}


def open_channel(spec: ChannelSpec, resources: ChannelResources) -> Channel:
    """Open the channel that ``spec`` describes. Connections are made at the first send.

    Raises PolicyError for settings that no schema can judge: a certificate file that is not there,
    a reference that turned out to be no port.
    """
    return cast(Channel, _module(spec).open_channel(spec, resources))


def check_channel(spec: ChannelSpec) -> None:
    """Raise PolicyError for settings with which the channel would not open."""
    _module(spec).read_settings(spec)


def _module(spec: ChannelSpec) -> ModuleType:
    return import_module(f".{TYPES[spec.type].module}", __name__)


def unusable(spec: ChannelSpec, message: str) -> PolicyError:
    """What ``open_channel`` raises for settings that cannot work, with the channel's place."""
    problem = Problem(place=spec.place, code="unusable-channel", message=f"channel {spec.name}: {message}")
    return PolicyError([problem])


def event_json(delivery: Delivery) -> bytes:
    """``{"type", "timestamp", "data": {...}}``, compact and the same at every attempt.

    ``type`` is ``KIND.KEY``, ``timestamp`` is when the broker took the event (RFC 3339, UTC), and
    ``data.payload`` is the event's payload.
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
    # Half a character has no UTF-8; written as \udXXX it is legal JSON.
    return text.encode("utf-8", "backslashreplace")
