"""Answer standard NATS tools: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS``.

The ``micro`` module of nats-py runs the requests of an endpoint one at a time, so MSS speaks the protocol
itself.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from ..broker import Connection
from ..model.errors import BrokerError

_MAX_ERROR_LENGTH = 200  # characters


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """One subject of an action and its counters, as the protocol defines them."""

    name: str
    subject: str
    queue_group: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0

    def count(self, seconds: float, error: str) -> None:
        """Count one answered request; ``error`` is code and message, ``""`` for none."""
        self.requests += 1
        self.seconds += seconds
        if error:
            self.errors += 1
            self.last_error = error[:_MAX_ERROR_LENGTH]

    def identity(self) -> dict[str, Any]:
        return {"name": _name(self.name), "subject": self.subject, "queue_group": self.queue_group}

    def info(self) -> dict[str, Any]:
        return {**self.identity(), "metadata": {}}

    def stats(self) -> dict[str, Any]:
        nanoseconds = int(self.seconds * 1e9)
        return {
            **self.identity(),
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": nanoseconds,
            "average_processing_time": nanoseconds // max(1, self.requests),
        }


@dataclass(kw_only=True)
class MicroService:
    """The answers of one replica to the requests for the service ``name``."""

    connection: Connection
    name: str
    id: str
    version: str
    endpoints: list[Endpoint] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat().replace("+00:00", "Z"))

    async def start(self) -> None:
        """Subscribe. If the broker's permissions forbid it, the log says so, and all else works."""
        name = _name(self.name)
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{self.id}"):
                await self.connection.client.subscribe(subject, cb=partial(self._respond, answer))

    async def _respond(self, answer: Callable[[], dict[str, Any]], msg: Msg) -> None:
        if not msg.reply or msg.reply.startswith("$"):
            return
        # A tool that gets no answer asks again.
        with contextlib.suppress(BrokerError, nats.errors.Error):
            await self.connection.publish(msg.reply, json.dumps(answer()).encode())

    def _ping(self, kind: str = "ping") -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": _name(self.name),
            "id": self.id,
            "version": self.version,
            "metadata": {},
        }

    def _info(self) -> dict[str, Any]:
        endpoints = [endpoint.info() for endpoint in self.endpoints]
        return {**self._ping("info"), "description": "MSS actions", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [endpoint.stats() for endpoint in self.endpoints]
        return {**self._ping("stats"), "started": self.started, "endpoints": endpoints}


def _name(text: str) -> str:
    """Return ``text`` as a name that the protocol permits."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)
