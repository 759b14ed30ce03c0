"""Read YAML 1.2 text as a document that knows the place of each value; each error is a Problem."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..model.problems import Diagnostic, DocumentPath, Place, Problem, json_pointer
from .composer import MAX_DEPTH, Composer, Offsets, SourceMap, place_at

MAX_BYTES = 32 * 1024 * 1024  # of one file
MAX_TABS = 50  # reported in one file

_LINE_END = re.compile(r"\r\n|\n|\r")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")

# Line ends in YAML 1.1, which the parser implements, but ordinary characters in YAML 1.2.
_OLD_LINE_ENDS = "\x85\u2028\u2029"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The data of one file, with the place of each value.

    ``data`` shares values between an anchor and its aliases: never change it in place. If the syntax is
    invalid, it is an empty mapping, and ``problems`` has the reason.
    """

    file: str
    data: Any
    problems: tuple[Problem, ...] = ()
    offsets: Offsets = field(default=0, repr=False, compare=False)
    lines: tuple[int, ...] = field(default=(0,), repr=False, compare=False)  # offsets of line starts

    def place(self, path: DocumentPath) -> Place:
        """Return the start of the value at ``path``, or of its nearest ancestor that exists."""
        return self._place(_offset(_descend(self.offsets, path)))

    def key_place(self, path: DocumentPath) -> Place:
        """Return the start of the key at ``path``, or of the value if it has no key, as in a list."""
        if path and isinstance(path[-1], str):
            parent = _descend(self.offsets, path[:-1])
            if isinstance(parent, SourceMap) and path[-1] in parent.keys:
                return self._place(parent.keys[path[-1]])
        return self.place(path)

    def problem(self, found: Diagnostic) -> Problem:
        """Return the problem that ``found`` describes, with its place in this document."""
        return Problem(
            place=(self.key_place if found.at_key else self.place)(found.path),
            pointer=json_pointer(found.path),
            code=found.code,
            message=found.message,
            hint=found.hint,
            severity=found.severity,
        )

    def _place(self, offset: int) -> Place:
        return place_at(self.file, self.lines, offset)


def read_bytes(data: bytes, file: str) -> Document:
    """Read the bytes of a file in UTF-8, with or without a byte order mark. Errors are in its problems."""
    start = Place(file=file)
    if len(data) > MAX_BYTES:
        return _unreadable(start, "yaml-too-big", f"the file is larger than {MAX_BYTES >> 20} MB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _unreadable(start, "not-utf8", "the file is UTF-16", hint="save it as UTF-8")
    try:
        return read(data.decode(), file)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode().removeprefix("\ufeff")
        place = place_at(file, _line_starts(before), len(before))
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        return _unreadable(place, "not-utf8", message, hint="save the file as UTF-8")


def read(text: str, file: str) -> Document:
    """Read one YAML document. Errors are in its problems; this function never raises."""
    text = text.removeprefix("\ufeff")
    lines = _line_starts(text)
    if len(text) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES >> 20} MB"
        return _unreadable(Place(file=file), "yaml-too-big", message)
    if bad := _UNPRINTABLE.search(text):
        message = f"the character U+{ord(bad[0]):04X} is not allowed in a text file"
        return _unreadable(place_at(file, lines, bad.start()), "binary", message)

    text, restore = _shield(text)
    tabs: list[Problem] = []
    while True:
        composer = Composer(file, lines, restore)
        data: Any = {}
        offsets: Offsets = 0
        try:
            data, offsets = composer.compose(text)
            problems = [*tabs, *composer.problems]
        except yaml.YAMLError as error:
            offset = error_offset(error, len(text))
            if is_tab(error, text, offset) and len(tabs) < MAX_TABS:
                message, hint = "a tab; YAML indents with spaces", "write spaces instead"
                place = place_at(file, lines, offset)
                tabs.append(Problem(place=place, code="yaml-tab", message=message, hint=hint))
                text = f"{text[:offset]} {text[offset + 1 :]}"  # as long as before: offsets stay correct
                continue
            # An error after the replacement of a tab is most likely a consequence of the tab.
            problems = tabs or [*composer.problems, syntax_problem(error, text, file, lines, offset)]
        except (ValueError, OverflowError):  # from the parser in Python, for an escape beyond Unicode
            message = "an invalid escape in quotes"
            problems = [*tabs, Problem(place=Place(file=file), code="yaml-syntax", message=message)]
        ordered = tuple(sorted(problems, key=lambda problem: problem.place))
        return Document(file=file, data=data, problems=ordered, offsets=offsets, lines=lines)


def _unreadable(place: Place, code: str, message: str, *, hint: str = "") -> Document:
    problem = Problem(place=place, code=code, message=message, hint=hint)
    return Document(file=place.file, data={}, problems=(problem,))


def _descend(offsets: Offsets, path: DocumentPath) -> Offsets:
    for step in path:
        if not isinstance(offsets, SourceMap):
            break
        inside = offsets.values
        if isinstance(inside, dict):
            if not isinstance(step, str) or step not in inside:
                break
            offsets = inside[step]
        else:
            if not isinstance(step, int) or not 0 <= step < len(inside):
                break
            offsets = inside[step]
    return offsets


def _offset(offsets: Offsets) -> int:
    return offsets.start if isinstance(offsets, SourceMap) else offsets


def _line_starts(text: str) -> tuple[int, ...]:
    return (0, *(end.end() for end in _LINE_END.finditer(text)))


def _shield(text: str) -> tuple[str, dict[int, str]]:
    """Replace the line ends of YAML 1.1 only; return the text and the characters by their code points."""
    present = [char for char in _OLD_LINE_ENDS if char in text]
    if not present:
        return text, {}
    unused = (char for char in map(chr, range(0xF0000, 0xFFFFD)) if char not in text)
    stand_ins = dict(zip(present, unused, strict=False))
    there = {ord(char): stand_in for char, stand_in in stand_ins.items()}
    return text.translate(there), {ord(stand_in): char for char, stand_in in stand_ins.items()}


def error_offset(error: yaml.YAMLError, end: int) -> int:
    """Return the offset at which the parser stopped, at most ``end``."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return min(mark.index, end) if mark is not None else 0


def is_tab(error: yaml.YAMLError, text: str, offset: int) -> bool:
    """Return whether the error is about the tab at ``offset``, and not about something else there."""
    problem = getattr(error, "problem", "") or ""
    return text[offset : offset + 1] == "\t" and ("tab" in problem or "cannot start any token" in problem)


def syntax_problem(
    error: yaml.YAMLError, text: str, file: str, lines: tuple[int, ...], offset: int
) -> Problem:
    """Return the problem at ``offset``, where the parser stopped."""
    problem = getattr(error, "problem", "") or "this is not YAML"
    context = getattr(error, "context", "") or ""
    since = getattr(error, "context_mark", None)
    first = bisect_right(lines, since.index) if since is not None else 0
    if "nesting depth" in problem:  # the parser's own limit; it looks ahead, so it can be the first to notice
        message = f"mappings and lists nested more than {MAX_DEPTH} deep"
        return Problem(place=place_at(file, lines, offset), code="yaml-too-deep", message=message)
    if since is not None and "scanning an a" in context:  # the error is at the sign of the alias or anchor
        offset = since.index
    message, hint = _describe(problem, context, first, text[offset : offset + 1])
    place = place_at(file, lines, offset)
    return Problem(place=place, code="yaml-syntax", message=message, hint=hint)


def _describe(problem: str, context: str, first: int, char: str) -> tuple[str, str]:  # noqa: PLR0911
    """Return a message and a hint for an error of the parser."""
    if "mapping values are not allowed" in problem:
        hint = "quote text that has ': ' in it, and check the indentation of this line and the one above"
        return "a ':' where a key is not allowed", hint
    if "cannot start any token" in problem or "scanning an a" in context:
        return f"a value cannot start with '{char}' unless it is in quotes", "put it in quotes"
    if "could not find expected ':'" in problem:
        hint = "write 'key: value', with a space after the colon"
        return f"line {first} starts like a key and has no ': '", hint
    if "block mapping" in context and ("expected key" in problem or "<block end>" in problem):
        message = f"this does not continue the mapping that starts in line {first}"
        return message, "check the indentation, and quotes that end too early"
    if "block collection" in context:
        message = f"this does not continue the list that starts in line {first}"
        return message, "check the indentation; each entry starts with '- '"
    if "flow sequence" in context:
        return f"the '[' in line {first} is not closed with ']', or a ',' is missing", ""
    if "flow mapping" in context:
        return f"the '{{' in line {first} is not closed with '}}', or a ',' is missing", ""
    if "quoted scalar" in context and "unexpected end" in problem:
        return f"the quote opened in line {first} is not closed", ""
    if "escape" in problem:
        hint = "write \\\\ for a backslash, or use single quotes"
        return "an unknown escape in double quotes", hint
    where = f" ({context}, from line {first})" if context and first else f" ({context})" if context else ""
    return f"not valid YAML: {problem}{where}", ""
