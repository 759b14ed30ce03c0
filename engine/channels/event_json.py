"""A delivery as JSON, for the channels that carry it to a machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from ..model import Delivery

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_json(delivery: Delivery) -> bytes:
    """``{"type", "timestamp", "data": {...}}``, compact and the same at every attempt.

    ``type`` is ``KIND.KEY``, ``timestamp`` is when the broker took the event (RFC 3339, UTC), and
    ``data.payload`` is the event's payload.
    """
    created = _EPOCH + timedelta(microseconds=delivery.created)
    body = {
        "type": f"{delivery.kind}.{delivery.key}" if delivery.key else str(delivery.kind),
        "timestamp": created.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "data": {
            "id": delivery.id,
            "reqid": delivery.reqid,
            "rule": delivery.rule,
            "severity": str(delivery.severity),
            "locale": delivery.locale,
            "user": delivery.user,
            "title": delivery.message.title,
            "text": delivery.message.text,
            "payload": delivery.payload,
        },
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    # Half a character has no UTF-8; written as \udXXX it is legal JSON.
    return text.encode("utf-8", "backslashreplace")
