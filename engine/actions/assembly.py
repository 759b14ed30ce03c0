"""The action service of one session, put together from settings and a connection."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from importlib.metadata import version

from nats.js.kv import KeyValue

from ..broker import Connection
from ..ledger import Ledger
from ..settings import Settings
from . import HandlerResources, ServiceTerms
from .service import Actions
from .visibility import MicroService


def make_actions(
    settings: Settings,
    connection: Connection,
    bucket: KeyValue,
    resources: HandlerResources,
    *,
    clock: Callable[[], int],
) -> Actions:
    """``bucket`` is the ledger's; ``clock`` tells microseconds since the epoch."""
    # Anew with each session: what an earlier one had in hand, nobody works on any more.
    replica = uuid.uuid4().hex
    return Actions(
        terms=ServiceTerms(
            prefix=settings.prefix,
            namespace=settings.namespace,
            tolerance=settings.clock_tolerance,
            deadline=settings.action_deadline,
        ),
        connection=connection,
        ledger=Ledger(
            connection, bucket, name=f"{settings.stream_prefix}_LEDGER", owner=replica, clock=clock
        ),
        resources=resources,
        metrics=resources.metrics,
        clock=clock,
        visibility=MicroService(
            connection=connection, name=settings.namespace, id=replica, version=version("mss-server")
        ),
    )
