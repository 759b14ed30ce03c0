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

# These settings can change while the server runs; the others need a restart.
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
_RELOAD_FAILED = "reload-failed"
_RETRY_WAIT = 5.0  # seconds until a reload that failed for a reason outside the files is retried
MAX_RULES_TO_COLLECT = 1000  # with more rules, a full collection would delay events
_MAX_PROBLEMS_SHOWN = 20  # problems in the metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A policy and settings without problems, as the files have them."""

    rulebook: Rulebook
    settings: Settings  # the present ones with the live settings of the file
    restart_required: tuple[str, ...]  # names of changed settings that need a restart


@dataclass(kw_only=True)
class Reloader:
    """The reloads of one server, one after the other."""

    server: Server
    settings: Callable[[], Settings]  # reads mss.yaml; raises SettingsError
    load: Callable[[Settings], Policy]  # reads the policy; its problems are in the result
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _to_free: list[object] = field(default_factory=list)  # policies that were read or replaced, for a thread

    def __post_init__(self) -> None:
        async def reply(work: Callable[[], Awaitable[ReloadResult]]) -> ReplicaReply:
            result = await work()
            return replace(self.server.identity(), reload=shortened(result))

        self.server.commands["reload"] = partial(reply, self.reload)
        self.server.commands["check"] = partial(reply, self.dry_run)

    async def reload(self) -> ReloadResult:
        """Read settings and policy again, and activate them unless they have errors. Never raises."""
        async with self._exclusive():
            result = self.server.last_reload = await self._attempt(self._apply)
            self._update_metrics(result)
            return result

    async def dry_run(self) -> ReloadResult:
        """Read, check and test as ``reload`` does, and change nothing. ``revision`` is that of the files."""
        async with self._exclusive():
            return await self._attempt(self._compare)

    async def follow(self, changes: AsyncIterator[None]) -> None:
        """Reload at each of ``changes`` until cancelled.

        A reload that fails for a reason outside the files, such as an unavailable broker, is retried.
        """
        change = asyncio.ensure_future(anext(changes))
        try:
            while True:
                last = self.server.last_reload
                retries = last is not None and any(each.code == _RELOAD_FAILED for each in last.problems)
                await asyncio.wait((change,), timeout=_RETRY_WAIT if retries else None)
                if change.done():
                    await change
                    change = asyncio.ensure_future(anext(changes))
                await self.reload()
        finally:
            change.cancel()
            await asyncio.wait((change,))  # it may have a connection to close

    async def _attempt(self, work: Callable[[_Candidate], Awaitable[ReloadResult]]) -> ReloadResult:
        try:
            return await work(await self._read())
        except (PolicyError, SettingsError) as error:
            return self._refused(error.problems)
        except MssError as error:
            return self._refused([_external_problem(str(error))])
        except Exception as error:
            # A bug that new files reveal must not end a server that serves the old ones.
            log.exception("reload: a bug")
            return self._refused([_external_problem(f"a bug of MSS: {error!r}")])

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Run one reload at a time. When its result is known, free the policies that are no longer used."""
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
        restart = tuple(name for name in different if name not in _LIVE)
        return _Candidate(rulebook=rulebook, settings=replace(present, **live), restart_required=restart)

    async def _apply(self, candidate: _Candidate) -> ReloadResult:
        replaced, rulebook = self.server.rulebook, candidate.rulebook
        if candidate.restart_required:
            names = ", ".join(candidate.restart_required)
            log.warning("reload: these settings take effect at the next start: %s", names)
        result = await self._compare(candidate)
        if not result.changed:
            log.info("reload: nothing has changed, revision %s", replaced.revision)
            return result
        await self.server.apply(rulebook, candidate.settings)
        self._to_free.append(replaced)
        logging.getLogger().setLevel(candidate.settings.log_level.upper())
        rules = len(rulebook.rules)
        log.info("reload: revision %s, before %s, rules: %d", rulebook.revision, replaced.revision, rules)
        return replace(result, at=time.time())

    async def _compare(self, candidate: _Candidate) -> ReloadResult:
        revision = candidate.rulebook.revision
        return ReloadResult(
            revision=revision,
            changed=revision != self.server.rulebook.revision or candidate.settings != self.server.settings,
            restart_required=candidate.restart_required,
            at=time.time(),
        )

    def _refused(self, problems: Sequence[Problem]) -> ReloadResult:
        for problem in problems:
            log.error("reload: %s", problem)
        revision = self.server.rulebook.revision
        log.error("reload: refused, revision %s stays active", revision)
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
    return Problem(place=Place(file=""), code=_RELOAD_FAILED, message=message)


def _failed_tests(policy: Policy) -> list[Problem]:
    """Return a problem for each test of the policy that fails."""
    rulebook = policy.require()
    results = (run_case(rulebook, case) for case in policy.cases)
    return [
        Problem(
            place=result.case.place,
            code="policy-test-failed",
            message=f"the test {result.case.name!r} fails: {result.differences[0].message}",
            hint="mss test shows the actual result",
        )
        for result in results
        if not result.ok
    ]
