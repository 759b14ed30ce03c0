"""Connect options become arguments for nats-py."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import RawCredentials

from msc import TLS, ConnectError, ConnectOptions

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
CREDENTIALS = f"""-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJqd3QifQ.e30.sig
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{SEED}
------END USER NKEY SEED------
"""
LOGIN = ("user", "password", "token", "nkeys_seed", "nkeys_seed_str", "user_credentials")


def login(**options: Any) -> dict[str, Any]:
    arguments = ConnectOptions(**options).to_nats()
    return {name: arguments[name] for name in LOGIN if name in arguments}


def test_the_defaults_keep_a_client_connected() -> None:
    arguments = ConnectOptions().to_nats()
    assert arguments == {
        "servers": ["nats://127.0.0.1:4222"],
        "name": None,
        "inbox_prefix": "_INBOX",
        "pending_size": 8 * 1024 * 1024,
        "max_reconnect_attempts": -1,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
    }


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("n1", ["n1"]),
        ("nats://n1:4222", ["nats://n1:4222"]),
        ("n1:1, n2:2,", ["n1:1", "n2:2"]),
        (["n1", "n2,n3"], ["n1", "n2", "n3"]),
        (("nats://[::1]:4222",), ["nats://[::1]:4222"]),
    ],
)
def test_servers_become_a_list(servers: str | Sequence[str], expected: list[str]) -> None:
    assert ConnectOptions(servers=servers).to_nats()["servers"] == expected


@pytest.mark.parametrize("servers", ["", " , ", [], "nats://", "nats://n1:notaport", "nats://u:secret@:4222"])
def test_invalid_servers_are_refused(servers: str | Sequence[str]) -> None:
    with pytest.raises(ConnectError) as refused:
        ConnectOptions(servers=servers).to_nats()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"user": "u", "password": "p"}, {"user": "u", "password": "p"}),
        ({"user": "u"}, {"user": "u", "password": ""}),
        ({"token": "t"}, {"token": "t"}),
        ({"nkey": SEED}, {"nkeys_seed_str": SEED}),
        ({"nkey": f" {SEED}\n"}, {"nkeys_seed_str": SEED}),
        ({"servers": "nats://u:p%40s%3A@n1"}, {"user": "u", "password": "p@s:"}),
        ({"servers": "nats://t%2Fk@n1"}, {"token": "t/k"}),
        ({"servers": "u:p@n1:4222,n2"}, {"user": "u", "password": "p"}),
        ({"servers": "nats://u:p@n1,nats://u:p@n2"}, {"user": "u", "password": "p"}),
        ({"servers": "nats://u:p@n1", "token": "t"}, {"token": "t"}),
    ],
)
def test_each_way_to_log_in_has_its_arguments(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert login(**options) == expected


def test_the_login_is_removed_from_the_addresses() -> None:
    assert ConnectOptions(servers="nats://u:p@n1:1,u:p@n2").to_nats()["servers"] == ["nats://n1:1", "n2"]


def test_an_nkey_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "user.nk"
    file.write_text(f"{SEED}\n")
    assert login(nkey=file) == login(nkey=str(file)) == {"nkeys_seed": str(file)}


def test_credentials_may_be_a_file_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text(CREDENTIALS)
    assert login(credentials=file) == login(credentials=str(file)) == {"user_credentials": str(file)}
    given = login(credentials=CREDENTIALS)["user_credentials"]
    assert isinstance(given, RawCredentials)
    assert given.data == CREDENTIALS


@pytest.mark.parametrize(
    "options",
    [
        {"user": "u", "token": "t"},
        {"nkey": SEED, "credentials": CREDENTIALS},
        {"password": "p"},
        {"nkey": "/nowhere/user.nk"},
        {"nkey": SEED[:-1]},
        {"credentials": "/nowhere/user.creds"},
        {"credentials": CREDENTIALS.replace("SEED", "")},
        {"servers": "nats://u:p@n1,nats://v:p@n2"},
        {"tls": {"ca": "/nowhere/ca.pem"}},
        {"tls": {"cafile": "ca.pem"}},
    ],
)
def test_mistakes_are_reported_at_once_without_secrets(options: dict[str, Any]) -> None:
    with pytest.raises(ConnectError) as refused:
        ConnectOptions(**options).to_nats()
    assert SEED[:20] not in str(refused.value)


def test_a_file_with_other_content_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff\x00")
    for name in ("nkey", "credentials"):
        with pytest.raises(ConnectError):
            ConnectOptions(**{name: str(file)}).to_nats()


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(ConnectOptions(user="u", password="hush", token="hush", nkey="hush", credentials="hush"))
    assert "hush" not in shown


@pytest.mark.parametrize("tls", [True, TLS(), {}, {"handshake_first": False}])
def test_tls_always_verifies_the_broker(tls: Any) -> None:
    arguments = ConnectOptions(tls=tls).to_nats()
    if not tls:
        assert "tls" not in arguments
        return
    context = arguments["tls"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_tls_may_come_from_the_address_or_a_context() -> None:
    assert ConnectOptions(servers="tls://n1").to_nats()["tls"].verify_mode == ssl.CERT_REQUIRED
    context = ssl.create_default_context()
    assert ConnectOptions(tls=context).to_nats()["tls"] is context


def test_tls_has_a_hostname_and_a_handshake_first() -> None:
    arguments = ConnectOptions(tls={"hostname": "broker.test", "handshake_first": True}).to_nats()
    assert (arguments["tls_hostname"], arguments["tls_handshake_first"]) == ("broker.test", True)


def test_tls_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError):
        ConnectOptions(tls="yes").to_nats()  # type: ignore[arg-type]
