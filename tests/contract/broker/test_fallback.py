"""Fall-back chains against a real broker: what goes on, when, and what is left behind."""

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
    """In order: which delivery, how its attempt ended, whether it was the last."""
    return [(each["delivery"][:1], each["outcome"], each["final"]) for each in await bench.history()]


async def test_what_definitely_failed_goes_on_and_only_the_last_is_given_up(connection: Connection) -> None:
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


async def test_what_may_have_gone_out_does_not_fall_back(connection: Connection) -> None:
    async with delivering(connection, Unknown("silence"), Refused("550 no")) as bench:
        await bench.store(chain())
        await bench.done()
        assert await receipts(bench) == [("c", "unknown", False), ("c", "refused", True)]
        (letter,) = await bench.stored("MSS_DEAD")
        assert "may have gone out" in letter.headers["Mss-Detail"]
        assert len(decode_delivery(letter.data).fallbacks) == 1  # brought back it may still fall back


@pytest.mark.parametrize(("repeats", "reason"), [(False, "unknown"), (True, "exhausted")])
async def test_an_unknown_end_is_the_end_of_the_chain(
    connection: Connection, repeats: bool, reason: str
) -> None:
    once = RetryPolicy(attempts=1)
    async with delivering(connection, Unknown("silence"), retry=once, repeats_unknown=repeats) as bench:
        await bench.store(chain())
        await bench.done()
        (letter,) = await bench.stored("MSS_DEAD")
        assert letter.subject == f"mss.dead.notice.{reason}"
        assert bench.channel.sent == ["c" * 32]


@pytest.mark.parametrize("on_the_broker", [False, True])
async def test_within_cuts_the_wait(
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
async def test_what_only_waited_in_a_worker_that_died_may_still_fall_back(
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


async def test_each_attempt_of_a_chain_is_noted_before_it_begins(connection: Connection) -> None:
    async with delivering(connection, Deferred("451 later"), "250 ok") as bench:
        claims, whole = AttemptClaims(bench.broker.ledger), chain()
        assert await claims.begun(whole.run_id) == 0
        await bench.store(whole)
        await bench.done()
        assert await claims.begun(whole.run_id) == 2


async def test_a_fall_back_that_is_muted_waits_on_the_broker(connection: Connection) -> None:
    async with delivering(connection, Refused("550 no")) as bench:
        muted = delivery(id="e" * 32, not_before=now() + 1_500_000)
        whole = link_fallbacks([delivery(id="c" * 32), muted], 0.0)
        await bench.store(whole)
        await bench.done()
        assert bench.channel.sent == [whole.id]
        await until(lambda: len(bench.channel.sent) == 2, what="the fall-back, once it may go out")
        assert now() >= muted.not_before


async def test_what_comes_after_its_time_goes_on_at_once(connection: Connection) -> None:
    async with delivering(connection, retry=PATIENT) as bench:
        late = chain(within=2.0)
        await bench.store(replace(late, created=late.created - 5_000_000))
        await bench.done()
        assert bench.channel.sent == [late.fallbacks[0].id]


async def test_nobody_with_a_fall_back_waits_for_a_provider_for_longer_than_it_may() -> None:
    flow_control = FlowControl(name="email", breaker=CircuitBreaker(first=3600.0, longest=3600.0))
    for _ in range(5):
        assert await flow_control.acquire(0.01)
        flow_control.record_failure()
    assert not await flow_control.acquire(0.01)
    assert not flow_control.is_closing


@pytest.mark.parametrize("stored_before", [False, True])
async def test_a_crash_after_the_decision_goes_on_with_the_same_once(
    connection: Connection, stored_before: bool
) -> None:
    """The receipt was stored; the fall-back was, or was not; the acknowledgement was not."""
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
