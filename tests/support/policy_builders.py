"""Short ways to make policies and events in tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from engine.model.messages import Event, Kind
from engine.policy.loader import Policy, load_policy

CHANNELS = """
channels:
  email: {type: email, from: noreply@example.com, mtas: [{host: 127.0.0.1, port: 25}]}
  sms: {type: apprise, url: "json://127.0.0.1:8080/sms/{to}", address: phone}
  terminal: {type: console}
  siem: {type: nats, subject: siem.events}
"""
RECEIVED = 1_800_000_000_000_000  # microseconds since the epoch


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write ``files``, by path, into ``folder`` and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else dedent(content).encode())
    return folder


def policy(folder: Path, rules: str, **files: str | bytes) -> Policy:
    """Return a policy with the usual channels, ``rules``, a template, and ``files`` (``__`` for ``/``)."""
    usual: dict[str, str | bytes] = {
        "channels.yaml": CHANNELS,
        "rules.yaml": rules,
        "templates/t/email.txt": "---\nsubject: Subject\n---\nHello {{ recipient.user }}\n",
        "templates/t/default.txt": "Hello {{ recipient.user }}",
    }
    more = {name.replace("__", "/"): content for name, content in files.items()}
    return load_policy(write(folder, {**usual, **more}), environment={})


def event(payload: Mapping[str, Any], name: str = "notice.login.abnormal", reqid: str = "a" * 32) -> Event:
    kind, _, key = name.partition(".")
    return Event(kind=Kind(kind), key=key, reqid=reqid, payload=payload, sent=RECEIVED, received=RECEIVED)
