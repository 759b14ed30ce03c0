"""Watch the policy and mss.yaml for changes of their content.

A report of the operating system only triggers a comparison of contents. So a temporary file of an editor is
no change. A rename, a Kubernetes link with a new target, or a folder that is removed and created again is a
change, even if it was not reported.
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

_QUIET = 0.2  # seconds without a change after which the files count as complete
_GROUP = 0.5  # seconds for which reports of the system are collected at most
_SCAN_EVERY = 25  # quiet periods between two scans without a report: NFS reports nothing
_MAX_SYMLINKS = 40  # in one path, as in Linux


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSnapshot:
    """The files and folders at one moment, as the system describes them."""

    files: frozenset[tuple[str, int, int, int, int]]  # path, device, inode, change in ns, bytes
    folders: frozenset[str]  # in which the system would report a change of these files


@dataclass(kw_only=True)
class FileWatcher:
    """A watch on files and folders; of a folder, on the files of a policy in it."""

    paths: Callable[[], Sequence[Path]]  # called at each scan: the settings may name another folder
    max_wait: float = 2.0  # seconds of continuous change after which the files are read all the same
    _snapshot: FileSnapshot = field(init=False)
    _content: bytes = field(init=False)
    _is_blind: bool = False  # the system reports nothing

    def __post_init__(self) -> None:
        self._snapshot = scan(self.paths())
        self._content = content_hash(self._snapshot)

    async def changes(self) -> AsyncIterator[None]:
        """Yield each time that the content has changed and is stable again, until cancelled.

        Changes in quick succession yield once. Changes before the first scan count too.
        """
        began: float | None = None  # when the change began that was not yielded yet
        while True:
            folders, quiet = self._snapshot.folders, 0
            async with aclosing(self._reports(folders)) as reports:
                async for is_reported in reports:
                    quiet = 0 if is_reported else quiet + 1
                    # The first scan finds changes from before the folders were watched.
                    if began is None and quiet % _SCAN_EVERY > 1:
                        continue
                    snapshot = await run_in_thread(scan, self.paths())
                    is_stable, self._snapshot = snapshot == self._snapshot, snapshot
                    if not is_stable and began is None:
                        began = time.monotonic()
                    if began is not None and (is_stable or time.monotonic() - began > self.max_wait):
                        began = None
                        if await self._has_other_content():
                            yield
                    if self._snapshot.folders != folders:
                        break

    async def _has_other_content(self) -> bool:
        before, self._content = self._content, await run_in_thread(content_hash, self._snapshot)
        return self._content != before

    async def _reports(self, folders: frozenset[str]) -> AsyncGenerator[bool, None]:
        """Yield True when the system reports a change in ``folders``, False after a quiet period."""
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
            # A folder was removed before it was watched, or the system has no (more) watches.
            if not isinstance(error, FileNotFoundError) and not self._is_blind:
                log.warning("changes of files are not reported (%s); MSS compares them every second", error)
                self._is_blind = True
            await asyncio.sleep(1.0 if self._is_blind else _QUIET)
            yield True


def scan(paths: Sequence[Path]) -> FileSnapshot:
    """Return the files and folders at ``paths`` now. Never raises for what it finds."""
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


def content_hash(snapshot: FileSnapshot) -> bytes:
    """Return a hash over names and contents. A new modification time alone does not change it."""
    digest = hashlib.sha256()
    for name in sorted(file[0] for file in snapshot.files):
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            data = f"unreadable: {error.errno}".encode()
        digest.update(b"%d:%s%d:" % (len(name), os.fsencode(name), len(data)))
        digest.update(data)
    return digest.digest()


def _files(path: Path, folders: set[str]) -> Iterator[Path]:
    """Yield the file at ``path``, or the policy files in this folder; adds to ``folders``."""
    if not os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir raises if a folder may not be entered
        yield path
        return
    count, seen = 0, set()
    for folder, below, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
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
    """Yield the real paths of the folders with an entry that decides where ``path`` leads.

    These are its own folder, the folders of all links on the way, and, if something is missing, the last
    folder that exists. An entry that is removed meanwhile was reported, or the next scan misses it.
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
