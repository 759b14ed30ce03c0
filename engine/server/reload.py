"""Reload the policy and the settings of a running server: all of it, or nothing.

Everything that can fail comes first: files are read, checked and compiled, the policy's tests run, and the
new channels and actions are opened. Only then is a running part changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial

from ..model.errors import MssError, PolicyError, SettingsError
from ..model.problems import Place, Problem
from ..policy.loader import Policy
from ..policy.testing.runner import run_case
from ..rules.rulebook import Rulebook
from ..runtime import free_gradually, freeze_heap, heap_has_grown, run_in_thread
from ..settings import Settings
from .control import ReloadResult, ReplicaReply, shortened
from .server import Server

log = logging.getLogger(__name__)

# What can change while the server runs; for the rest it has to be started anew.
_LIVE = frozenset(
    {
        "access",
        "action_deadline",
        "actions",
        "actions_off",
        "clock_tolerance",
        "kinds",
        "log_level",
        "replica",
        "require_tests",
        "rules",
        "servers",
        "shutdown_grace",
    }
)
_NOT_ADOPTED = "reload-failed"
_TRY_AGAIN = 5.0  # seconds after which what failed for a reason outside the files is tried again
MAX_RULES_TO_COLLECT = 1000  # rules, beyond which looking for garbage would be felt
_MAX_PROBLEMS_SHOWN = 20  # problems in the metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """What the files ask for, with nothing wrong in it."""

    rulebook: Rulebook
    settings: Settings  # the present ones with what may change of those in the file
    restart_required: tuple[str, ...]  # the names of the others that differ


@dataclass(kw_only=True)
class Reloader:
    """Reloads one server, one reload after the other."""

    server: Server
    settings: Callable[[], Settings]  # reads mss.yaml; raises SettingsError
    load: Callable[[Settings], Policy]  # the policy that is there now; never raises for what it says
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _to_free: list[object] = field(default_factory=list)  # policies that were read or replaced

    def __post_init__(self) -> None:
        async def answer(work: Callable[[], Awaitable[ReloadResult]]) -> ReplicaReply:
            result = await work()
            return replace(self.server.identity(), reload=shortened(result))

        self.server.commands["reload"] = partial(answer, self.reload)
        self.server.commands["check"] = partial(answer, self.dry_run)

    async def reload(self) -> ReloadResult:
        """Read settings and policy anew, and adopt them if nothing is wrong. Never raises for what is."""
        async with self._exclusive():
            result = self.server.last_reload = await self._attempt(self._apply)
            self._update_metrics(result)
            return result

    async def dry_run(self) -> ReloadResult:
        """Read, check and test as ``reload`` does, and change nothing. ``revision`` is the files'."""
        async with self._exclusive():
            return await self._attempt(self._compare)

    async def follow(self, changes: AsyncIterator[None]) -> None:
        """Reload at each of ``changes``; for ever, until cancelled.

        What is refused for a reason outside the files, such as a broker that is away, is tried again.
        """
        coming = asyncio.ensure_future(anext(changes))
        try:
            while True:
                last = self.server.last_reload
                outside = last is not None and any(problem.code == _NOT_ADOPTED for problem in last.problems)
                await asyncio.wait((coming,), timeout=_TRY_AGAIN if outside else None)
                if coming.done():
                    await coming
                    coming = asyncio.ensure_future(anext(changes))
                await self.reload()
        finally:
            coming.cancel()
            await asyncio.wait((coming,))  # it may have a connection to close

    async def _attempt(self, work: Callable[[_Candidate], Awaitable[ReloadResult]]) -> ReloadResult:
        try:
            return await work(await self._read())
        except (PolicyError, SettingsError) as error:
            return self._refused(error.problems)
        except MssError as error:
            return self._refused([_external_problem(str(error))])
        except Exception as error:
            # A bug that new files bring to light must not end a server that serves by the old ones.
            log.exception("reload: a bug")
            return self._refused([_external_problem(f"a bug of MSS: {error!r}")])

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """One after the other. When its outcome is known to all, what is done with is freed."""
        async with self._lock:
            try:
                yield
            finally:
                await run_in_thread(free_gradually, self._to_free)
                if heap_has_grown() and len(self.server.rulebook.rules) < MAX_RULES_TO_COLLECT:
                    freeze_heap()

    async def _read(self) -> _Candidate:
        settings = await run_in_thread(self.settings)
        policy = await run_in_thread(self.load, settings)
        self._to_free.append(policy)
        rulebook = policy.require()
        if settings.require_tests:
            failed = await run_in_thread(_failed_tests, policy)
            if failed:
                raise PolicyError(failed)
        present = self.server.settings
        different = [
            each.name
            for each in fields(Settings)
            if getattr(settings, each.name) != getattr(present, each.name)
        ]
        live = {name: getattr(settings, name) for name in different if name in _LIVE}
        waiting = tuple(name for name in different if name not in _LIVE)
        return _Candidate(rulebook=rulebook, settings=replace(present, **live), restart_required=waiting)

    async def _apply(self, wanted: _Candidate) -> ReloadResult:
        before, rulebook = self.server.rulebook.revision, wanted.rulebook
        if wanted.restart_required:
            names = ", ".join(wanted.restart_required)
            log.warning("reload: these settings take effect at the next start: %s", names)
        if rulebook.revision == before and wanted.settings == self.server.settings:
            log.info("reload: nothing has changed, revision %s", before)
            return _result(before, changed=False, wanted=wanted)
        replaced = self.server.rulebook
        await self.server.apply(rulebook, wanted.settings)
        self._to_free.append(replaced)
        logging.getLogger().setLevel(wanted.settings.log_level.upper())
        log.info("reload: %d rules, revision %s, before %s", len(rulebook.rules), rulebook.revision, before)
        return _result(rulebook.revision, changed=True, wanted=wanted)

    async def _compare(self, wanted: _Candidate) -> ReloadResult:
        changes = wanted.rulebook.revision != self.server.rulebook.revision
        changes = changes or wanted.settings != self.server.settings
        return _result(wanted.rulebook.revision, changed=changes, wanted=wanted)

    def _refused(self, problems: Sequence[Problem]) -> ReloadResult:
        for problem in problems:
            log.error("reload: %s", problem)
        revision = self.server.rulebook.revision
        log.error("reload: refused, revision %s stays in force", revision)
        return ReloadResult(revision=revision, changed=False, problems=tuple(problems), at=time.time())

    def _update_metrics(self, result: ReloadResult) -> None:
        metrics = self.server.metrics
        metrics.reloads.labels("ok" if result.ok else "refused").inc()
        metrics.reload_ok.set(result.ok)
        metrics.reload_problems.clear()
        for problem in result.problems[:_MAX_PROBLEMS_SHOWN]:
            place = problem.place
            metrics.reload_problems.labels(place.file, place.line, place.column, problem.code).set(1)
        if result.ok:
            metrics.reload_time.set(result.at)


def _external_problem(message: str) -> Problem:
    return Problem(place=Place(file=""), code=_NOT_ADOPTED, message=message)


def _result(revision: str, *, changed: bool, wanted: _Candidate) -> ReloadResult:
    return ReloadResult(
        revision=revision, changed=changed, restart_required=wanted.restart_required, at=time.time()
    )


def _failed_tests(policy: Policy) -> list[Problem]:
    """A problem for each of the policy's own tests that fails."""
    rulebook = policy.require()
    verdicts = (run_case(rulebook, case) for case in policy.cases)
    return [
        Problem(
            place=verdict.case.place,
            code="policy-test-failed",
            message=f"the test {verdict.case.name!r} fails: {verdict.differences[0].message}",
            hint="mss test shows what came out instead",
        )
        for verdict in verdicts
        if not verdict.ok
    ]
