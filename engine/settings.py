"""The settings of one server: mss.yaml, validated, with defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .documents import schemas, yaml
from .documents.cursor import Diagnostics, DocumentNode
from .model.errors import SettingsError
from .model.messages import Kind
from .model.problems import Place, Problem
from .model.times import parse_duration

_BUCKET = "nats://"  # the beginning of ``rules`` if the policy is in a bucket on the broker


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The content of mss.yaml. Every field has a default that suits a single machine."""

    prefix: str = "kiam.console"  # of the subjects of the applications
    namespace: str = "mss"  # prefix of the subjects of MSS
    stream_prefix: str = "MSS"
    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    access: Mapping[str, Any] = field(default_factory=dict, repr=False)  # user, password, token, nkey, ...
    rules: Path = Path("rules")
    rules_bucket: str = ""  # the policy bucket on the broker; "": the policy is in the folder
    kinds: tuple[Kind, ...] = tuple(Kind)  # of the events that this server handles
    actions: bool = True  # False: this server handles no action
    actions_off: frozenset[str] = frozenset()  # keys of actions that this server does not handle
    action_deadline: float = 60.0  # seconds; the time that a caller waits
    replica: str = ""  # the name of this server; "": its host and process id
    replicas: int = 1  # copies of every stream
    clock_tolerance: float = 10.0  # seconds; maximum difference to the clock of a sender
    archive_age: float = 7 * 86400.0  # seconds
    history_age: float = 30 * 86400.0
    dead_age: float = 30 * 86400.0
    ledger_age: float = 86400.0
    ack_wait: float = 10.0  # seconds
    shutdown_grace: float = 20.0  # seconds
    metrics: str = "127.0.0.1:9180"  # host:port; "": no HTTP server
    require_tests: bool = True  # True: a reload needs passing policy tests
    watch: bool = True  # True: a change of mss.yaml or the policy causes a reload
    log_level: str = "info"
    log_format: str = "text"


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read ``path``. Without a path, read mss.yaml in the working folder, or return the defaults.

    Raise SettingsError with every problem.
    """
    file = path or Path("mss.yaml")
    if path is None and not file.exists():
        return Settings()
    try:
        document = yaml.read_bytes(file.read_bytes(), str(file))
    except OSError as error:
        place = Place(file=str(file))
        raise SettingsError([Problem(place=place, code="unreadable", message=str(error.strerror))]) from error
    diagnostics = Diagnostics([*document.problems, *schemas.check(document, "mss")])
    data = diagnostics.resolve(DocumentNode(document, (), document.data), environment)
    if diagnostics.problems:
        raise SettingsError(diagnostics.problems)
    return _settings(data or {}, file.parent)


def _settings(data: Mapping[str, Any], folder: Path) -> Settings:
    defaults = Settings()
    retention, log = data.get("retention", {}), data.get("log", {})
    services = data.get("services", {})
    actions = services.get("actions", {})
    switched = actions if isinstance(actions, dict) else {}
    servers = data.get("servers", defaults.servers)
    metrics = data.get("metrics", {})
    reload = data.get("reload", {})
    rules = data.get("rules", "rules")
    bucket = rules.removeprefix(_BUCKET) if rules.startswith(_BUCKET) else ""

    def seconds(mapping: Mapping[str, Any], key: str, default: float) -> float:
        return parse_duration(mapping[key]) if key in mapping else default

    return Settings(
        prefix=data.get("prefix", defaults.prefix),
        namespace=data.get("namespace", defaults.namespace),
        stream_prefix=data.get("stream_prefix", defaults.stream_prefix),
        servers=(servers,) if isinstance(servers, str) else tuple(servers),
        access={k: data[k] for k in ("user", "password", "token", "nkey", "credentials", "tls") if k in data},
        rules=folder / (defaults.rules if bucket else rules),
        rules_bucket=bucket,
        kinds=tuple(kind for kind in Kind if services.get(str(kind), True)),
        actions=services.get("actions", True) is not False,
        actions_off=frozenset(key for key, on in switched.items() if not on),
        action_deadline=seconds(data, "action_deadline", defaults.action_deadline),
        replica=data.get("replica", defaults.replica),
        replicas=data.get("replicas", defaults.replicas),
        clock_tolerance=seconds(data, "clock_tolerance", defaults.clock_tolerance),
        archive_age=seconds(retention, "archive", defaults.archive_age),
        history_age=seconds(retention, "history", defaults.history_age),
        dead_age=seconds(retention, "dead", defaults.dead_age),
        ledger_age=seconds(retention, "ledger", defaults.ledger_age),
        ack_wait=seconds(data, "ack_wait", defaults.ack_wait),
        shutdown_grace=seconds(data, "shutdown_grace", defaults.shutdown_grace),
        metrics="" if metrics is False else metrics.get("listen", defaults.metrics),
        require_tests=reload.get("require_tests", defaults.require_tests),
        watch=reload.get("watch", defaults.watch),
        log_level=log.get("level", defaults.log_level),
        log_format=log.get("format", defaults.log_format),
    )
