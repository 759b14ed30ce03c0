"""A TCP proxy between one client and a server, which can cut and restore the connection."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field


@dataclass
class TcpProxy:
    """Forwards bytes to and from a port of this machine unless it is cut."""

    port: int
    is_cut: bool = False
    _server: asyncio.Server | None = None
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._forward_connection, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Abort all connections, and refuse new ones."""
        self.is_cut = True
        for end in self._ends:
            end.transport.abort()

    def restore(self) -> None:
        self.is_cut = False

    async def _forward_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        ends = {writer, back}
        self._ends |= ends
        await asyncio.gather(_forward(reader, back), _forward(there, writer))
        self._ends -= ends


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
