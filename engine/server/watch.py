"""Watch the policy and mss.yaml for changes of their content.

A report of the operating system is only a hint to look. So an editor's temporary file is no change. A
rename, a Kubernetes link with a new target, or a folder that disappears and returns is one, even if it was
not reported.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import awatch

from ..policy.loader import MAX_FILES, belongs, is_hidden
from ..runtime import run_in_thread

log = logging.getLogger(__name__)

_QUIET = 0.2  # seconds without a change, after which what lies there counts as whole
_CEILING = 2.0  # seconds of unbroken change after which it is taken as it is
_GROUP = 0.5  # seconds that the system's reports are gathered at most
_LOOK_ANYWAY = 25  # quiet spells between two looks where nothing is reported: NFS reports nothing
_MAX_SYMLINKS = 40  # that one path may lead through, as for the system itself


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSnapshot:
    """What lies there at one moment, by what the system says of each file."""

    files: frozenset[tuple[str, int, int, int, int]]  # path, device, inode, nanoseconds of change, bytes
    folders: frozenset[str]  # in which a change of it would be reported


@dataclass(kw_only=True)
class FileWatcher:
    """Watches the paths of files and folders; a folder stands for all in it that belongs to a policy."""

    paths: Callable[[], Sequence[Path]]  # asked anew at each look, for settings may name another folder
    _sight: FileSnapshot = field(init=False)
    _content: bytes = field(init=False)
    _is_blind: bool = False  # the system reports nothing

    def __post_init__(self) -> None:
        """Take what lies there now as known."""
        self._sight = scan(self.paths())
        self._content = content_hash(self._sight)

    async def changes(self) -> AsyncIterator[None]:
        """Yield each time that something else lies there and has come to rest; for ever.

        Any number of changes that follow each other closely are one.
        """
        began: float | None = None  # when the change began that has not been told yet
        while True:
            folders, quiet = self._sight.folders, 0
            async with aclosing(self._reports(folders)) as reports:
                async for is_reported in reports:
                    quiet = 0 if is_reported else quiet + 1
                    # The first look finds what changed before the folders were watched.
                    if began is None and quiet % _LOOK_ANYWAY > 1:
                        continue
                    sight = await run_in_thread(scan, self.paths())
                    rests, self._sight = sight == self._sight, sight
                    if not rests and began is None:
                        began = time.monotonic()
                    if began is not None and (rests or time.monotonic() - began > _CEILING):
                        began = None
                        if await self._has_other_content():
                            yield
                    if self._sight.folders != folders:
                        break

    async def _has_other_content(self) -> bool:
        before, self._content = self._content, await run_in_thread(content_hash, self._sight)
        return self._content != before

    async def _reports(self, folders: frozenset[str]) -> AsyncGenerator[bool, None]:
        """Yield True when the system reports something in ``folders``, False after a quiet spell."""
        reports = awatch(
            *sorted(folders),
            watch_filter=None,
            debounce=int(_GROUP * 1000),
            step=int(_QUIET * 1000 / 2),
            rust_timeout=int(_QUIET * 1000),
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(reports):
                async for reported in reports:
                    self._is_blind = False
                    yield bool(reported)
        except (OSError, RuntimeError) as error:
            # A folder that went before it was watched; or no more watches, or inotify itself, are to be had.
            if not isinstance(error, FileNotFoundError) and not self._is_blind:
                log.warning("changes of files are not reported (%s); MSS looks every second", error)
                self._is_blind = True
            await asyncio.sleep(1.0 if self._is_blind else _QUIET)
            yield True


def scan(paths: Sequence[Path]) -> FileSnapshot:
    """What lies at ``paths`` now. Never raises for what it finds."""
    files: set[tuple[str, int, int, int, int]] = set()
    folders: set[str] = set()
    for path in paths:
        folders.update(_symlink_folders(path))
        for file in _files(path, folders):
            with suppress(OSError):
                if file.is_symlink():
                    folders.update(_symlink_folders(file))
                found = file.stat()
                files.add((str(file), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
    return FileSnapshot(files=frozenset(files), folders=frozenset(folders))


def content_hash(sight: FileSnapshot) -> bytes:
    """A hash over names and contents: what was only touched is the same."""
    digest = hashlib.sha256()
    for name in sorted(file[0] for file in sight.files):
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            data = f"unreadable: {error.errno}".encode()
        digest.update(b"%d:%s%d:" % (len(name), os.fsencode(name), len(data)))
        digest.update(data)
    return digest.digest()


def _files(path: Path, folders: set[str]) -> Iterator[Path]:
    """The file at ``path``, or those of the policy in this folder, whose folders join ``folders``."""
    if not os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir raises where a folder may not be entered
        yield path
        return
    count, seen = 0, set()
    for folder, below, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            below.clear()
            continue
        seen.add(real)
        folders.add(real)
        for name in below:
            entry = Path(folder, name)
            if os.path.islink(entry):  # noqa: PTH114 -- so does this
                folders.update(_symlink_folders(entry))
        below[:] = sorted(name for name in below if not is_hidden(name))
        for name in sorted(names):
            entry = Path(folder, name)
            if not is_hidden(name) and belongs(entry.relative_to(path).as_posix()):
                count += 1
                if count > MAX_FILES:
                    return
                yield entry


def _symlink_folders(path: Path) -> Iterator[str]:
    """The folders, by their real paths, in which an entry lies that decides where ``path`` leads.

    That is the one it lies in, those of all links on the way, and where something is missing the
    last folder that is there. What goes while it is looked at was reported, or is seen at the next look.
    """
    with suppress(OSError):
        yield from _steps(path)


def _steps(path: Path) -> Iterator[str]:
    path = path.absolute()
    here, rest, links = Path(path.anchor), list(path.parts[1:]), 0
    while rest:
        part = rest.pop(0)
        entry = here / part
        if part == "..":
            here = here.parent
        elif entry.is_symlink() and links < _MAX_SYMLINKS:
            yield str(here)
            links += 1
            target = entry.readlink()
            here = Path(target.anchor) if target.is_absolute() else here
            rest[:0] = target.parts[1:] if target.is_absolute() else target.parts
        elif not rest or not entry.is_dir():
            yield str(here)
            return
        else:
            here = entry
