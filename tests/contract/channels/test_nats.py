"""The nats channel: the message and its subject."""

from __future__ import annotations

import json

import pytest
from contract.channels.sides import World

from engine.model.errors import PolicyError
from engine.model.messages import Delivery


async def test_the_event_is_published_with_the_id_of_the_delivery(world: World, delivery: Delivery) -> None:
    channel = world.open("nats", subject="siem.iam.events")
    assert await channel.send(delivery) == "published on siem.iam.events"
    ((subject, payload, headers),) = world.published
    assert subject == "siem.iam.events"
    assert headers == {"Nats-Msg-Id": delivery.id, "Mss-Hops": "1"}
    body = json.loads(payload)
    assert (body["type"], body["data"]["payload"]) == ("notice.login.abnormal", delivery.payload)


@pytest.mark.parametrize("subject", ["", "siem.*", "siem.>", "siem..x", "siem x", ".siem", "siem.\r\nPUB"])
def test_a_channel_with_an_invalid_subject_does_not_open(subject: str, world: World) -> None:
    with pytest.raises(PolicyError, match="not a NATS subject"):
        world.open("nats", subject=subject)
