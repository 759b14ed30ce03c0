"""Compile actions, and report those whose handler cannot work."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..actions import HANDLERS, check_handler
from ..documents.cursor import Diagnostics, DocumentNode
from ..model.times import parse_duration
from ..model.wording import nearest
from ..planning.requests import SHAPES
from ..rules.paths import FieldPath, parse_path
from ..rules.rulebook import ActionSpec, ChannelSpec, Defaults
from ..templates.library import Library
from .rule_compiler import find_without_subject

_OPTIONS = ("database", "url", "headers", "ca", "subject", "labels")  # of the handlers; with references
_PERSONAL = tuple(name for name, type_ in HANDLERS.items() if type_.personal)
_DEFAULTED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*):-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCompiler:
    """A compiler of actions that knows the rest of the policy."""

    diagnostics: Diagnostics
    defaults: Defaults
    channels: Mapping[str, ChannelSpec]
    declared: Collection[str]  # names of all channels, also of those with problems
    library: Library
    environment: Mapping[str, str]

    def action(self, entry: DocumentNode) -> ActionSpec:
        """Return the action at ``entry``, which has passed the schema."""
        before = len(self.diagnostics.problems)
        value = entry.value
        common = {key: value[key] for key in ("concurrency", "queue", "idempotent") if key in value}
        if "timeout" in value:
            common["timeout"] = parse_duration(value["timeout"])
        spec = ActionSpec(
            key=entry.name,
            handler=value["handler"],
            channels=self._channels(entry),
            to=dict(self._paths(entry.children("to"), entry.name)),
            template=value.get("template", entry.name) if value["handler"] == "notify" else "",
            vars=value.get("vars", {}),
            sensitive=tuple(path for _, path in self._paths(entry.children("sensitive"), entry.name)),
            options=self._options(entry),
            place=entry.key_place,
            **common,
        )
        for name in spec.channels:
            if channel := self.channels.get(name):
                self._check_template(entry, spec, channel)
                self._check_reachable(entry, spec, channel)
        if labels := entry.get("labels"):
            for each in labels.children("channels"):
                self.diagnostics.check_name(each, "channel", self.declared, at_key=True)
        if len(self.diagnostics.problems) == before:
            self.diagnostics.problems.extend(check_handler(spec))
        return spec

    def _channels(self, entry: DocumentNode) -> tuple[str, ...]:
        channel = entry.get("channel")
        named = list(channel.each()) if channel else []
        for each in named:
            self.diagnostics.check_name(each, "channel", self.declared)
        return tuple(dict.fromkeys(each.value for each in named))

    def _paths(self, nodes: Iterator[DocumentNode], key: str) -> Iterator[tuple[str, FieldPath]]:
        """Yield name and path of each of ``nodes``, which are fields of requests for the action ``key``."""
        shape = SHAPES.get(key, {})
        for each in nodes:
            path = self.diagnostics.parse(each, parse_path, "bad-path")
            if path is None:
                continue
            yield each.name, path
            if shape and path[0] not in shape:
                message = f"requests for {key} have no field {each.value!r}; they have: {', '.join(shape)}"
                self.diagnostics.add(each, "unknown-path", message, hint=nearest(each.value, shape))

    def _options(self, entry: DocumentNode) -> dict[str, Any]:
        written = {key: entry.value[key] for key in _OPTIONS if key in entry.value}
        options: dict[str, Any] = self.diagnostics.resolve(replace(entry, value=written), self.environment)
        unnamed = _DEFAULTED.search(written.get("database", ""))
        if unnamed and not self.environment.get(unnamed[1]):
            options["database_by_default"] = True
        return options

    def _check_template(self, entry: DocumentNode, spec: ActionSpec, channel: ChannelSpec) -> None:
        at = entry.get("template") or entry
        content = find_without_subject(
            at,
            spec.template,
            channel,
            library=self.library,
            locale=self.defaults.locale,
            diagnostics=self.diagnostics,
            at_key=at is entry,
        )
        if content is not None:
            message = f"the template {spec.template!r} has no subject, and a mail needs one"
            self.diagnostics.add(at, "missing-subject", message, at_key=at is entry)

    def _check_reachable(self, entry: DocumentNode, spec: ActionSpec, channel: ChannelSpec) -> None:
        to = entry.get("to")
        if channel.address is None or (to is not None and channel.address in to.value):
            return
        self.diagnostics.add(
            to or entry,
            "no-address",
            f"no path says where the request has the {channel.address} that channel {channel.name!r} needs",
            hint=f"add to the action: to: {{{channel.address}: <path into the payload>}}",
            at_key=to is None,
        )


def check_overlaps(entries: Sequence[DocumentNode], diagnostics: Diagnostics) -> None:
    """Report actions whose subject is that of one user of another action, such as ``preferences.get.u1``."""
    handlers = ((entry.name, entry.get("handler")) for entry in entries)
    personal = {name for name, handler in handlers if handler is not None and handler.value in _PERSONAL}
    for entry in entries:
        above, _, user = entry.name.rpartition(".")
        if above in personal:
            message = f"requests for {entry.name} are already requests for {above} about the user {user!r}"
            hint = f"use a key that is not {above}.NAME"
            diagnostics.add(entry, "overlapping-action", message, hint=hint, at_key=True)
