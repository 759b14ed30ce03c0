"""Load a policy from a folder or from bytes: read every file, report every problem, compile the rest.

The server and the command both use this module, so they accept the same policies. Entry: `load_policy`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..documents import schemas, yaml
from ..documents.yaml import Document
from ..model.errors import PolicyError
from ..model.messages import Kind
from ..model.problems import Place, Problem
from ..rules.rulebook import Rulebook
from ..runtime import gc_paused
from ..templates.library import PICTURES, TemplateSource
from .compiler import PolicyDocuments, compile_policy
from .testing.cases import Case

MAX_FILES = 20_000  # of one policy
MAX_FILE = 32 * 1024 * 1024  # bytes
MAX_POLICY = 256 * 1024 * 1024  # bytes of all its files
_SECTIONS, _TEMPLATES, _EVENTS = (".yaml", ".yml"), "templates", "events"
_WORDS = (".html", ".mjml", ".txt", ".md")
_SCHEMA = re.compile(rf"({'|'.join(Kind)})/.+\.schema\.json|log\.schema\.json")
_FENCE = "---"

_ReportProblem = Callable[[str, str, str], None]  # file, code, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a folder holds. ``rulebook`` is there only when no problem is an error."""

    rulebook: Rulebook | None
    cases: tuple[Case, ...]  # its own tests, to be run against the rulebook
    problems: tuple[Problem, ...]  # in order of place
    revision: str
    rules: int  # written, whether switched on or not

    @property
    def ok(self) -> bool:
        return self.rulebook is not None

    def require(self) -> Rulebook:
        """The rulebook, or PolicyError with every problem."""
        if self.rulebook is None:
            raise PolicyError([problem for problem in self.problems if problem.severity == "error"])
        return self.rulebook


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of a policy, wherever they came from."""

    contents: Mapping[str, bytes] = field(repr=False)  # by path, in order of path
    problems: tuple[Problem, ...] = ()  # with those that could not be read

    @property
    def revision(self) -> str:
        """A hash of names and contents: equal policies have equal revisions on every replica."""
        return _revision(self.contents)


def load_policy(folder: Path, environment: Mapping[str, str] = os.environ, *, warn: bool = True) -> Policy:
    """Read the policy in ``folder``. Never raises for what the files say or are.

    Who serves it reads no warnings: looking for them takes up to half of the time, and is left out
    unless ``warn``.
    """
    return load_files(read_folder(folder), environment, warn=warn)


def read_folder(folder: Path) -> Files:
    """The files that make the policy in ``folder``. Never raises for what they are."""
    problems: list[Problem] = []
    return Files(contents=dict(_read_files(folder, problems)), problems=tuple(problems))


def load_files(files: Files, environment: Mapping[str, str] = os.environ, *, warn: bool = True) -> Policy:
    """The policy that ``files`` make. Never raises for what they say."""
    with gc_paused():
        return _policy(files.contents, list(files.problems), environment, warn=warn)


def load_bytes(data: bytes, name: str, environment: Mapping[str, str] = os.environ) -> Policy:
    """A policy of one file called ``name``. Words, which lie in files of their own, are not missed."""
    return _policy({name: data}, [], environment, without=("missing-template",))


def _policy(
    files: Mapping[str, bytes],
    problems: list[Problem],
    environment: Mapping[str, str],
    without: Collection[str] = (),
    *,
    warn: bool = True,
) -> Policy:
    """What ``files`` say, by path; ``problems`` are those of reading, codes in ``without`` left out."""
    revision = _revision(files)
    sections: list[Document] = []
    events: dict[str, Document] = {}
    sources: list[TemplateSource] = []
    pictures: dict[str, bytes] = {}
    for name, data in files.items():
        top, _, below = name.partition("/")
        if top == _TEMPLATES and below:
            if name.endswith(_WORDS):
                sources.append(_source(name, below, data, problems))
            else:
                pictures[below] = data
        elif top == _EVENTS and below:
            if _SCHEMA.fullmatch(below):
                events[below.removesuffix(".schema.json")] = yaml.read_bytes(data, name)
            else:
                problems.append(_misplaced(name))
        else:
            sections.append(yaml.read_bytes(data, name))
    for document in (*sections, *events.values()):
        problems.extend(document.problems)
    whole = PolicyDocuments(
        revision=revision, sections=sections, events=events, sources=sources, pictures=pictures
    )
    compiled = compile_policy(whole, environment, warn=warn)
    unread = {problem.place.file for problem in problems}
    problems.extend(
        problem
        for problem in compiled.problems
        # A file of which something could not be read is not missing what may stand there.
        if problem.code not in without
        and not (problem.code == "missing-subject" and problem.place.file in unread)
    )
    broken = any(problem.severity == "error" for problem in problems)
    return Policy(
        rulebook=None if broken else compiled.rulebook,
        cases=compiled.cases,
        problems=tuple(sorted(problems, key=lambda problem: (problem.place, problem.code))),
        revision=revision,
        rules=compiled.rules,
    )


def _revision(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(b"%d:%s%d:" % (len(name), name.encode(), len(files[name])))
        digest.update(files[name])
    return digest.hexdigest()[:12]


def _read_files(folder: Path, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    """Every file of the policy by its path below ``folder``, in order of path."""

    def complain(name: str, code: str, message: str) -> None:
        problems.append(Problem(place=Place(file=name), code=code, message=message))

    if not folder.is_dir():
        problems.append(_no_folder(folder))
        return
    size = 0
    for count, (name, path) in enumerate(_walk(folder, folder, frozenset(), complain)):
        if count >= MAX_FILES:
            complain(name, "too-many-files", f"a policy has at most {MAX_FILES} files")
            return
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)  # and not what stat says: it may be growing
        except OSError as error:
            complain(name, "unreadable", error.strerror or str(error))
            continue
        if len(data) > MAX_FILE:
            complain(name, "file-too-big", f"a file has at most {MAX_FILE // 1024 // 1024} MB")
            continue
        size += len(data)
        if size > MAX_POLICY:
            complain(name, "file-too-big", f"all files together have at most {MAX_POLICY // 1024 // 1024} MB")
            return
        yield name, data


def _misplaced(name: str) -> Problem:
    message = "a payload schema lies at events/<kind>/<key>.schema.json; this describes no event"
    return Problem(place=Place(file=name), code="schema-path", message=message)


def _no_folder(folder: Path) -> Problem:
    message, hint = "there is no such folder", "mss init writes a first policy"
    if folder.exists():
        message, hint = "this is no folder", "give the policy's folder; - reads one file from standard input"
    return Problem(place=Place(file=""), code="unreadable", message=message, hint=hint)


def _walk(
    root: Path, folder: Path, above: frozenset[Path], complain: _ReportProblem
) -> Iterator[tuple[str, Path]]:
    name = _name(root, folder)
    real = folder.resolve()
    if real in above:
        complain(name, "symlink-loop", "this folder leads back to itself")
        return
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        complain(name, "unreadable", error.strerror or str(error))
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if os.path.isdir(entry):  # noqa: PTH112 -- Path.is_dir raises where a folder may not be entered
            yield from _walk(root, entry, above | {real}, complain)
        elif belongs(path := _name(root, entry)):
            if os.path.exists(entry) and not os.path.isfile(entry):  # noqa: PTH110, PTH113 -- so do these
                complain(path, "unreadable", "this is no file")  # a pipe would be read for ever
            else:
                yield path, entry


def _name(root: Path, path: Path) -> str:
    """The path below ``root``, fit to be printed: a name on disk may be no text at all."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")


def is_hidden(name: str) -> bool:
    """Whether an entry is an editor's, or Kubernetes' own beside the links that matter."""
    return name.startswith(".") or name.endswith("~")


def belongs(path: str) -> bool:
    """Whether a file of this path below the policy's folder is part of the policy."""
    top, _, below = path.partition("/")
    if top == _TEMPLATES and below:
        return path.endswith(_WORDS) or path.rpartition(".")[2].lower() in PICTURES
    if top == _EVENTS and below:
        return path.endswith(".json")
    return path.endswith(_SECTIONS)


def _source(name: str, below: str, data: bytes, problems: list[Problem]) -> TemplateSource:
    """A template file without its front matter."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is not UTF-8"
        problems.append(Problem(place=Place(file=name), code="not-utf8", message=message))
        return TemplateSource(path=below, text="")
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != _FENCE:
        return TemplateSource(path=below, text=text)
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), None)
    if end is None:
        message = f"front matter begins with {_FENCE} and never ends"
        problems.append(Problem(place=Place(file=name), code="front-matter", message=message))
        return TemplateSource(path=below, text="")
    # One empty line for the fence, so that the places of the front matter are the file's.
    front = yaml.read("\n" + "".join(lines[1:end]), name)
    problems.extend((*front.problems, *schemas.check(front, "front-matter")))
    subject = front.data.get("subject") if isinstance(front.data, dict) else None
    subject = subject if isinstance(subject, str) else None
    return TemplateSource(
        path=below,
        text="\n" * (end + 1) + "".join(lines[end + 1 :]),
        subject=subject,
        subject_line=front.place(("subject",)).line if subject else 1,
    )
