"""Changing the policy and the settings of a running server: all of it, or nothing.

Everything that can fail comes before anything is touched: files are read, checked, compiled, the
policy's own tests are run, and what new channels and actions need is opened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from .errors import MssError, PolicyError, SettingsError
from .loader import Policy, load_policy, settle
from .model import Place, Problem
from .server import Server
from .settings import Settings
from .trial import try_case

log = logging.getLogger(__name__)

# What can change while the server runs; for the rest it has to be started anew.
_LIVE = frozenset({"actions", "actions_off", "log_level", "require_tests", "rules"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """How a reload went."""

    revision: str  # in force now
    changed: bool
    problems: tuple[Problem, ...] = ()  # why nothing was changed

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(kw_only=True)
class Reloader:
    """Reloads one server, one reload after the other."""

    server: Server
    settings: Callable[[], Settings]  # reads mss.yaml; raises SettingsError
    folder: Path | None = None  # of the policy, where it is not the settings' own
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> Reloaded:
        """Read settings and policy anew, and adopt them if nothing is wrong. Never raises for what is."""
        async with self._one:
            try:
                result = await self._reload()
            except (PolicyError, SettingsError) as error:
                result = self._refused(error.problems)
            except MssError as error:
                result = self._refused([_problem(str(error))])
            metrics = self.server.metrics
            metrics.reloads.labels("ok" if result.ok else "refused").inc()
            metrics.reload_ok.set(result.ok)
            if result.ok:
                metrics.reload_time.set(time.time())
            return result

    async def _reload(self) -> Reloaded:
        settings = await asyncio.to_thread(self.settings)
        policy = await asyncio.to_thread(load_policy, self.folder or settings.rules)
        rulebook = policy.require()
        if settings.require_tests:
            failed = await asyncio.to_thread(_failed_tests, policy)
            if failed:
                raise PolicyError(failed)
        live = self._live(settings)
        before = self.server.rulebook.revision
        if rulebook.revision == before and live == self.server.settings:
            log.info("reload: nothing has changed, revision %s", before)
            return Reloaded(revision=before, changed=False)
        await self.server.adopt(rulebook, live)
        logging.getLogger().setLevel(live.log_level.upper())
        settle()
        log.info("reload: %d rules, revision %s, before %s", len(rulebook.rules), rulebook.revision, before)
        return Reloaded(revision=rulebook.revision, changed=True)

    def _live(self, settings: Settings) -> Settings:
        """The present settings with what may change of ``settings``; the rest is named."""
        present = self.server.settings
        different = [
            each.name
            for each in fields(Settings)
            if getattr(settings, each.name) != getattr(present, each.name)
        ]
        if waiting := [name for name in different if name not in _LIVE]:
            log.warning("reload: these settings take effect at the next start: %s", ", ".join(waiting))
        return replace(present, **{name: getattr(settings, name) for name in different if name in _LIVE})

    def _refused(self, problems: Sequence[Problem]) -> Reloaded:
        for problem in problems:
            log.error("reload: %s", problem)
        revision = self.server.rulebook.revision
        log.error("reload: refused, revision %s stays in force", revision)
        return Reloaded(revision=revision, changed=False, problems=tuple(problems))


def _failed_tests(policy: Policy) -> list[Problem]:
    """A problem for each of the policy's own tests that fails."""
    rulebook = policy.require()
    verdicts = (try_case(rulebook, case) for case in policy.cases)
    return [
        Problem(
            place=verdict.case.place,
            code="failed-test",
            message=f"the test {verdict.case.name!r} fails: {verdict.differences[0].message}",
            hint="mss test shows what came out instead",
        )
        for verdict in verdicts
        if not verdict.ok
    ]


def _problem(message: str) -> Problem:
    return Problem(place=Place(file=""), code="not-adopted", message=message)
