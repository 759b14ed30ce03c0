"""Compile actions: the handler of each, and whether it can work."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..actions import HANDLERS, check_handler
from ..documents import cursor
from ..documents.cursor import Diagnostics, DocumentNode
from ..model.problems import DocumentPath
from ..model.times import parse_duration
from ..model.wording import nearest
from ..planning.requests import SHAPES
from ..rules.paths import FieldPath, parse_path
from ..rules.rulebook import ActionSpec, ChannelSpec, Defaults
from ..templates import library
from ..templates.library import TEMPLATE_FOLDER, Library

_OPTIONS = (
    "database",
    "url",
    "headers",
    "ca",
    "subject",
    "labels",
)  # of the handlers; references are resolved
_PERSONAL = tuple(name for name, type_ in HANDLERS.items() if type_.personal)
_DEFAULTED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*):-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCompiler:
    """Compiles actions against the rest of the policy."""

    diagnostics: Diagnostics
    defaults: Defaults
    channels: Mapping[str, ChannelSpec]
    declared: Collection[str]  # channels that are written, though something may be wrong with them
    library: Library
    environment: Mapping[str, str]

    def action(self, entry: DocumentNode) -> ActionSpec:
        """The action at ``entry``, which the schema has passed."""
        before = len(self.diagnostics.problems)
        value = entry.value
        common = {key: value[key] for key in ("concurrency", "queue", "idempotent") if key in value}
        if "timeout" in value:
            common["timeout"] = parse_duration(value["timeout"])
        spec = ActionSpec(
            key=entry.name,
            handler=value["handler"],
            channels=self._channels(entry.get("channel")),
            to=self._to(entry),
            template=value.get("template", entry.name) if value["handler"] == "notify" else "",
            vars=value.get("vars", {}),
            sensitive=self._paths(entry.get("sensitive")),
            options=self._options(entry),
            place=entry.key_place,
            **common,
        )
        for name in spec.channels:
            if channel := self.channels.get(name):
                self._check_default_template(entry, spec, channel)
                self._check_reachable(entry, spec, channel)
        self._check_labels(entry)
        if len(self.diagnostics.problems) == before:
            self.diagnostics.problems.extend(check_handler(spec))
        return spec

    def _channels(self, channel: DocumentNode | None) -> tuple[str, ...]:
        if channel is None:
            return ()
        names = []
        for each in channel.each():
            if each.value not in self.declared:
                self.diagnostics.unknown_name(each, "channel", self.declared)
            names.append(each.value)
        # What is written and has a mistake is reported there, and never opened.
        return tuple(dict.fromkeys(names))

    def _to(self, entry: DocumentNode) -> dict[str, FieldPath]:
        to = entry.get("to")
        if to is None:
            return {}
        return {each.name: path for each in to.items() if (path := self._path(each, entry.name))}

    def _paths(self, sensitive: DocumentNode | None) -> tuple[FieldPath, ...]:
        if sensitive is None:
            return ()
        key = str(sensitive.path[-2])
        return tuple(path for each in sensitive.each() if (path := self._path(each, key)))

    def _path(self, at: DocumentNode, key: str) -> FieldPath | None:
        try:
            path = parse_path(at.value)
        except ValueError as error:
            self.diagnostics.add(at, "bad-path", str(error))
            return None
        shape = SHAPES.get(key, {})
        if shape and path[0] not in shape:
            message = f"requests for {key} have no {at.value!r}; there are: {', '.join(shape)}"
            self.diagnostics.add(at, "unknown-path", message, hint=nearest(at.value, shape))
        return path

    def _options(self, entry: DocumentNode) -> dict[str, Any]:
        def complain(path: DocumentPath, code: str, message: str) -> None:
            self.diagnostics.add(entry.below(path), code, message)

        written = {key: entry.value[key] for key in _OPTIONS if key in entry.value}
        options: dict[str, Any] = cursor.resolve(written, self.environment, complain)
        unnamed = _DEFAULTED.search(written.get("database", ""))
        if unnamed and not self.environment.get(unnamed[1]):
            options["database_by_default"] = True
        return options

    def _check_labels(self, entry: DocumentNode) -> None:
        """A label must be for a channel that is there."""
        labels = entry.get("labels")
        channels = labels.get("channels") if labels else None
        for each in channels.items() if channels else ():
            if each.name not in self.declared:
                self.diagnostics.unknown_name(each, "channel", self.declared, at_key=True)

    def _check_default_template(self, entry: DocumentNode, spec: ActionSpec, channel: ChannelSpec) -> None:
        """A template must have words for its channel in the default locale, and a mail a subject."""
        at = entry.get("template") or entry
        words = self.library.find(
            spec.template, (channel.name, channel.type), library.locale_chain(self.defaults.locale)
        )
        if words is None and channel.renders_text and spec.template not in self.library.flawed:
            known = "" if spec.template in self.library else nearest(spec.template, self.library.names)
            file = f"{channel.name}.html" if channel.type == "email" else f"{channel.name}.txt"
            self.diagnostics.add(
                at,
                "missing-template",
                f"no template {spec.template!r} for channel {channel.name!r}",
                hint=known or f"write {TEMPLATE_FOLDER}{spec.template}/{file}",
                at_key=at is entry,
            )
        elif words is not None and channel.type == "email" and words.subject is None:
            message = f"the template {spec.template!r} has no subject, and a mail needs one"
            self.diagnostics.add(at, "missing-subject", message, at_key=at is entry)

    def _check_reachable(self, entry: DocumentNode, spec: ActionSpec, channel: ChannelSpec) -> None:
        to = entry.get("to")
        if channel.address is None or (to is not None and channel.address in to.value):
            return
        self.diagnostics.add(
            to or entry,
            "no-address",
            f"nothing says where the request has the {channel.address} that channel {channel.name!r} needs",
            hint=f"add to the action: to: {{{channel.address}: <path into the payload>}}",
            at_key=to is None,
        )


def check_overlaps(entries: Sequence[DocumentNode], complaints: Diagnostics) -> None:
    """No key may name a person of another action: it would be open which of the two gets a request."""
    handlers = ((entry.name, entry.get("handler")) for entry in entries)
    personal = {name for name, handler in handlers if handler is not None and handler.value in _PERSONAL}
    for entry in entries:
        above, _, last = entry.name.rpartition(".")
        if above in personal:
            message = f"requests for {entry.name} are requests for {above} about the person {last!r} already"
            complaints.add(
                entry, "overlapping-action", message, hint=f"a key that is not {above}.NAME", at_key=True
            )
