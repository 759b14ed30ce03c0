"""Redriven deliveries on a real broker: sent once, with a history of their own."""

from __future__ import annotations

from contract.broker.test_deliver import delivering, delivery
from msgspec.structs import replace
from support.waiting import until

from engine.broker import Connection, OutgoingMessage
from engine.broker.codec import encode
from engine.model.errors import Refused
from engine.model.messages import Delivery, RedriveId
from engine.runtime import now


def back(dead: Delivery, letter: str = "1-1", at: int = 0) -> Delivery:
    return replace(dead, redrive=RedriveId(dead_letter=letter, at=at or now()))


def copy(of: Delivery, name: str) -> OutgoingMessage:
    return OutgoingMessage(subject="mss.delivery.notice.email", payload=encode(of), id=name)


async def test_the_deadline_starts_again_at_a_redrive(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(back(delivery(created=now() - 3601 * 1_000_000)))
        await bench.done()
        assert bench.channel.sent == ["d" * 32]


async def test_a_sent_delivery_is_not_sent_again(connection: Connection) -> None:
    async with delivering(connection) as bench:
        await bench.store(delivery())
        await bench.done()
        await bench.publisher.store(copy(back(delivery()), "again"))
        await bench.done()
        assert bench.channel.sent == ["d" * 32]


async def test_two_redrives_of_one_dead_letter_are_sent_once(connection: Connection) -> None:
    async with delivering(connection, *(Refused("550 no") for _ in range(9))) as bench:
        first, second = back(delivery()), back(delivery(), at=now() + 1)
        await bench.publisher.store(copy(first, "one"), copy(second, "two"))
        await bench.done()
        assert len(bench.channel.sent) == 1
        # Another letter of the same delivery is another matter.
        await bench.publisher.store(copy(back(delivery(), "2-2"), "three"))
        await bench.done()
        assert len(bench.channel.sent) == 2


async def test_a_redelivered_copy_is_retried(connection: Connection) -> None:
    async with delivering(connection, RuntimeError("a bug"), Refused("550 no")) as bench:
        await bench.publisher.store(copy(back(delivery()), "one"))
        await bench.done()
        assert len(bench.channel.sent) == 2


async def test_each_redrive_has_its_own_receipts_and_dead_letter(connection: Connection) -> None:
    """The message ids differ, because the streams would drop repeats."""
    async with delivering(connection, Refused("550 no"), Refused("550 still no")) as bench:
        await bench.store(delivery())
        await bench.done()
        await bench.publisher.store(copy(back(delivery()), "again"))
        await until(lambda: len(bench.channel.sent) == 2, what="the second attempt")
        await bench.done()
        assert [letter.headers["Mss-Detail"] for letter in await bench.stored("MSS_DEAD")] == [
            "550 no", "550 still no",
        ]  # fmt: skip
        receipts = await bench.history()
        assert [r["detail"] for r in receipts] == ["550 no", "550 still no"]
        assert "redrive" not in receipts[0] and receipts[1]["redrive"]["dead_letter"] == "1-1"
