"""Fallback chains on a real broker: which fallback is sent, when, and what it leaves on the broker."""

from __future__ import annotations

import pytest
from contract.broker.test_deliver import Bench, delivering, delivery, handed_out_and_lost, prepared
from msgspec.structs import replace
from support.waiting import until

from engine.broker import RESENT_HEADER, Connection, OutgoingMessage
from engine.broker.codec import decode_delivery, encode
from engine.channels.circuit_breaker import CircuitBreaker
from engine.history.entries import receipt_entry
from engine.model.errors import Deferred, Refused, Unknown
from engine.model.messages import Delivery, Outcome, Receipt
from engine.pipeline.claims import AttemptClaims
from engine.pipeline.flow_control import FlowControl
from engine.planning.draft import link_fallbacks, next_fallback
from engine.rules.rulebook import RetryPolicy
from engine.runtime import now

PATIENT = RetryPolicy(attempts=9, first=600.0, max=600.0, deadline=86400.0)


def chain(within: float = 0.0, name: str = "c") -> Delivery:
    return link_fallbacks([delivery(id=name * 32), delivery(id="e" * 32, to=("b@example.com",))], within)


async def receipts(bench: Bench) -> list[tuple[str, str, bool]]:
    """Return delivery, outcome and finality of each receipt, in order."""
    return [(each["delivery"][:1], each["outcome"], each["final"]) for each in await bench.history()]


async def test_a_definite_failure_falls_back_and_only_the_last_one_is_dead_lettered(
    connection: Connection,
) -> None:
    answers = [Refused("550 no"), "250 ok", Refused("551 no"), Refused("552 no")]
    async with delivering(connection, *answers) as bench:
        whole = chain()
        await bench.store(whole)
        await bench.done()
        following = whole.fallbacks[0].id
        assert bench.channel.sent == [whole.id, following]
        first, second = await bench.history()
        assert (first["outcome"], first["final"], first["detail"]) == ("refused", True, "550 no")
        assert first["fallback"] == {
            "id": following, "channel": "email", "to": ["b@example.com"], "locale": "en",
        }  # fmt: skip
        assert (second["delivery"], second["outcome"]) == (following, "sent")
        assert await bench.stored("MSS_DEAD") == []
        assert await bench.stored("MSS_NOTICE") == []  # no word to the operators: the reader was told
        assert bench.metrics.value("mss_delivery_fallbacks_total", channel="email") == 1

        await bench.store(chain(name="f"))
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert (letter.headers["Mss-Chain"], letter.headers["Mss-Detail"]) == ("email, email", "552 no")
        assert decode_delivery(letter.data).to == ("b@example.com",)
        assert len(await bench.stored("MSS_NOTICE")) == 1


async def test_a_delivery_that_may_have_been_sent_does_not_fall_back(connection: Connection) -> None:
    async with delivering(connection, Unknown("silence"), Refused("550 no")) as bench:
        await bench.store(chain())
        await bench.done()
        assert await receipts(bench) == [("c", "unknown", False), ("c", "refused", True)]
        (letter,) = await bench.stored("MSS_DEAD")
        assert "may have gone out" in letter.headers["Mss-Detail"]
        assert len(decode_delivery(letter.data).fallbacks) == 1  # brought back it may still fall back


@pytest.mark.parametrize(("repeats", "reason"), [(False, "unknown"), (True, "exhausted")])
async def test_an_unknown_result_ends_the_chain(connection: Connection, repeats: bool, reason: str) -> None:
    once = RetryPolicy(attempts=1)
    async with delivering(connection, Unknown("silence"), retry=once, repeats_unknown=repeats) as bench:
        await bench.store(chain())
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.subject == f"mss.dead.notice.{reason}"
        assert bench.channel.sent == ["c" * 32]


@pytest.mark.parametrize("on_the_broker", [False, True])
async def test_within_limits_the_wait(
    connection: Connection, on_the_broker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_the_broker:
        monkeypatch.setattr("engine.pipeline.deliver._LONG_WAIT", 0.0)
    async with delivering(connection, Deferred("451 later"), retry=PATIENT) as bench:
        await bench.store(chain(within=2.0))  # else in ten minutes
        await until(lambda: len(bench.channel.sent) == 2, what="the fall-back")
        await bench.done()
        assert [each[:2] for each in await receipts(bench)] == [
            ("c", "deferred"), ("c", "deferred"), (chain().fallbacks[0].id[:1], "sent"),
        ]  # fmt: skip
        assert len(bench.channel.sent) == 2  # nothing was tried at the end


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_delivery_that_a_killed_worker_did_not_begin_may_still_fall_back(
    connection: Connection, has_begun: bool
) -> None:
    whole = chain()
    async with prepared(connection) as bench:
        await handed_out_and_lost(bench, whole)
        if has_begun:
            await AttemptClaims(bench.broker.ledger).note(whole.run_id, 1)
    async with delivering(connection, Refused("550 no")) as bench:
        await bench.done()
        outcomes = [outcome for _, outcome, _ in await receipts(bench)]
        if has_begun:
            assert outcomes == ["unknown", "refused"]
            assert len(await bench.stored("MSS_DEAD")) == 1
        else:
            assert outcomes == ["deferred", "refused", "sent"]
            assert await bench.stored("MSS_DEAD") == []


async def test_each_attempt_of_a_chain_is_recorded_before_it_begins(connection: Connection) -> None:
    async with delivering(connection, Deferred("451 later"), "250 ok") as bench:
        claims, whole = AttemptClaims(bench.broker.ledger), chain()
        assert await claims.begun(whole.run_id) == 0
        await bench.store(whole)
        await bench.done()
        assert await claims.begun(whole.run_id) == 2


async def test_a_muted_fallback_waits_on_the_broker(connection: Connection) -> None:
    async with delivering(connection, Refused("550 no")) as bench:
        muted = delivery(id="e" * 32, not_before=now() + 1_500_000)
        whole = link_fallbacks([delivery(id="c" * 32), muted], 0.0)
        await bench.store(whole)
        await bench.done()
        assert bench.channel.sent == [whole.id]
        await until(lambda: len(bench.channel.sent) == 2, what="the fall-back, once it may go out")
        assert now() >= muted.not_before


async def test_a_late_delivery_falls_back_at_once(connection: Connection) -> None:
    async with delivering(connection, retry=PATIENT) as bench:
        late = chain(within=2.0)
        await bench.store(replace(late, created=late.created - 5_000_000))
        await bench.done()
        assert bench.channel.sent == [late.fallbacks[0].id]


async def test_a_delivery_with_a_fallback_waits_for_the_provider_only_until_its_fallback() -> None:
    flow_control = FlowControl(name="email", breaker=CircuitBreaker(first=3600.0, longest=3600.0))
    for _ in range(5):
        assert await flow_control.acquire(0.01)
        flow_control.record_failure()
    assert not await flow_control.acquire(0.01)
    assert not flow_control.is_closing


@pytest.mark.parametrize("stored_before", [False, True])
async def test_after_a_crash_the_recorded_fallback_is_sent_once(
    connection: Connection, stored_before: bool
) -> None:
    """The receipt is stored, the fallback may be, and the acknowledgement is not."""
    async with delivering(connection) as bench:
        whole = chain()
        following = next_fallback(whole, at=whole.created)
        decided = Receipt(
            delivery=whole, attempt=1, outcome=Outcome.REFUSED, detail="", at=whole.created, final=True,
            fallback=following,
        )  # fmt: skip
        await bench.publisher.store(receipt_entry(bench.broker.topology, decided, id_="1"))
        subject = bench.broker.topology.delivery_subject(whole.kind, whole.channel)
        if stored_before:  # so long ago that the broker has forgotten its id
            await bench.publisher.store(
                OutgoingMessage(subject=subject, payload=encode(following), id="long ago")
            )
            await bench.done()
        for copy in ("first", "second"):
            again = OutgoingMessage(
                subject=subject, payload=encode(whole), id=copy, headers={RESENT_HEADER: "1"}
            )
            await bench.publisher.store(again)
        await until(lambda: len(bench.channel.sent) >= 1, what="the fall-back")
        await bench.done()
        assert bench.channel.sent == [following.id]
        assert [outcome for _, outcome, _ in await receipts(bench)] == ["refused", "sent"]
