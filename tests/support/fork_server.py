"""The command ``mss`` as a separate process, forked from one that has imported the code.

The imports of the command take a second or more, and tests start a hundred of them. The process runs the entry
point of the command, with its own arguments, environment, output, signals and exit code. The tests of the demo
and of the documents start the installed program.
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

_MAX_ORDER = 1_000_000  # bytes of arguments and environment
_NUMBER = struct.Struct("i")  # a process id, then an exit code


@dataclass
class Process:
    """The part of ``asyncio.subprocess.Process`` that tests need."""

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
        """Wait for the end of the process and return all that it printed."""
        assert self.stdout is not None
        output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output, errors


async def start(
    *arguments: str, environment: Mapping[str, str], folder: Path | None = None, listen: bool = False
) -> Process:
    """Run ``mss`` with its stderr in a pipe, and with ``listen`` also its stdout."""
    stdout, stdout_end = os.pipe() if listen else (-1, os.dup(1))
    stderr, stderr_end = os.pipe()
    status_, status_end = os.pipe()
    order = {"arguments": arguments, "environment": dict(environment), "folder": str(folder or Path.cwd())}
    ends = [stdout_end, stderr_end, status_end]
    socket.send_fds(_forking_process(), [json.dumps(order).encode()], ends)
    for end in ends:
        os.close(end)
    status = await _reader(status_)
    (pid,) = _NUMBER.unpack(await status.readexactly(_NUMBER.size))

    async def code() -> int:
        return int(_NUMBER.unpack(await status.readexactly(_NUMBER.size))[0])

    return Process(
        pid=pid,
        stdout=await _reader(stdout) if listen else None,
        stderr=await _reader(stderr),
        _ending=asyncio.create_task(code()),
    )


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb", buffering=0)
    )
    return reader


@functools.cache
def _forking_process() -> socket.socket:
    """Start the process that has imported the code, once for all tests of this process."""
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
    """Fork for each order until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children that wait need no wait themselves
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        order, ends, _, _ = socket.recv_fds(control, _MAX_ORDER, 3)
        if not order:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _run_and_report(json.loads(order), *ends)
            return
        for end in ends:
            os.close(end)


def _run_and_report(order: dict[str, object], stdout: int, stderr: int, status: int) -> None:
    """Fork again: the child runs the command, the parent waits and reports its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(status)
        for end, standard in ((stdout, 1), (stderr, 2)):
            os.dup2(end, standard)
            os.close(end)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run(**order)  # type: ignore[arg-type]
        return
    os.close(stdout)
    os.close(stderr)
    os.write(status, _NUMBER.pack(pid))
    _, result = os.waitpid(pid, 0)
    os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(result)))
    os._exit(0)


def _run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    from engine.cli import main

    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = ["mss", *arguments]
    main()


def _import_all() -> None:
    """Import everything and load a policy once: much is imported and compiled at its first use."""
    import apprise
    import uvloop  # noqa: F401

    import engine
    from engine.policy.loader import load_policy

    for module in pkgutil.walk_packages(engine.__path__, "engine."):
        importlib.import_module(module.name)
    load_policy(Path(__file__).parents[2] / "rules", {})
    apprise.Apprise.instantiate("json://127.0.0.1:1/")  # it imports all its plugins now
    assert threading.active_count() == 1, "a process with threads cannot be forked"


if __name__ == "__main__":
    _import_all()
    _serve(socket.socket(fileno=int(sys.argv[1])))
