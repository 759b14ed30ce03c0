"""The handler registry: which handler executes an action, and how it is opened. Entry: `open_handler`.

A handler's module is imported when its first action opens, so that ``mss check`` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from ..model.problems import Problem
from ..planning.requests import ActionRequest, ActionResponse
from ..rules.rulebook import ActionSpec, ChannelSpec, Rulebook

if TYPE_CHECKING:
    from ..broker import Connection
    from ..channels import Channel
    from ..metrics import Metrics
    from ..preferences.cache import PreferenceCache


class ActionHandler(Protocol):
    """Carry out an action.

    ``handle`` returns by ``deadline``, in seconds of the loop's clock, with ``OUTCOME_UNKNOWN`` if it
    cannot know the result of its work. It never raises (cancellation apart) and never retries after a
    failure that is not definite. It is called concurrently, at most ``spec.concurrency`` times at once.
    """

    async def handle(self, request: ActionRequest, deadline: float) -> ActionResponse: ...

    async def close(self) -> None:
        """Close connections. No request follows; never raises."""


class Lookup(Protocol):
    """Answer an action at once from memory, changing nothing; never raises."""

    def answer(self, request: ActionRequest) -> ActionResponse: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerResources:
    """The parts of the process that a handler may use."""

    connection: Connection
    rulebook: Callable[[], Rulebook]
    open_channel: Callable[[ChannelSpec], Channel]  # a channel for this action alone
    metrics: Metrics
    preferences: PreferenceCache
    channels: tuple[ChannelSpec, ...] = ()  # those that the action names


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerType:
    """The properties of a handler that are known without importing it."""

    module: str  # in this package; defines ``open_handler(spec, resources)``, and ``problems(spec)`` if any
    reads_only: bool = False  # a Lookup: a second execution does no harm, so it skips the ledger
    skips_ledger: bool = False  # an ActionHandler that changes nothing: it skips the ledger too
    personal: bool = False  # has a second subject, one token deeper: the token is ``ActionRequest.person``


HANDLERS: dict[str, HandlerType] = {
    "notify": HandlerType(module="notify"),
    "iplocation": HandlerType(module="iplocation", reads_only=True),
    "http": HandlerType(module="http"),
    "forward": HandlerType(module="forward"),
    "preferences.get": HandlerType(module="preferences", skips_ledger=True, personal=True),
    "preferences.set": HandlerType(module="preferences", personal=True),
    "preferences.options": HandlerType(module="preferences", skips_ledger=True, personal=True),
}


def open_handler(spec: ActionSpec, resources: HandlerResources) -> ActionHandler | Lookup:
    """Open the handler of ``spec``: a Lookup if it reads only, else an ActionHandler.

    Raises PolicyError for settings that no schema can judge.
    """
    return cast("ActionHandler | Lookup", _module(spec).open_handler(spec, resources))


def check_handler(spec: ActionSpec) -> Iterable[Problem]:
    """Return the problems that would keep the handler of ``spec`` from working on this machine."""
    problems = getattr(_module(spec), "problems", None)
    return cast("Iterable[Problem]", problems(spec)) if problems else ()


def unusable(spec: ActionSpec, message: str, severity: str = "") -> Problem:
    """Return a problem of an action's settings, at the place of the action."""
    return Problem(
        place=spec.place,
        pointer=f"/actions/{spec.key}",
        code="unusable-action",
        message=f"action {spec.key}: {message}",
        severity=severity,
    )


def _module(spec: ActionSpec) -> ModuleType:
    return import_module(f".{HANDLERS[spec.handler].module}", __name__)
