"""The watcher detects a change however it is made, and reports nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.file_saving import config_map, save_as_editors_do
from support.waiting import LIMIT

from engine.server import watch
from engine.server.watch import FileWatcher


class Noticed:
    """The changes that a watcher has reported: their number, and a wait for the next one."""

    def __init__(self, watch: FileWatcher) -> None:
        self.watch, self.count = watch, 0
        self._changed = asyncio.Condition()

    async def collect(self) -> None:
        async for _ in self.watch.changes():
            async with self._changed:
                self.count += 1
                self._changed.notify_all()

    async def after(self, change: Callable[[], object]) -> None:
        """Make the change, and wait until it is reported as one."""
        before = self.count
        await asyncio.to_thread(change)
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: self.count > before)
        assert self.count == before + 1


@asynccontextmanager
async def watched(*paths: Path, max_wait: float = 2.0) -> AsyncIterator[Noticed]:
    noticed = Noticed(FileWatcher(paths=lambda: paths, max_wait=max_wait))
    collecting = asyncio.create_task(noticed.collect())
    yield noticed
    collecting.cancel()
    await asyncio.wait((collecting,))
    assert collecting.cancelled(), collecting.exception()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with settings and a policy in it."""
    (tmp_path / "rules" / "templates" / "t").mkdir(parents=True)
    (tmp_path / "mss.yaml").write_text("{}")
    (tmp_path / "rules" / "policy.yaml").write_text("rules: []")
    (tmp_path / "rules" / "templates" / "t" / "default.txt").write_text("one")
    return tmp_path


async def test_every_way_to_change_a_policy_is_one_change(place: Path) -> None:
    rules, settings = place / "rules", place / "mss.yaml"
    policy = rules / "policy.yaml"

    def move_away_and_back() -> None:
        (place / "away").rename(rules)
        policy.write_text("rules: [] # restored")

    def check_out() -> None:
        for number in range(300):
            folder = rules / f"team-{number % 7}" / f"area-{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.yaml").write_text(f"rules: [] # {number}")

    async with watched(settings, rules) as noticed:
        await noticed.after(lambda: policy.write_text("rules: [] # in place"))
        await noticed.after(lambda: save_as_editors_do(policy, "rules: [] # by an editor"))
        await noticed.after(lambda: settings.write_text("log: {level: debug}"))
        await noticed.after(lambda: (rules / "templates" / "t" / "default.txt").write_text("two"))
        await noticed.after(lambda: shutil.copytree(rules / "templates" / "t", rules / "templates" / "u"))
        await noticed.after(lambda: (rules / "templates" / "u" / "sms.txt").write_text("in a new folder"))
        await noticed.after(check_out)
        await noticed.after(lambda: rules.rename(place / "away"))
        await noticed.after(move_away_and_back)
        await noticed.after(lambda: shutil.rmtree(rules))
        await noticed.after(lambda: shutil.copytree(place, rules, ignore=lambda *_: ["rules"]))
        await noticed.after(lambda: policy.write_text("rules: [] # in the new folder"))


async def test_links_are_followed_and_watched_again_when_their_target_changes(tmp_path: Path) -> None:
    mounted, releases = tmp_path / "mounted", tmp_path / "releases"
    mounted.mkdir()
    config_map(mounted, "1", {"mss.yaml": "{}", "policy.yaml": "rules: []"})
    for release in ("a", "b"):
        (releases / release).mkdir(parents=True)
        (releases / release / "policy.yaml").write_text(f"rules: [] # {release}")
    current = tmp_path / "current"
    current.symlink_to(releases / "a")

    def swap_current() -> None:
        (tmp_path / "next").symlink_to(releases / "b")
        (tmp_path / "next").rename(current)

    async with watched(mounted / "mss.yaml", mounted, current) as noticed:
        for number in range(2, 5):
            files = {"mss.yaml": "{}", "policy.yaml": f"rules: [] # {number}"}
            await noticed.after(lambda number=number, files=files: config_map(mounted, str(number), files))
        await noticed.after(swap_current)
        await noticed.after(lambda: (releases / "b" / "policy.yaml").write_text("rules: [] # in the target"))


async def test_a_write_of_the_same_content_is_no_change(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = place / "rules"
    looks = 0
    look = watch.scan

    def count(paths: object) -> watch.FileSnapshot:
        nonlocal looks
        looks += 1
        return look(paths)  # type: ignore[arg-type]

    async with watched(place / "mss.yaml", rules) as noticed:
        monkeypatch.setattr(watch, "scan", count)
        os.utime(rules / "policy.yaml", (1, 1))
        policy = (rules / "policy.yaml").read_text()
        save_as_editors_do(rules / "policy.yaml", policy)
        (rules / "notes.org").write_text("not of a policy")
        (rules / ".policy.yaml.swp").write_text("an editor's")
        (place / "mss.log").write_text("not of a policy")
        async with asyncio.timeout(LIMIT):
            while looks < 4:  # it did look, more than once
                (place / "mss.log").write_text(str(looks))
                await asyncio.sleep(0.05)
        assert noticed.count == 0
        await noticed.after(lambda: (rules / "policy.yaml").write_text("rules: [] # at last"))


async def test_files_that_change_all_the_time_are_read_all_the_same(place: Path) -> None:
    async with watched(place / "rules", max_wait=0.5) as noticed:
        async with asyncio.timeout(LIMIT):
            while noticed.count < 2:
                (place / "rules" / "policy.yaml").write_text(f"rules: [] # {os.urandom(4).hex()}")
                await asyncio.sleep(0.01)


def test_a_link_may_be_removed_during_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules").mkdir()
    config_map(tmp_path / "rules", "1", {"policy.yaml": "rules: []"})
    (tmp_path / "current").symlink_to("rules")

    def gone(self: Path) -> Path:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "readlink", gone)
    found = watch.scan([tmp_path / "current", tmp_path / "rules"])
    assert str(tmp_path / "rules") in found.folders


async def test_files_are_scanned_where_the_system_reports_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> AsyncIterator[None]:
        raise OSError("OS file watch limit reached.")
        yield

    monkeypatch.setattr(watch, "awatch", refuse)
    async with watched(place / "rules") as noticed:
        await noticed.after(lambda: (place / "rules" / "policy.yaml").write_text("rules: [] # new"))
