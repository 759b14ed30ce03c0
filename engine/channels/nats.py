"""Publish the event on a NATS subject, for other programs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..model.errors import BrokerError, Deferred, MaxPayloadExceeded, Refused, Unknown
from ..model.messages import HOPS, Delivery
from ..model.subjects import valid_key
from ..rules.rulebook import ChannelSpec
from . import ChannelResources, event_json, unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """The options of a channel of type ``nats``."""

    subject: str


class NatsChannel:
    """A channel that publishes each delivery on one subject.

    ``Nats-Msg-Id`` is the id of the delivery, so a stream on the subject drops a repeat. ``Mss-Hops``
    counts the messages that led to this one, which ends a loop over a subject that MSS reads.
    """

    def __init__(self, spec: ChannelSpec, resources: ChannelResources) -> None:
        self._settings = read_settings(spec)
        self._publish = resources.publish
        self._timeout = spec.timeout

    async def send(self, delivery: Delivery) -> str:
        headers = {"Nats-Msg-Id": delivery.id, HOPS: str(delivery.hops + 1)}
        subject = self._settings.subject
        try:
            async with asyncio.timeout(self._timeout):
                await self._publish(subject, event_json(delivery), headers)
        except MaxPayloadExceeded as error:
            raise Refused(str(error)) from error
        except BrokerError as error:
            raise Deferred(str(error)) from error
        except TimeoutError as error:
            raise Unknown(f"the broker did not confirm it within {self._timeout:g} s") from error
        return f"published on {subject}"

    async def close(self) -> None:
        """Close nothing: the connection belongs to the server."""


open_channel = NatsChannel


def read_settings(spec: ChannelSpec) -> NatsSettings:
    subject = spec.options["subject"]
    if not valid_key(subject):
        raise unusable(spec, f"{subject!r} is not a NATS subject to publish on")
    return NatsSettings(subject=subject)
