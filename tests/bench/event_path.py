"""The way of one event through the code: which functions, files and packages it passes.

    python tests/bench/event_path.py [--list]

One server in this process and a rule with two console channels. The first event warms the caches; the second is
profiled from its arrival to its second receipt. A move is a call whose caller stands in another file (or package) of
`engine/`. A move is upward if it leads to a package that stands above the caller's in the import order: a callback.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import nats

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from engines import CONSOLE, SUBJECT, write_policy  # noqa: E402 -- found beside this file
from support.in_process_server import serving  # noqa: E402
from support.locations import ROOT  # noqa: E402 -- found beside this folder
from support.processes import NatsServer  # noqa: E402
from support.waiting import until  # noqa: E402
from support.wire_messages import envelope, login  # noqa: E402
from unit.test_import_order import ORDER  # noqa: E402

ENGINE = f"{ROOT / 'engine'}/"


def file_of(frame: FrameType | None) -> str:
    """The file below engine/ of the nearest frame of the engine, or an empty text."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(ENGINE):
            return frame.f_code.co_filename[len(ENGINE) :]
        frame = frame.f_back
    return ""


def package_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


class EventPath:
    """The calls of one event."""

    def __init__(self) -> None:
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()  # (file, function)
        self.moves: collections.Counter[tuple[str, str]] = collections.Counter()  # (file, file)

    def record(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ENGINE):
            return
        file = code.co_filename[len(ENGINE) :]
        self.calls[file, code.co_qualname] += 1
        caller = file_of(frame.f_back)
        if caller and caller != file:
            self.moves[caller, file] += 1

    def report(self, *, everything: bool) -> None:
        packages = {
            (package_of(a), package_of(b)): 0 for a, b in self.moves if package_of(a) != package_of(b)
        }
        for (a, b), count in self.moves.items():
            if package_of(a) != package_of(b):
                packages[package_of(a), package_of(b)] += count
        upward = {pair: n for pair, n in packages.items() if ORDER.index(pair[1]) > ORDER.index(pair[0])}
        print(
            f"functions {len(self.calls)}, calls {self.calls.total()}, files {len({f for f, _ in self.calls})}"
        )
        print(f"moves between files {self.moves.total()}, between packages {sum(packages.values())}")
        print(
            f"upward {sum(upward.values())}: {', '.join(f'{a} -> {b} {n}' for (a, b), n in upward.items()) or 'none'}"
        )
        if everything:
            for (a, b), count in sorted(packages.items()):
                print(f"  {a} -> {b}: {count}")
            for (file, function), count in sorted(self.calls.items()):
                print(f"  {file} {function}: {count}")


async def measure(*, everything: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        broker = NatsServer(folder / "nats")
        await broker.start()
        rules = write_policy(folder, CONSOLE, {}, {})
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                async with serving(broker.address, {}, rules=rules):
                    client = await nats.connect(broker.address)
                    path = EventPath()
                    for number in (1, 2):
                        stream = client.jetstream()
                        seen = (await stream.stream_info("MSS_HISTORY")).state.messages
                        await asyncio.sleep(0.5)
                        if number == 2:
                            sys.setprofile(path.record)
                        await client.publish(SUBJECT, envelope(login(number)))
                        await asyncio.sleep(1.0)  # no question to the broker while it is profiled
                        sys.setprofile(None)

                        async def stored(seen: int = seen, stream: Any = stream) -> bool:
                            return bool((await stream.stream_info("MSS_HISTORY")).state.messages >= seen + 3)

                        await until(stored, what="the plan and two receipts")
                    await client.close()
        finally:
            await broker.kill()
        path.report(everything=everything)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--list", action="store_true", help="show every function and every move between packages"
    )
    arguments = parser.parse_args()
    asyncio.run(measure(everything=arguments.list))
