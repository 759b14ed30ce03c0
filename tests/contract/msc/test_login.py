"""Every way to log in, with a broker that requires it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme

import msc


async def works(url: str, **options: Any) -> bool:
    """Return whether a client can log in and send a request."""
    async with msc.connect(url, **options) as client:
        with pytest.raises(msc.NoResponders):
            await client.request("nobody", {})
    return True


async def refused(url: str, **options: Any) -> bool:
    with pytest.raises(msc.ConnectError):
        await msc.connect(url, connect_timeout=20, **options)
    return True


async def test_a_user_logs_in_with_a_password(start_broker: Any) -> None:
    broker = await start_broker('authorization { user: iam, password: "p@s:s/" }')
    address = f"127.0.0.1:{broker.port}"
    assert await works(broker.url, user="iam", password="p@s:s/")
    assert await works(f"nats://iam:p%40s%3As%2F@{address}")
    assert await works(f"iam:p%40s%3As%2F@{address}")
    assert await works([f"nats://other:x@{address}"], user="iam", password="p@s:s/")
    assert await refused(broker.url)
    assert await refused(broker.url, user="iam", password="wrong")
    assert await refused(f"nats://iam:wrong@{address}")


async def test_a_client_logs_in_with_a_token(start_broker: Any) -> None:
    broker = await start_broker('authorization { token: "t@ken" }')
    assert await works(broker.url, token="t@ken")
    assert await works(f"nats://t%40ken@127.0.0.1:{broker.port}")
    assert await refused(broker.url, token="wrong")


def new_user() -> tuple[str, str]:
    """Return the seed and the public key of a new nkey user."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_a_client_logs_in_with_an_nkey(start_broker: Any, tmp_path: Path) -> None:
    seed, public = new_user()
    broker = await start_broker(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    file = tmp_path / "user.nk"
    file.write_text(seed + "\n")
    assert await works(broker.url, nkey=seed)
    assert await works(broker.url, nkey=file)
    assert await refused(broker.url, nkey=new_user()[0])


async def test_a_client_sends_its_credentials(start_broker: Any, tmp_path: Path) -> None:
    """A broker without operators refuses this JWT, but reads it: the client has sent it."""
    seed, public = new_user()
    broker = await start_broker(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    head = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"ed25519-nkey"}').decode().rstrip("=")
    text = (
        f"-----BEGIN NATS USER JWT-----\n{head}.e30.c2ln\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    file = tmp_path / "user.creds"
    file.write_text(text)
    for credentials in (text, file):
        with pytest.raises(msc.ConnectError, match=r"(?i)authorization"):
            await msc.connect(broker.url, credentials=credentials)


@dataclass
class Certificates:
    ca: str
    cert: str
    key: str
    client_cert: str
    client_key: str
    other_ca: str


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def file(name: str, blob: trustme.Blob) -> str:
        blob.write_to_path(folder / name)
        return str(folder / name)

    ca, other = trustme.CA(), trustme.CA()
    server, user = ca.issue_cert("broker.test"), ca.issue_cert("iam@client.test")
    return Certificates(
        ca=file("ca.pem", ca.cert_pem),
        cert=file("server.pem", server.cert_chain_pems[0]),
        key=file("server.key", server.private_key_pem),
        client_cert=file("client.pem", user.cert_chain_pems[0]),
        client_key=file("client.key", user.private_key_pem),
        other_ca=file("other.pem", other.cert_pem),
    )


def tls_settings(certificates: Certificates, more: str = "") -> str:
    return f'tls {{ cert_file: "{certificates.cert}", key_file: "{certificates.key}", {more} }}'


@pytest.mark.parametrize("first", [False, True])
async def test_tls_verifies_the_broker(start_broker: Any, certificates: Certificates, first: bool) -> None:
    broker = await start_broker(tls_settings(certificates, "handshake_first: true" if first else ""))
    tls = {"ca": certificates.ca, "hostname": "broker.test", "handshake_first": first}
    assert await works(broker.url, tls=tls)
    assert await works(broker.url.replace("nats:", "tls:"), tls=msc.TLS(**tls))
    assert await refused(broker.url, tls={**tls, "ca": certificates.other_ca})
    assert await refused(broker.url, tls={**tls, "hostname": "another.test"})
    assert await refused(broker.url, tls={"handshake_first": first})


async def test_mutual_tls_sends_the_client_certificate(start_broker: Any, certificates: Certificates) -> None:
    broker = await start_broker(tls_settings(certificates, f'ca_file: "{certificates.ca}", verify: true'))
    tls = {"ca": certificates.ca, "hostname": "broker.test"}
    assert await works(
        broker.url, tls={**tls, "cert": certificates.client_cert, "key": certificates.client_key}
    )
    with pytest.raises(msc.ConnectError):
        await msc.connect(broker.url, tls=tls, connect_timeout=1)
