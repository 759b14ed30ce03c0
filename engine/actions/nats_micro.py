"""Answer standard NATS tools: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS``.

The ``micro`` module of nats-py runs the requests of an endpoint one at a time, so MSS speaks the protocol
itself.
"""

from __future__ import annotations

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

_UNUSABLE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_ERROR_LENGTH = 200  # characters


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """One subject of an action and its counters, as the protocol has them."""

    name: str
    subject: str
    queue_group: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0

    def count(self, seconds: float, error: str) -> None:
        """One request is answered; ``error`` is code and message, ``""`` for none."""
        self.requests += 1
        self.seconds += seconds
        if error:
            self.errors += 1
            self.last_error = error[:_MAX_ERROR_LENGTH]

    @property
    def info(self) -> dict[str, Any]:
        return {
            "name": _UNUSABLE.sub("-", self.name),
            "subject": self.subject,
            "queue_group": self.queue_group,
            "metadata": {},
        }

    @property
    def stats(self) -> dict[str, Any]:
        took = int(self.seconds * 1e9)
        return {
            "name": _UNUSABLE.sub("-", self.name),
            "subject": self.subject,
            "queue_group": self.queue_group,
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": took,
            "average_processing_time": took // max(1, self.requests),
        }


@dataclass(kw_only=True)
class MicroService:
    """Answers for the service ``name``."""

    connection: Connection
    name: str
    id: str
    version: str
    endpoints: list[Endpoint] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat().replace("+00:00", "Z"))

    async def start(self) -> None:
        """Listen. Where the broker's permissions forbid it, it says so in the log, and all else works."""
        name = _UNUSABLE.sub("-", self.name)
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{self.id}"):
                await self.connection.client.subscribe(subject, cb=partial(self._respond, answer))

    async def _respond(self, answer: Callable[[], dict[str, Any]], msg: Msg) -> None:
        if not msg.reply or msg.reply.startswith("$"):
            return
        try:
            await self.connection.publish(msg.reply, json.dumps(answer()).encode())
        except (BrokerError, nats.errors.Error):
            return  # whoever looked looks again

    def _identity(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": _UNUSABLE.sub("-", self.name),
            "id": self.id,
            "version": self.version,
            "metadata": {},
        }

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [endpoint.info for endpoint in self.endpoints]
        return {**self._identity("info"), "description": "MSS actions", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [endpoint.stats for endpoint in self.endpoints]
        return {**self._identity("stats"), "started": self.started, "endpoints": endpoints}
