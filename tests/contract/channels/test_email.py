"""Mail: definite failures, the mail for each server, and reused connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from contract.channels.conftest import Certificates
from contract.channels.sides import DROP, PATIENT, SILENT, TIMEOUT, World, free_port
from msgspec.structs import replace

from engine.channels import Channel
from engine.model.errors import Deferred, PolicyError, Refused, Unknown
from engine.model.messages import Delivery, Message

TWO = ("a@x.test", "B Two <b@x.test>")


@pytest.fixture(autouse=True, params=[False, True], ids=["one by one", "pipelined"])
def pipelining(world: World, request: pytest.FixtureRequest) -> None:
    world.pipelining = request.param


def refuse(address: str, reply: str) -> Callable[[str], str]:
    return lambda command: reply if address in command else ""


async def test_the_mail_arrives_complete(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    channel = world.mail(side, subject_prefix="[KrossIAM] ", reply_to="Help <help@example.com>")
    message = Message(title="验证", text=".dots\n..\nend", html="<p>.</p>")
    note = await channel.send(replace(delivery, to=TWO, message=message))
    assert note == "main: 250 taken"
    (mail,) = side.mails
    assert mail["To"] == "a@x.test"
    assert mail["Cc"] == "B Two <b@x.test>"
    assert mail["Subject"] == "[KrossIAM] 验证"
    assert mail["Reply-To"] == "Help <help@example.com>"
    assert mail["Message-ID"] == f"<{delivery.id}@example.com>"
    part = mail.get_body(("plain",))
    assert part is not None and part.get_content().split() == [".dots", "..", "end"]
    assert [each for each in side.commands if each.startswith("RCPT")] == [
        "RCPT TO:<a@x.test>",
        "RCPT TO:<b@x.test>",
    ]
    assert f"SIZE={len(side.bodies[0])}" in next(each for each in side.commands if each.startswith("MAIL"))


async def test_the_domain_of_the_message_id_can_be_chosen(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    await world.mail(side, message_id_domain="ids.example").send(delivery)
    assert side.mails[0]["Message-ID"] == f"<{delivery.id}@ids.example>"


# A failure before the body is sent is definite: the spare server gets the mail.
DEFINITE: dict[str, dict[str, Any]] = {
    "refuses the connection": {"greeting": "554 no service"},
    "is busy": {"greeting": "421 too many"},
    "is silent from the start": {"greeting": SILENT},
    "drops the connection": {"greeting": DROP},
    "greets with nonsense": {"greeting": "hello"},
    "refuses the sender": {"MAIL": "550 5.7.1 not you"},
    "refuses the recipient": {"RCPT": "550 5.1.1 no such user"},
    "wants the recipient later": {"RCPT": "451 4.7.1 greylisted"},
    "closes at the recipient": {"RCPT": "421 4.3.2 shutting down"},
    "drops at the recipient": {"RCPT": DROP},
    "is silent at DATA": {"DATA": SILENT},
    "drops at DATA": {"DATA": DROP},
    "refuses at DATA": {"DATA": "554 5.5.1 no"},
    "refuses the body": {"body": "554 5.6.0 spam"},
    "wants the body later": {"body": "452 4.3.1 disk full"},
}


@pytest.mark.parametrize("answers", DEFINITE.values(), ids=DEFINITE.keys())
async def test_the_spare_server_gets_a_mail_that_the_first_definitely_did_not_accept(
    answers: dict[str, Any], world: World, delivery: Delivery
) -> None:
    main, spare = await world.smtp(**answers), await world.smtp()
    timeout = TIMEOUT if SILENT in answers.values() else PATIENT
    note = await world.mail(main, spare, timeout=timeout).send(delivery)
    assert note == "spare: 250 taken"
    assert len(spare.bodies) == 1


@pytest.mark.parametrize("behaviour", [SILENT, DROP, "nonsense", "354 what"])
async def test_a_failure_after_the_body_is_unknown_and_no_other_server_is_tried(
    behaviour: str, world: World, delivery: Delivery
) -> None:
    main, spare = await world.smtp(body=behaviour), await world.smtp()
    timeout = TIMEOUT if behaviour == SILENT else PATIENT
    with pytest.raises(Unknown, match="message"):
        await world.mail(main, spare, timeout=timeout).send(delivery)
    assert len(main.bodies) == 1
    assert spare.connections == 0


async def test_a_server_that_reads_nothing_does_not_block_the_send(world: World, delivery: Delivery) -> None:
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        writer.write(b"220 fake\r\n")
        for reply in (b"250 fake\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await reader.readline()
            writer.write(reply)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    try:
        channel = world.mail({"port": server.sockets[0].getsockname()[1]}, timeout=TIMEOUT)
        with pytest.raises(Unknown):
            await channel.send(replace(delivery, message=Message(text="x" * 20_000_000)))
    finally:
        for writer in held:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("behaviour", [DROP, "421 going", SILENT])
async def test_a_failure_at_quit_does_not_matter(behaviour: str, world: World, delivery: Delivery) -> None:
    main, spare = await world.smtp(QUIT=behaviour), await world.smtp()
    channel = world.mail(main, spare, timeout=TIMEOUT)
    assert await channel.send(delivery) == "main: 250 taken"
    await channel.close()
    assert len(main.bodies) == 1
    assert spare.connections == 0


async def test_a_mail_that_every_server_refuses_is_refused(world: World, delivery: Delivery) -> None:
    main, spare = await world.smtp(RCPT="550 no such user"), await world.smtp(MAIL="553 not you")
    with pytest.raises(Refused, match=r"main: a@x.test: 550 no such user; spare: 553 not you"):
        await world.mail(main, spare).send(delivery)


async def test_a_mail_that_one_server_defers_is_deferred(world: World, delivery: Delivery) -> None:
    main, spare = await world.smtp(RCPT="550 no such user"), await world.smtp(MAIL="451 later")
    with pytest.raises(Deferred, match=r"main: a@x.test: 550 no such user; spare: 451 later"):
        await world.mail(main, spare).send(delivery)


async def test_a_refused_recipient_does_not_stop_the_mail_to_the_others(
    world: World, delivery: Delivery
) -> None:
    main, spare = await world.smtp(RCPT=refuse("b@", "550 5.1.1 unknown")), await world.smtp()
    note = await world.mail(main, spare).send(replace(delivery, to=TWO))
    assert note == "main: 250 taken; refused: b@x.test: 550 5.1.1 unknown"
    assert len(main.bodies) == 1
    assert spare.connections == 0


async def test_only_a_deferred_recipient_is_retried(world: World, delivery: Delivery) -> None:
    main, spare = await world.smtp(RCPT=refuse("b@", "451 greylisted")), await world.smtp()
    channel = world.mail(main, spare)
    whole = replace(delivery, to=("A One <a@x.test>", "B Two <b@x.test>"))
    with pytest.raises(Deferred, match=r"b@x\.test: 451 greylisted") as caught:
        await channel.send(whole)
    assert caught.value.remaining == ("B Two <b@x.test>",)
    assert len(main.bodies) == 1
    assert spare.connections == 0  # it would send the mail a second time


@pytest.mark.parametrize(("second", "error"), [("550 unknown", Refused), ("451 later", Deferred)])
async def test_a_mail_without_an_accepted_recipient_fails(
    second: str, error: type[Exception], world: World, delivery: Delivery
) -> None:
    side = await world.smtp(RCPT=lambda command: second if "b@" in command else "550 unknown")
    with pytest.raises(error, match=f"a@x.test: 550 unknown; b@x.test: {second}"):
        await world.mail(side).send(replace(delivery, to=TWO))
    assert side.bodies == []


async def test_a_mail_that_only_the_archive_accepts_is_not_delivered(
    world: World, delivery: Delivery
) -> None:
    side = await world.smtp(RCPT=refuse("a@x.test", "550 unknown"))
    with pytest.raises(Refused, match="550 unknown"):
        await world.mail({"port": side.port, "bcc": "archive@x.test"}).send(delivery)
    assert side.bodies == []


async def test_the_addresses_of_one_server_are_in_no_other_servers_mail(
    world: World, delivery: Delivery
) -> None:
    main, spare = await world.smtp(body="554 spam"), await world.smtp()
    first = {"port": main.port, "cc": "cc@x.test", "bcc": ["bcc@x.test"], "reply_to": "main@x.test"}
    await world.mail(first, {"port": str(spare.port)}, reply_to="general@x.test").send(delivery)
    (seen,), (clean,) = main.mails, spare.mails
    assert (seen["Cc"], seen["Reply-To"]) == ("cc@x.test", "main@x.test")
    assert (clean["Cc"], clean["Reply-To"]) == (None, "general@x.test")
    assert sum(each.startswith("RCPT") for each in main.commands) == 3
    assert sum(each.startswith("RCPT") for each in spare.commands) == 1
    assert b"bcc@x.test" not in main.bodies[0] + spare.bodies[0]


async def test_connections_are_reused(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    channel = world.mail(side)
    for _ in range(5):
        await channel.send(delivery)
    assert (side.connections, len(side.bodies)) == (1, 5)


async def test_a_connection_is_reused_after_a_refusal(world: World, delivery: Delivery) -> None:
    side = await world.smtp(RCPT=refuse("bad@", "550 unknown"))
    channel = world.mail(side)
    with pytest.raises(Refused):
        await channel.send(replace(delivery, to=("bad@x.test",)))
    await channel.send(delivery)
    assert side.connections == 1
    assert "RSET" in side.commands


async def test_a_connection_that_waits_for_a_cancelled_mail_is_closed(
    world: World, delivery: Delivery
) -> None:
    side = await world.smtp(RCPT="450 later", DATA="354 go ahead all the same")
    channel = world.mail(side)
    for _ in range(2):
        with pytest.raises(Deferred, match="450 later") as caught:
            await channel.send(delivery)
        assert caught.value.provider_works
    assert side.bodies == []
    assert side.connections == (2 if world.pipelining else 1)


async def test_an_unexpected_reply_ends_the_connection(world: World, delivery: Delivery) -> None:
    side = await world.smtp(body="250 taken\r\n250 and another thing")
    channel = world.mail(side)
    for _ in range(2):
        assert await channel.send(delivery) == "main: 250 taken"
    assert side.connections == 2


async def test_a_server_that_keeps_failing_is_skipped_except_for_probes(
    world: World, delivery: Delivery
) -> None:
    main, spare = await world.smtp(MAIL="451 out of order"), await world.smtp()
    channel = world.mail(main, spare)
    for _ in range(20):
        assert await channel.send(delivery) == "spare: 250 taken"
    assert sum(each.startswith("MAIL") for each in main.commands) == 5
    with pytest.raises(Deferred):  # both fail now; the first is still skipped
        spare.answers["MAIL"] = "451 me too"
        await channel.send(delivery)
    assert sum(each.startswith("MAIL") for each in main.commands) == 5


async def test_the_pool_keeps_at_most_as_many_connections_as_are_used_at_once(
    world: World, delivery: Delivery
) -> None:
    side = await world.smtp()
    channel = world.mail(side, concurrency=4)
    for _ in range(3):
        await asyncio.gather(*(channel.send(delivery) for _ in range(4)))
    assert side.connections <= 4
    assert len(side.bodies) == 12


async def test_an_idle_connection_that_the_server_closed_is_replaced(
    world: World, delivery: Delivery
) -> None:
    side = await world.smtp()
    channel = world.mail(side)
    await channel.send(delivery)
    side.writers[0].close()
    await side.gone.get()
    side.gone.put_nowait(None)  # the clean-up counts them
    assert await channel.send(delivery) == "main: 250 taken"
    assert side.connections == 2


@pytest.mark.parametrize("behaviour", ["421 4.4.2 idle too long", DROP, SILENT])
async def test_a_stale_connection_is_replaced_once(behaviour: str, world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    channel = world.mail(side, timeout=TIMEOUT)
    await channel.send(delivery)
    side.answers["MAIL"] = lambda command: behaviour if side.connections == 1 else ""
    assert await channel.send(delivery) == "main: 250 taken"
    assert (side.connections, len(side.bodies)) == (2, 2)


async def test_a_server_that_always_closes_is_tried_only_once_more(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    channel = world.mail(side)
    await channel.send(delivery)
    side.answers["MAIL"] = "421 4.3.2 closing"
    with pytest.raises(Deferred, match=r"421 4\.3\.2 closing"):
        await channel.send(delivery)
    assert side.connections == 2


async def test_a_cancelled_send_leaves_no_connection_for_the_next(world: World, delivery: Delivery) -> None:
    reached = asyncio.Event()

    def stop_at_mail(command: str) -> str:
        reached.set()
        return SILENT

    side = await world.smtp(MAIL=stop_at_mail)
    channel = world.mail(side)
    send = asyncio.create_task(channel.send(delivery))
    await reached.wait()
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send
    del side.answers["MAIL"]
    await channel.send(delivery)
    assert side.connections == 2


@pytest.mark.parametrize(
    "evil",
    [
        "x\r\nBcc: evil@x.test",
        "x\nBcc: evil@x.test",
        "=?utf-8?q?x=0D=0ABcc:_evil=40x.test?=",
        "x\u2028Bcc: e@x.test",
    ],
    ids=ascii,
)
async def test_no_payload_adds_a_header_or_a_recipient(evil: str, world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    channel = world.mail(side)
    await channel.send(replace(delivery, message=Message(title=evil, text="x"), id=evil))
    (mail,) = side.mails
    assert "Bcc" not in mail
    assert sum(each.startswith("RCPT") for each in side.commands) == 1
    with pytest.raises(Refused, match="not a mail address"):
        await channel.send(
            replace(delivery, to=(f"{evil} <a@x.test>",) if "=?" in evil else (f"a@x.test{evil}",))
        )
    with pytest.raises(Refused, match="not a mail address"):
        await channel.send(replace(delivery, to=("a@x.test> SIZE=1\r\nRCPT TO:<evil@x.test",)))


async def test_without_an_address_it_is_refused(world: World, delivery: Delivery) -> None:
    with pytest.raises(Refused, match="no address"):
        await world.mail(await world.smtp()).send(replace(delivery, to=()))


async def test_an_international_domain_needs_no_extension(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    await world.mail(side).send(replace(delivery, to=("info@bücher.example",)))
    assert "RCPT TO:<info@xn--bcher-kva.example>" in side.commands


async def test_an_international_address_needs_a_server_with_smtputf8(
    world: World, delivery: Delivery
) -> None:
    chinese = replace(delivery, to=("用户@例子.广告",))
    plain, able = await world.smtp(), await world.smtp(extensions=("SMTPUTF8", "8BITMIME"))
    with pytest.raises(Refused, match="does not offer SMTPUTF8"):
        await world.mail(plain).send(chinese)
    assert await world.mail(plain, able).send(chinese) == "spare: 250 taken"
    assert "RCPT TO:<用户@例子.广告>" in able.commands
    assert "SMTPUTF8" in next(each for each in able.commands if each.startswith("MAIL"))
    assert able.mails[0]["To"] == "用户@例子.广告"


async def test_a_mail_beyond_the_servers_limit_is_not_sent(world: World, delivery: Delivery) -> None:
    side = await world.smtp(extensions=("SIZE 100",))
    with pytest.raises(Refused, match="the server accepts 100"):
        await world.mail(side).send(delivery)
    assert not any(each.startswith("MAIL") for each in side.commands)


class Catcher:
    """The handler of a real server."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes, bool]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        encrypted = session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None
        self.mails.append((str(envelope.mail_from), list(envelope.rcpt_tos), content, encrypted))
        return "250 OK"


@asynccontextmanager
async def real_server(
    *, implicit: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[int, Catcher]]:
    catcher = Catcher()
    loop = asyncio.get_running_loop()
    transports: list[Any] = []

    class Recorded(SMTP):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)
            super().connection_made(transport)

    server = await loop.create_server(
        lambda: Recorded(catcher, loop=loop, hostname="localhost", **options), "127.0.0.1", 0, ssl=implicit
    )
    try:
        yield server.sockets[0].getsockname()[1], catcher
    finally:
        server.close()
        for transport in transports:
            if not transport.is_closing():  # a closed TLS transport cannot be aborted
                transport.abort()
        await server.wait_closed()


def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"u", b"secret")
    return AuthResult(success=good, handled=good)


def starttls(context: ssl.SSLContext) -> dict[str, Any]:
    return {"tls_context": context, "require_starttls": True, "authenticator": login, "auth_required": True}


async def test_a_real_server_accepts_an_unencrypted_mail(world: World, delivery: Delivery) -> None:
    async with real_server() as (port, catcher):
        channel = world.mail({"port": port})
        note = await channel.send(replace(delivery, to=TWO))
        await channel.close()
    assert note == "main: 250 OK"
    ((sender, recipients, _, encrypted),) = catcher.mails
    assert (sender, recipients, encrypted) == ("noreply@example.com", ["a@x.test", "b@x.test"], False)


async def test_a_mail_is_sent_with_starttls_and_a_password(
    world: World, delivery: Delivery, certificates: Certificates
) -> None:
    async with real_server(**starttls(certificates.server("127.0.0.1"))) as (port, catcher):
        mta = {
            "port": port,
            "tls": "starttls",
            "user": "u",
            "password": "secret",
            "ca": str(certificates.file),
        }
        channel = world.mail(mta)
        await channel.send(delivery)
        await channel.send(delivery)
        await channel.close()
    assert [encrypted for *_, encrypted in catcher.mails] == [True, True]


async def test_a_mail_is_sent_with_implicit_tls(
    world: World, delivery: Delivery, certificates: Certificates
) -> None:
    async with real_server(implicit=certificates.server("127.0.0.1")) as (port, catcher):
        channel = world.mail({"port": port, "tls": "implicit", "ca": str(certificates.file)})
        await channel.send(delivery)
        await channel.close()
    assert [encrypted for *_, encrypted in catcher.mails] == [True]


async def test_a_wrong_password_is_a_definite_failure(
    world: World, delivery: Delivery, certificates: Certificates
) -> None:
    spare = await world.smtp()
    async with real_server(**starttls(certificates.server("127.0.0.1"))) as (port, _):
        mta = {
            "port": port,
            "tls": "starttls",
            "user": "u",
            "password": "wrong",
            "ca": str(certificates.file),
        }
        with pytest.raises(Deferred, match="535") as failed:
            await world.mail(mta).send(delivery)
        assert "wrong" not in str(failed.value)
        assert await world.mail(mta, spare).send(delivery) == "spare: 250 taken"


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_server_with_a_certificate_for_another_name_gets_nothing(
    tls: str, world: World, delivery: Delivery, certificates: Certificates
) -> None:
    context = certificates.server("other.example")
    options = {"implicit": context} if tls == "implicit" else starttls(context)
    spare = await world.smtp()
    async with real_server(**options) as (port, catcher):
        mta = {"port": port, "tls": tls, "user": "u", "password": "secret", "ca": str(certificates.file)}
        with pytest.raises(Deferred, match=r"(?i)certificate"):
            await world.mail(mta).send(delivery)
        assert await world.mail(mta, spare).send(delivery) == "spare: 250 taken"
    assert catcher.mails == []


async def test_a_server_with_a_certificate_of_an_unknown_authority_gets_nothing(
    world: World, delivery: Delivery, certificates: Certificates
) -> None:
    async with real_server(implicit=certificates.server("127.0.0.1")) as (port, catcher):
        with pytest.raises(Deferred, match=r"(?i)certificate"):
            await world.mail({"port": port, "tls": "implicit"}).send(delivery)
    assert catcher.mails == []


async def test_nothing_is_sent_unencrypted_if_tls_is_required(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    with pytest.raises(Deferred, match="offers no STARTTLS"):
        await world.mail({"port": side.port, "tls": "starttls", "user": "u", "password": "secret"}).send(
            delivery
        )
    assert [each.split()[0] for each in side.commands] == ["EHLO"]


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_server_that_is_silent_before_tls_is_a_definite_failure(
    tls: str, world: World, delivery: Delivery
) -> None:
    side = await world.smtp(greeting=SILENT, STARTTLS=SILENT, extensions=("STARTTLS",))
    if tls == "starttls":
        del side.answers["greeting"]
    with pytest.raises(Deferred):
        await world.mail({"port": side.port, "tls": tls}, timeout=TIMEOUT).send(delivery)


async def test_a_password_is_sent_unencrypted_to_loopback_only(world: World, delivery: Delivery) -> None:
    side = await world.smtp(extensions=("AUTH PLAIN",), AUTH="235 welcome")
    await world.mail({"port": side.port, "user": "u", "password": "secret"}).send(delivery)
    assert any(each.startswith("AUTH PLAIN") for each in side.commands)
    with pytest.raises(PolicyError, match="a password is not sent without TLS"):
        world.mail({"host": "192.0.2.1", "port": 25, "user": "u", "password": "secret"})


async def test_a_server_without_login_is_a_definite_failure(world: World, delivery: Delivery) -> None:
    side = await world.smtp()
    with pytest.raises(Deferred, match="AUTH"):
        await world.mail({"port": side.port, "user": "u", "password": "secret"}).send(delivery)


@pytest.mark.parametrize(
    "options",
    [
        {"from": "nobody"},
        {"reply_to": "a@x.test, b@x.test"},
        {"message_id_domain": "x\r\ny"},
        {"mtas": [{"host": "localhost", "port": "0"}]},
        {"mtas": [{"host": "localhost", "port": "smtp"}]},
        {"mtas": [{"host": "localhost", "ca": "/nowhere/ca.pem"}]},
        {"mtas": [{"host": "localhost", "bcc": "nobody"}]},
        {"mtas": [{"host": "local\nhost"}]},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_reported_with_their_place(
    options: dict[str, Any], world: World
) -> None:
    with pytest.raises(PolicyError) as failed:
        world.mail({"port": free_port()}, **options)
    (problem,) = failed.value.problems
    assert str(problem.place) == "channels.yaml:3:5"
    assert problem.code == "unusable-channel"


@pytest.mark.parametrize(
    ("given", "port", "tls"),
    [
        ({}, 587, "starttls"),
        ({"port": 465}, 465, "implicit"),
        ({"port": "465"}, 465, "implicit"),
        ({"port": 587}, 587, "starttls"),
        ({"port": 25}, 25, "starttls"),
        ({"tls": "implicit"}, 465, "implicit"),
        ({"tls": "none"}, 25, "none"),
        ({"tls": "none", "port": 2525}, 2525, "none"),
        ({"host": "127.0.0.1", "port": 2525}, 2525, "none"),
        ({"host": "localhost", "port": 465}, 465, "implicit"),
        ({"host": "localhost", "port": 2525, "tls": "starttls"}, 2525, "starttls"),
    ],
)
def test_port_and_tls_have_matching_defaults(
    given: dict[str, Any], port: int, tls: str, world: World
) -> None:
    channel: Channel = world.open(
        "email", **{"from": "a@x.test", "mtas": [{"host": "mail.example", **given}]}
    )
    (mta,) = channel._settings.mtas  # type: ignore[attr-defined]
    assert mta.name == given.get("host", "mail.example")
    assert (mta.port, mta.tls, mta.context is None) == (port, tls, tls == "none")


def test_no_secret_is_in_the_repr_of_the_settings(world: World) -> None:
    channel: Any = world.mail({"port": 2525, "user": "u", "password": "hunter2"})
    assert "hunter2" not in repr(channel._settings)
