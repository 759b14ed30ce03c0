"""The top-level sections of a policy, over all its files, without what the schema refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from . import documents, schemas
from .cursors import Diagnostics, DocumentNode
from .documents import Document

_LISTS = ("rules", "tests")  # the other sections map names to entries
_WHOLE = ("dedupe", "throttle", "digest", "budget")  # of a rule; what a mistake leaves of one is none


class Sections:
    """Reads the documents of a policy section by section; what the schema refuses is a complaint."""

    def __init__(self, files: Sequence[Document], complaints: Diagnostics) -> None:
        self._diagnostics = complaints
        self._documents = [document for document in files if isinstance(document.data, dict)]
        self._unreadable = any(document.problems for document in files)
        self._refusals: list[tuple[str, str]] = []  # file, pointer of what is wrong
        for document in files:
            problems = schemas.check(document, "policy")
            complaints.problems.extend(problems)
            # One mistake makes one problem: of an entry with a mistake in it only remnants are looked at.
            # What an alias to nothing or a strange tag leaves behind may be anything; a repeated key is fine.
            unread = [p for p in document.problems if p.code != "duplicate-key"]
            self._refusals += [(document.file, problem.pointer) for problem in (*problems, *unread)]
        self._refused = {(file, _entry(pointer)) for file, pointer in self._refusals}

    def named(self, section: str) -> Iterator[DocumentNode]:
        """Every sound entry of a section of names; the same name twice is a complaint."""
        first: dict[str, DocumentNode] = {}
        for entry in self._entries(section):
            if entry.name in first:
                message = f"{entry.name!r} is defined in {first[entry.name].key_place} already"
                self._diagnostics.add(entry, "defined-twice", message, at_key=True)
                continue
            first[entry.name] = entry
            if self._is_sound(entry):
                yield entry

    def rules(self) -> Iterator[DocumentNode]:
        """Every sound rule, in order of file and position; the same id twice is a complaint."""
        first: dict[str, DocumentNode] = {}
        for rule in self._entries("rules"):
            id_ = rule.get("id")
            if id_ is not None and isinstance(id_.value, str):
                known = first.setdefault(id_.value, id_)
                if known is not id_:
                    message = f"the rule {id_.value!r} is in {known.place} already"
                    self._diagnostics.add(id_, "defined-twice", message)
                    continue
            if self._is_sound(rule):
                yield rule

    def tests(self) -> Iterator[DocumentNode]:
        """Every sound test, in order of file and position; a name twice in one file is a complaint."""
        first: dict[tuple[str, str], DocumentNode] = {}
        for test in filter(self._is_sound, self._entries("tests")):
            name = test / "name"
            known = first.setdefault((test.document.file, name.value), name)
            if known is not name:
                message = f"the test {name.value!r} is in {known.place} already"
                self._diagnostics.add(name, "defined-twice", message)
            yield test

    def partial_entries(self, section: str) -> Iterator[DocumentNode]:
        """The entries that were refused, without what was refused in them."""
        for entry in self._entries(section):
            if not self._is_sound(entry) and isinstance(entry.value, dict):
                yield DocumentNode(entry.document, entry.path, self._without_refused(entry))

    def _without_refused(self, entry: DocumentNode) -> dict[str, Any]:
        value: dict[str, Any] = deepcopy(entry.value)
        here = documents.pointer(entry.path)
        for file, pointer in self._refusals:
            if file == entry.document.file and pointer.startswith(f"{here}/"):
                steps = pointer.removeprefix(here).split("/")[1:]
                _drop(value, steps[:1] if steps[0] in _WHOLE else steps)
        return value

    def rule_ids(self) -> set[str]:
        """The ids of every rule that is written, sound or not."""
        ids = (entry.get("id") for entry in self._entries("rules"))
        return {id_.value for id_ in ids if id_ is not None and isinstance(id_.value, str)}

    def written(self, section: str) -> list[DocumentNode]:
        """Every entry, sound or not."""
        return list(self._entries(section))

    @property
    def complete(self) -> bool:
        """Whether every file could be read and nothing in one was refused."""
        return not self._refused and not self._unreadable

    def count(self, section: str) -> int:
        """How many entries are written, sound or not."""
        return sum(1 for _ in self._entries(section))

    def names(self, section: str) -> set[str]:
        """The names of every entry, sound or not."""
        return {entry.name for entry in self._entries(section)}

    def _entries(self, section: str) -> Iterator[DocumentNode]:
        shape = list if section in _LISTS else dict
        for document in self._documents:
            whole = DocumentNode(document, (), document.data).get(section)
            if whole is not None and isinstance(whole.value, shape):
                yield from whole.items()

    def _is_sound(self, entry: DocumentNode) -> bool:
        return (entry.document.file, documents.pointer(entry.path)) not in self._refused


def _entry(pointer: str) -> str:
    """The pointer of the entry, ``/section/name``, that holds the place at ``pointer``."""
    return "/".join(pointer.split("/")[:3])


def _drop(value: Any, steps: list[str]) -> None:
    """Take the key at ``steps`` out of its mapping; an entry of a list would move the others, so all go."""
    holder, key = None, ""
    for step in (step.replace("~1", "/").replace("~0", "~") for step in steps):
        if isinstance(value, dict):
            holder, key = value, step
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            break  # it went with another
    else:
        if holder is not None:
            holder.pop(key, None)
