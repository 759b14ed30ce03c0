"""Print messages to the terminal, to try out a policy."""

from __future__ import annotations

from ..model.errors import Deferred
from ..model.messages import Delivery
from ..rules.rulebook import ChannelSpec
from . import ChannelResources, event_json


class ConsoleChannel:
    """A channel that prints each delivery as one block, with its secrets: they are part of the message."""

    def __init__(self, spec: ChannelSpec, resources: ChannelResources) -> None:
        self._write = resources.write

    async def send(self, delivery: Delivery) -> str:
        try:
            self._write(_block(delivery))
        except (OSError, ValueError) as error:  # a closed file raises ValueError
            raise Deferred(f"cannot print: {error}") from error
        return "printed"

    async def close(self) -> None:
        """Close nothing: it has no connection."""


open_channel = ConsoleChannel


def read_settings(spec: ChannelSpec) -> None:
    """Return nothing: the type has no settings."""


def _block(delivery: Delivery) -> str:
    message = delivery.message
    about = [
        ("to", ", ".join(delivery.to) or delivery.user),
        ("locale", delivery.locale),
        ("title", message.title),
    ]
    lines = [f"--- {delivery.channel} " + "-" * max(4, 60 - len(delivery.channel))]
    lines += [f"{name + ':':<8}{_safe(value)}" for name, value in about if value]
    text = message.text or message.html or event_json(delivery).decode("utf-8", "replace")
    lines += ["", *(_safe(line) for line in text.splitlines()), ""]
    return "\n".join(lines)


def _safe(line: str) -> str:
    """Return ``line`` without control characters that a terminal would execute."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
