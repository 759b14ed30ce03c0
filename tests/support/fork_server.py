"""The command ``mss`` as a process of its own, forked from one that has read the code already.

Reading and importing takes the command a second and more, and tests start a hundred of them. What runs is the
entry point of the command, with arguments, environment, output, signals and an exit code of its own; the tests
of the demo and of the documents start the installed program.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MOST = 1_000_000  # bytes of arguments and environment
_NUMBER = struct.Struct("i")  # a process id, then an exit code


@dataclass
class Process:
    """As much of ``asyncio.subprocess.Process`` as tests need."""

    pid: int
    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader
    _ending: asyncio.Task[int]

    @property
    def returncode(self) -> int | None:
        return self._ending.result() if self._ending.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    async def communicate(self) -> tuple[bytes, bytes]:
        """All that it prints, once it has ended."""
        assert self.stdout is not None
        said, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return said, errors


async def start(
    *arguments: str, environment: Mapping[str, str], folder: Path | None = None, listen: bool = False
) -> Process:
    """Run ``mss``; what it writes to stderr can be read, and what to stdout where somebody listens."""
    said, saying = os.pipe() if listen else (-1, os.dup(1))
    errors, failing = os.pipe()
    ended, ending = os.pipe()
    order = {"arguments": arguments, "environment": dict(environment), "folder": str(folder or Path.cwd())}
    socket.send_fds(_kiln(), [json.dumps(order).encode()], [saying, failing, ending])
    for end in (saying, failing, ending):
        os.close(end)
    status = await _reader(ended)
    (pid,) = _NUMBER.unpack(await status.readexactly(_NUMBER.size))

    async def code() -> int:
        return int(_NUMBER.unpack(await status.readexactly(_NUMBER.size))[0])

    return Process(
        pid=pid,
        stdout=await _reader(said) if listen else None,
        stderr=await _reader(errors),
        _ending=asyncio.create_task(code()),
    )


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb", buffering=0)
    )
    return reader


@functools.cache
def _kiln() -> socket.socket:
    """The way to the process that has read the code: one for all tests of this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> None:
    """Fork for each order until nobody can give one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        order, ends, _, _ = socket.recv_fds(control, _MOST, 3)
        if not order:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _carry_out(json.loads(order), *ends)
            return
        for end in ends:
            os.close(end)


def _carry_out(order: dict[str, object], saying: int, failing: int, ending: int) -> None:
    """Fork once more: the one runs the command, the other waits to tell how that ended."""
    pid = os.fork()
    if pid == 0:
        os.close(ending)
        for end, standard in ((saying, 1), (failing, 2)):
            os.dup2(end, standard)
            os.close(end)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run(**order)  # type: ignore[arg-type]
        return
    os.close(saying)
    os.close(failing)
    os.write(ending, _NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    os.write(ending, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    from engine.cli import main

    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = ["mss", *arguments]
    main()


def _read_the_code() -> None:
    """Import everything, and read a policy once: much is imported and compiled when it is needed first."""
    import apprise
    import uvloop  # noqa: F401

    import engine
    from engine.policy.loader import load_policy

    for module in pkgutil.walk_packages(engine.__path__, "engine."):
        importlib.import_module(module.name)
    load_policy(Path(__file__).parents[2] / "rules", {})
    apprise.Apprise.instantiate("json://127.0.0.1:1/")  # with which it imports each of its plugins
    assert threading.active_count() == 1, "what has threads cannot be forked"


if __name__ == "__main__":
    _read_the_code()
    _serve(socket.socket(fileno=int(sys.argv[1])))
