"""Report secrets in plain text, which every reader of the policy could use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from ...documents.cursor import Diagnostics, DocumentNode

_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::-([^}]*))?\}")
_SECRET_NAME = re.compile(r"(?i)(^|[_-])(pass(word|wd)?|secret|token|api_?key|key|auth|credentials?)$")
_SECRET_HEADER = re.compile(r"(?i)^((proxy-)?authorization|cookie)$|token|secret|api-?key|password")
_SCHEME = re.compile(r"(?i)^(bearer|basic|token|apikey|digest)\s+")
_TOKEN = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_=+-]{16,}")
_URL = re.compile(r"^([A-Za-z0-9_+.-]+)://(?:([^/?#]*)@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_PLAIN = ("http", "https", "json", "jsons", "xml", "xmls", "form", "forms")  # a path there is a path
_HINT = "write a reference: ${NAME} from the environment, or file:/run/secrets/NAME"


def check_secrets(entry: DocumentNode, diagnostics: Diagnostics) -> None:
    """Report secrets in the settings of a channel or an action, as written, references not resolved."""
    for at, what in _plaintext_secrets(entry):
        diagnostics.add(
            at, "plaintext-secret", f"{what} is in plain text, and everybody can read it", hint=_HINT
        )


def _plaintext_secrets(entry: DocumentNode) -> Iterator[tuple[DocumentNode, str]]:
    """Yield each secret in plain text with its name."""
    for key, what in (("secret", "the secret"), ("password", "the password")):
        at = entry.get(key)
        if at is not None and _is_plaintext(at.value) and not _is_local(entry.value):
            yield at, what
    if (url := entry.get("url")) is not None and (what := _in_url(url.value)):
        yield url, what
    if (headers := entry.get("headers")) is not None:
        for header in headers.items():
            if _SECRET_HEADER.search(header.name) and _is_plaintext(_SCHEME.sub("", str(header.value))):
                yield header, f"the header {header.name}"
    if (mtas := entry.get("mtas")) is not None:
        for mta in mtas.items():
            yield from _plaintext_secrets(mta)


def _is_plaintext(value: Any) -> bool:
    """Return whether a value can be read: it has no reference, or a default for each one."""
    if not isinstance(value, str) or not value or value.startswith("file:"):
        return False
    references = list(_REFERENCE.finditer(value))
    return not references or all(reference[1] for reference in references)


def _is_local(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings name this machine: a mail catcher for tests, or a relay."""
    where = str(settings.get("host") or settings.get("url") or "")
    where = _REFERENCE.sub(lambda reference: reference[1] or "", where)
    host = found[3] if (found := _URL.match(where)) else where
    return host in _LOOPBACK or host.rpartition(":")[0] in _LOOPBACK


def _in_url(url: Any) -> str:
    """Return the name of the secret in a URL; "" if it has none."""
    if not isinstance(url, str) or url.startswith("file:") or _is_local({"url": url}):
        return ""
    # The braces of a reference may contain text that looks like a part of the URL.
    references: list[str] = []

    def hide(reference: re.Match[str]) -> str:
        references.append(reference[0])
        return f"\x00{len(references) - 1}\x01"

    def is_open(text: str) -> bool:
        return _is_plaintext(re.sub(r"\x00(\d+)\x01", lambda hidden: references[int(hidden[1])], text))

    found = _URL.match(_REFERENCE.sub(hide, url))
    if found is None:
        return ""
    scheme, account, host, path, query = (part or "" for part in found.groups())
    if ":" in account and is_open(account.partition(":")[2]):
        return "the password in the URL"
    for name, value in parse_qsl(query):
        if _SECRET_NAME.search(name) and is_open(value):
            return f"the {name} in the URL"
    is_service = scheme.lower() not in _PLAIN
    places = (account, host, *path.split("/")) if is_service else path.split("/")
    return "a probable token in the URL" if any(_has_token(p, is_service) for p in places) else ""


def _has_token(text: str, is_service: bool) -> bool:
    """Return whether a part of a URL looks like a token; in a web address, a token must be longer."""
    pieces = re.split(r"[:@.,{}]", unquote(text))
    return any(len(piece) >= (16 if is_service else 20) and _TOKEN.fullmatch(piece) for piece in pieces)
