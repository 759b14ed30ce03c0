"""Connect options: the address of a broker and every way to authenticate, as arguments for nats-py."""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nats.aio.client import RawCredentials

from .errors import ConnectError

DEFAULT_SERVER = "nats://127.0.0.1:4222"
BUFFER = 8 * 1024 * 1024  # bytes of messages that may wait for the broker

_SEED = re.compile(r"S[A-Z][A-Z2-7]{56}")
_JWT, _JWT_SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z]+://)?(?P<userinfo>[^/]*)@(?P<rest>.*)", re.DOTALL)
_WITH_AUTHORITY = re.compile(r"(nats|tls|wss?)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The TLS settings. The certificate of the broker is always verified."""

    ca: str | Path | None = None  # file of trusted certificates; by default those of the system
    cert: str | Path | None = None  # file of the client certificate, for mutual TLS
    key: str | Path | None = None  # file of its key
    hostname: str | None = None  # in the certificate, if it is not that of the address
    handshake_first: bool = False  # TLS before the INFO of the broker, which needs the same setting

    def context(self) -> ssl.SSLContext:
        """Return the context for ``ssl``. Raises ConnectError if a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # includes ssl.SSLError
            named = ", ".join(str(file) for file in (self.ca, self.cert, self.key) if file)
            raise ConnectError(f"TLS files cannot be used ({named}): {error}") from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """The addresses of the broker, and the login.

    ``servers`` is one address, several with commas, or a list. An address may contain user and password, or
    a token (``nats://user:p%40ss@host``); the other options have priority. ``nkey`` is a seed or its file,
    ``credentials`` the text of a credentials file or its path. ``tls`` is a TLS, a mapping of its fields, an
    SSL context, or True for the certificates of the system.
    """

    servers: str | Sequence[str] = DEFAULT_SERVER
    name: str | None = None  # shown by the broker
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey: str | Path | None = field(default=None, repr=False)
    credentials: str | Path | None = field(default=None, repr=False)
    tls: TLS | Mapping[str, Any] | ssl.SSLContext | bool | None = None
    inbox_prefix: str = "_INBOX"  # of the subjects of replies
    pending_size: int = BUFFER  # bytes that nats-py may buffer

    def to_nats(self) -> dict[str, Any]:
        """Return the arguments for ``connect`` of nats-py, without callbacks and time limits.

        Reads the files to find mistakes now. Raises ConnectError.
        """
        servers, login = _split_login(addresses(self.servers))
        arguments: dict[str, Any] = {
            "servers": servers,
            "name": self.name,
            "inbox_prefix": self.inbox_prefix,
            "pending_size": self.pending_size,
            "max_reconnect_attempts": -1,  # with a limit, the client would close at the end
            "ping_interval": 10,  # with two outstanding, a broker that fails is noticed within 30 s
            "max_outstanding_pings": 2,
        }
        return arguments | (self._login() or login) | self._tls(servers)

    def _login(self) -> dict[str, Any]:
        given = {
            "user": self.user, "token": self.token, "nkey": self.nkey, "credentials": self.credentials,
        }  # fmt: skip
        names = [name for name, value in given.items() if value]
        if len(names) > 1:
            raise ConnectError(f"several ways to log in: {', '.join(names)}; give one")
        if self.password and not self.user:
            raise ConnectError("a password without a user")
        if self.user:
            # nats-py sends neither when one is None.
            return {"user": self.user, "password": self.password or ""}
        if self.token:
            return {"token": self.token}
        if self.nkey:
            return _nkey(self.nkey)
        return _credentials(self.credentials) if self.credentials else {}

    def _tls(self, servers: Sequence[str]) -> dict[str, Any]:
        if not self.tls and any(server.startswith("tls://") for server in servers):
            return {"tls": TLS().context()}
        if not self.tls:
            return {}
        if isinstance(self.tls, ssl.SSLContext):
            return {"tls": self.tls}
        tls = self.tls
        if tls is True:
            tls = TLS()
        elif isinstance(tls, Mapping):
            unknown = tls.keys() - {known.name for known in fields(TLS)}
            if unknown:
                raise ConnectError(f"unknown TLS options: {', '.join(sorted(map(str, unknown)))}")
            tls = TLS(**tls)
        if not isinstance(tls, TLS):
            raise TypeError(f"tls is a {type(tls).__name__}")
        more = {"tls_hostname": tls.hostname} if tls.hostname else {}
        return {"tls": tls.context(), "tls_handshake_first": tls.handshake_first, **more}


def addresses(servers: str | Sequence[str]) -> list[str]:
    """Return ``servers`` as a list. Raises ConnectError if it is empty or has an invalid address."""
    parts = [servers] if isinstance(servers, str) else list(servers)
    found = [address.strip() for part in parts for address in part.split(",") if address.strip()]
    if not found:
        raise ConnectError("no server is given")
    for address in found:
        try:
            parsed = urlsplit(address if _WITH_AUTHORITY.match(address) else f"nats://{address}")
            usable = bool(parsed.hostname) and parsed.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConnectError(f"not the address of a NATS server: {_USERINFO.sub(_hide, address)}")
    return found


def _hide(match: re.Match[str]) -> str:
    return f"{match['scheme'] or ''}…@{match['rest']}"


def _split_login(servers: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the addresses without the login, and the login as arguments.

    nats-py would not decode a login in an address, for example %40. It would use it for that server only, not
    for those that the cluster announces.
    """
    bare: list[str] = []
    logins: list[dict[str, Any]] = []
    for server in servers:
        match = _USERINFO.fullmatch(server)
        if match is None:
            bare.append(server)
            continue
        bare.append(f"{match['scheme'] or ''}{match['rest']}")
        user, colon, password = match["userinfo"].partition(":")
        login = {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
        if login not in logins:
            logins.append(login)
    if len(logins) > 1:
        raise ConnectError("the addresses name different users; give one by name")
    return bare, logins[0] if logins else {}


def _nkey(nkey: str | Path) -> dict[str, Any]:
    _require_nkeys()
    text = str(nkey).strip()
    if _SEED.fullmatch(text):
        return {"nkeys_seed_str": text}
    seed = _read(text, "nkey seed").strip()
    if not _SEED.fullmatch(seed):
        raise ConnectError(f"no nkey seed in {text}")
    return {"nkeys_seed": text}


def _credentials(credentials: str | Path) -> dict[str, Any]:
    _require_nkeys()
    text = str(credentials)
    given = _JWT in text
    content = text if given else _read(text, "credentials")
    # Without both, nats-py would search without end, or fail during a reconnect.
    if _JWT not in content or _JWT_SEED not in content:
        raise ConnectError(f"no JWT and seed in {'the credentials' if given else text}")
    return {"user_credentials": RawCredentials(content) if given else text}


def _read(path: str, what: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        # A mistyped seed looks like a path, and must not be logged.
        shown = (
            path if len(path) < 1024 and "\n" not in path and not path.startswith("S") else "the given value"
        )
        raise ConnectError(f"the {what} cannot be read from {shown}: {reason}") from None


def _require_nkeys() -> None:
    if importlib.util.find_spec("nkeys") is None:
        raise ConnectError("to log in with an nkey or credentials: pip install 'mss-client[nkeys]'")
