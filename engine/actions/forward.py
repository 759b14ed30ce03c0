"""Handler: forward the request to another subject, and return its reply."""

from __future__ import annotations

import asyncio

import nats.errors

from msc import errors, wire

from ..planning.requests import NOT_BEGUN, OUTCOME_UNKNOWN, ActionRequest, ActionResponse, failed
from ..rules.rulebook import ActionSpec
from . import HandlerResources

_NO_RESPONDERS = "not carried out: nobody serves it"
_NO_REPLY = "the program's answer is not a reply"


class ForwardHandler:
    """A handler that forwards each request unchanged."""

    def __init__(self, spec: ActionSpec, resources: HandlerResources) -> None:
        self._subject: str = spec.options["subject"]
        self._client = resources.connection.client

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse:
        limit = deadline - asyncio.get_running_loop().time()
        if limit <= 0 or not self._client.is_connected:
            return failed(NOT_BEGUN)
        try:
            msg = await self._client.request(self._subject, request.data, timeout=limit)
        except nats.errors.NoRespondersError:
            return failed(_NO_RESPONDERS, f"no responders on {self._subject}")
        except (nats.errors.Error, TimeoutError) as error:
            return failed(OUTCOME_UNKNOWN, f"{self._subject}: {str(error) or 'no answer'}")
        try:
            reply = wire.decode_reply(msg.data)
        except errors.WireError as error:
            return failed(_NO_REPLY, f"{self._subject}: {error}")
        if reply.reqid != request.reqid:
            return failed(_NO_REPLY, f"{self._subject}: another reqid")
        return ActionResponse(code=reply.code, message=reply.message, payload=reply.payload)

    async def close(self) -> None:
        """Close nothing: the connection belongs to the server."""


open_handler = ForwardHandler
