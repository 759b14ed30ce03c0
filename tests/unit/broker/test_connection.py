"""The metadata in a reply subject, compared with those of nats-py."""

from __future__ import annotations

import pytest
from nats.aio.msg import Msg

from engine.broker import message_metadata


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.MSS_NOTICE.mss-planner.3.17.42.1800000000123456789.5",
        "$JS.ACK._.abc.MSS_NOTICE.mss-planner.3.17.42.1800000000123456789.5",
        "$JS.ACK.hub.abc.MSS_NOTICE.mss-planner.3.17.42.1800000000123456789.5.random",
    ],
    ids=["short", "no-domain", "domain"],
)
def test_the_metadata_are_those_of_nats_py(reply: str) -> None:
    read, theirs = message_metadata(reply), Msg.Metadata._from_reply(reply)
    assert (read.sequence, read.num_delivered) == (theirs.sequence.stream, theirs.num_delivered) == (17, 3)
    assert read.stored_at == 1_800_000_000_123_456
    assert abs(theirs.timestamp.timestamp() * 1e6 - read.stored_at) < 2
