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
MAX_FILE = 32 * 1024 * 1024  # bytes of one file
MAX_POLICY = 256 * 1024 * 1024  # bytes of all its files
_SECTIONS, _TEMPLATES, _EVENTS = (".yaml", ".yml"), "templates", "events"
_TEXTS = (".html", ".mjml", ".txt", ".md")  # of templates
_SCHEMA = re.compile(rf"({'|'.join(Kind)})/.+\.schema\.json|log\.schema\.json")
_FENCE = "---"

_ReportProblem = Callable[[str, str, str], None]  # file, code, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded policy, or its problems."""

    rulebook: Rulebook | None  # None if a problem is an error
    cases: tuple[Case, ...]  # its own tests, for the rulebook
    problems: tuple[Problem, ...]  # in order of place
    revision: str
    rules: int  # their number, those that are off included

    @property
    def ok(self) -> bool:
        return self.rulebook is not None

    def require(self) -> Rulebook:
        """Return the rulebook. Raises PolicyError with every error if there is none."""
        if self.rulebook is None:
            raise PolicyError([problem for problem in self.problems if problem.severity == "error"])
        return self.rulebook


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of a policy, from a folder or a bucket."""

    contents: Mapping[str, bytes] = field(repr=False)  # by path, in order of path
    problems: tuple[Problem, ...] = ()  # of files that could not be read

    @property
    def revision(self) -> str:
        """A hash of names and contents: equal policies have equal revisions on every replica."""
        digest = hashlib.sha256()
        for name, data in sorted(self.contents.items()):
            digest.update(b"%d:%s%d:" % (len(name), name.encode(), len(data)))
            digest.update(data)
        return digest.hexdigest()[:12]


def load_policy(folder: Path, environment: Mapping[str, str] = os.environ, *, warn: bool = True) -> Policy:
    """Load the policy in ``folder``. Never raises: problems are in the result.

    Unless ``warn``, checks for warnings are skipped: they take up to half of the time, and a server shows
    no warnings.
    """
    return load_files(read_folder(folder), environment, warn=warn)


def read_folder(folder: Path) -> Files:
    """Return the files of the policy in ``folder``. Never raises: problems are in the result."""
    problems: list[Problem] = []
    return Files(contents=dict(_read_files(folder, problems)), problems=tuple(problems))


def load_files(files: Files, environment: Mapping[str, str] = os.environ, *, warn: bool = True) -> Policy:
    """Load the policy from ``files``. Never raises: problems are in the result."""
    with gc_paused():
        return _load(files, environment, warn=warn)


def load_bytes(data: bytes, name: str, environment: Mapping[str, str] = os.environ) -> Policy:
    """Load a policy of one file called ``name``. Missing templates are not reported."""
    return _load(Files(contents={name: data}), environment, ignored=("missing-template",), warn=True)


def _load(
    files: Files, environment: Mapping[str, str], *, warn: bool, ignored: Collection[str] = ()
) -> Policy:
    """Parse and compile ``files``; problems whose code is ``ignored`` are left out."""
    problems, revision = list(files.problems), files.revision
    sections: list[Document] = []
    events: dict[str, Document] = {}
    sources: list[TemplateSource] = []
    pictures: dict[str, bytes] = {}
    for name, data in files.contents.items():
        top, _, below = name.partition("/")
        if top == _TEMPLATES and below:
            if name.endswith(_TEXTS):
                sources.append(_source(name, below, data, problems))
            else:
                pictures[below] = data
        elif top == _EVENTS and below:
            if _SCHEMA.fullmatch(below):
                events[below.removesuffix(".schema.json")] = yaml.read_bytes(data, name)
            else:
                message = "a payload schema is at events/<kind>/<key>.schema.json; this path names no event"
                problems.append(Problem(place=Place(file=name), code="schema-path", message=message))
        else:
            sections.append(yaml.read_bytes(data, name))
    for document in (*sections, *events.values()):
        problems.extend(document.problems)
    documents = PolicyDocuments(
        revision=revision, sections=sections, events=events, sources=sources, pictures=pictures
    )
    compiled = compile_policy(documents, environment, warn=warn)
    unread = {problem.place.file for problem in problems}
    problems.extend(
        problem
        for problem in compiled.problems
        # The subject may be in a part of the file that could not be read.
        if problem.code not in ignored
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


def _read_files(folder: Path, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    """Yield each file of the policy with its path below ``folder``, in order of path."""

    def report(name: str, code: str, message: str) -> None:
        problems.append(Problem(place=Place(file=name), code=code, message=message))

    if not folder.is_dir():
        problems.append(_no_folder(folder))
        return
    size = 0
    for count, (name, path) in enumerate(_walk(folder, folder, frozenset(), report)):
        if count >= MAX_FILES:
            report(name, "too-many-files", f"a policy has at most {MAX_FILES} files")
            return
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)  # not the size by stat: the file may be growing
        except OSError as error:
            report(name, "unreadable", error.strerror or str(error))
            continue
        if len(data) > MAX_FILE:
            report(name, "file-too-big", f"a file has at most {MAX_FILE // 1024 // 1024} MB")
            continue
        size += len(data)
        if size > MAX_POLICY:
            report(name, "file-too-big", f"all files together have at most {MAX_POLICY // 1024 // 1024} MB")
            return
        yield name, data


def _no_folder(folder: Path) -> Problem:
    message, hint = "there is no such folder", "mss init creates a first policy"
    if folder.exists():
        message, hint = (
            "this is not a folder",
            "pass the folder of the policy, or - to read standard input",
        )
    return Problem(place=Place(file=""), code="unreadable", message=message, hint=hint)


def _walk(
    root: Path, folder: Path, above: frozenset[Path], report: _ReportProblem
) -> Iterator[tuple[str, Path]]:
    name = _name(root, folder)
    real = folder.resolve()
    if real in above:
        report(name, "symlink-loop", "this folder contains itself")
        return
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        report(name, "unreadable", error.strerror or str(error))
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if os.path.isdir(entry):  # noqa: PTH112 -- Path.is_dir raises if a folder may not be entered
            yield from _walk(root, entry, above | {real}, report)
        elif belongs(path := _name(root, entry)):
            if os.path.exists(entry) and not os.path.isfile(entry):  # noqa: PTH110, PTH113 -- so do these
                report(path, "unreadable", "this is not a file")  # reading a pipe would not end
            else:
                yield path, entry


def _name(root: Path, path: Path) -> str:
    """Return the path below ``root``, fit for printing: a name on disk may contain any bytes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")


def is_hidden(name: str) -> bool:
    """Return whether an entry is of an editor or of Kubernetes, and not of the policy."""
    return name.startswith(".") or name.endswith("~")


def belongs(path: str) -> bool:
    """Return whether a file with this path below the folder is part of the policy."""
    top, _, below = path.partition("/")
    if top == _TEMPLATES and below:
        return path.endswith(_TEXTS) or path.rpartition(".")[2].lower() in PICTURES
    if top == _EVENTS and below:
        return path.endswith(".json")
    return path.endswith(_SECTIONS)


def _source(name: str, below: str, data: bytes, problems: list[Problem]) -> TemplateSource:
    """Return a template file without its front matter."""
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
        message = f"the front matter begins with {_FENCE} and has no end"
        problems.append(Problem(place=Place(file=name), code="front-matter", message=message))
        return TemplateSource(path=below, text="")
    # One empty line for the fence, so that the lines of the front matter are those of the file.
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
