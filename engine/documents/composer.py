"""Compose values and their offsets from the events of PyYAML's parser.

PyYAML itself composes values by YAML 1.1. There ``no`` is false, ``22:00`` is 1320, and the last of two equal
keys wins without a warning. This module follows YAML 1.2.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import yaml

from ..model.problems import Place, Problem, json_pointer

MAX_NODES = 1_000_000  # values in one file after all aliases are expanded
MAX_DEPTH = 100  # nested mappings and lists

_LOADER: Any = getattr(yaml, "CLoader", yaml.Loader)  # PyYAML may be built without libyaml

_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {  # the supported tags of scalars, and the types of their values
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}

MAX_DIGITS = 1000  # of one number

_KEYWORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_NUMBER_STARTS = frozenset("-+.0123456789")


class _LimitExceeded(Exception):  # noqa: N818  it ends the composition and does not leave this module
    """Too many values, or values that are nested too deep."""


class _Anchor:
    """The value of ``&name``; not ``done`` before the end of the value."""

    __slots__ = ("done", "height", "offset", "size", "text", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.offset: Offsets = 0
        self.size = 0  # values in it after all aliases are expanded
        self.height = 0  # nested mappings and lists, itself included
        self.text: str | None = None  # of a scalar, as written


class Composer:
    """The composition of one text.

    ``lines`` are the offsets of line starts. ``restore`` maps the code points of stand-ins to the characters
    that they replace in the text of the parser.
    """

    def __init__(self, file: str, lines: tuple[int, ...], restore: dict[int, str]) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._lines = lines
        self._restore = restore
        self._anchors: dict[str, _Anchor] = {}
        self._path: list[str | int] = []
        self._nodes = 0
        self._depth = 0
        self._deepest = 0  # since the start of the present anchor
        self._events: Iterator[Any] = iter(())

    def compose(self, text: str) -> tuple[Any, Offsets]:
        """Return the data of ``text`` and its offsets; errors are in ``problems``.

        The data is an empty mapping if the text exceeds a limit. Raise the errors of the parser: YAMLError,
        and from the parser in Python also ValueError and OverflowError.
        """
        try:
            return self._document(text)
        except _LimitExceeded:
            return {}, 0

    def _document(self, text: str) -> tuple[Any, Offsets]:
        events: Any = yaml.parse(text, Loader=_LOADER)
        self._events = events
        data: Any = {}
        offsets: Offsets = 0
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    start: Any = event.start_mark
                    self._report("yaml-documents", start.index, "a second document in one file")
                    break
                first: Any = next(self._events)
                data, offsets = self._value(first)
                if isinstance(first, yaml.ScalarEvent) and not first.style and first.value == "":
                    data = {}  # a file that is empty or has only comments
        return data, offsets

    def _value(self, event: Any) -> tuple[Any, Offsets]:
        start: int = event.start_mark.index
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, start)
        self._count_nodes(1, start)
        if event.anchor is None:
            return self._content(event, start)
        anchor = self._anchors[event.anchor] = _Anchor()
        before, outer = self._nodes - 1, self._deepest
        self._deepest = self._depth
        anchor.value, anchor.offset = self._content(event, start)
        anchor.size = self._nodes - before
        anchor.height = self._deepest - self._depth
        self._deepest = max(outer, self._deepest)
        anchor.text = self._text(event) if isinstance(event, yaml.ScalarEvent) else None
        anchor.done = True
        return anchor.value, anchor.offset

    def _content(self, event: Any, start: int) -> tuple[Any, Offsets]:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, start), start
        self._depth += 1
        self._check_depth(self._depth, start)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG_PREFIX + ("map" if mapping else "seq")):
            self._report_tag(event.tag, start)
        found = self._mapping(start) if mapping else self._list(start)
        self._depth -= 1
        return found

    def _list(self, start: int) -> tuple[list[Any], SourceMap]:
        source_map = SourceMap(start)
        data: list[Any] = []
        source_map.values = offsets = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            self._path.append(len(data))
            value, offset = self._value(event)
            self._path.pop()
            data.append(value)
            offsets.append(offset)
        return data, source_map

    def _mapping(self, start: int) -> tuple[dict[str, Any], SourceMap]:
        source_map = SourceMap(start)
        data: dict[str, Any] = {}
        source_map.values = offsets = {}
        merge_keys: dict[str, int] = {}
        merged: list[tuple[dict[str, Any], SourceMap]] = []
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event)
            if key is None:
                self._value(next(self._events))  # a value without a key; its own errors count
                continue
            merging = key == "<<" and isinstance(event, yaml.ScalarEvent) and not event.style
            seen = merge_keys if merging else source_map.keys
            key_start: int = event.start_mark.index
            self._path.append(key)
            repeated = key in seen
            if repeated:
                line = bisect_right(self._lines, seen[key])
                self._report(
                    "duplicate-key", key_start, f"the key '{key}' occurs twice, first in line {line}"
                )
            before = len(self.problems)
            value, offset = self._value(next(self._events))
            if merging:
                sources = _mergeable(value, offset)
                merged += sources
                if not sources and len(self.problems) == before:
                    self._report("yaml-merge", key_start, "'<<' needs a mapping or a list of mappings")
            elif not repeated:  # of a repeated key the first one stays
                data[key], offsets[key] = value, offset
            seen.setdefault(key, key_start)
            self._path.pop()
        for source, place in merged:
            _merge(source, place, data, source_map)
        return data, source_map

    def _key(self, event: Any) -> str | None:
        """Return the text of a key, ``404`` as ``"404"``; None, and report it, if it is no scalar."""
        if isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None or event.tag is not None:
                self._value(event)  # keeps the anchor, reports the tag
                self._nodes -= 1
            return self._text(event)
        start: int = event.start_mark.index
        if isinstance(event, yaml.AliasEvent):
            before = len(self.problems)
            self._alias(event, start)
            if len(self.problems) > before:
                return None
            text = self._anchors[str(event.anchor)].text
            if text is not None:
                return text
        else:
            self._value(event)
        self._report("yaml-key", start, "a mapping or a list as a key; a key must be text")
        return None

    def _alias(self, event: Any, start: int) -> tuple[Any, Offsets]:
        name: str = event.anchor
        anchor = self._anchors.get(name)
        if anchor is None:
            self._report("yaml-alias", start, f"no anchor '&{name}' before '*{name}'")
        elif not anchor.done:
            self._report("yaml-alias", start, f"'*{name}' is inside its own anchor")
        else:
            self._count_nodes(anchor.size, start)
            self._check_depth(self._depth + anchor.height, start)
            return anchor.value, anchor.offset
        return None, start

    def _scalar(self, event: Any, start: int) -> Any:
        text = self._text(event)
        tag = event.tag
        if tag not in (None, "!"):
            if not tag.startswith(_TAG_PREFIX) or tag.removeprefix(_TAG_PREFIX) not in _TAGGED:
                self._report_tag(tag, start)
                return text
            if tag == _TAG_PREFIX + "str":
                return text
        elif event.style:
            return text
        try:
            value = scalar(text)
        except ValueError as error:
            self._report("yaml-number", start, str(error), hint="put it in quotes if text is meant")
            return text
        return value if tag in (None, "!") else self._tagged(tag, value, start)

    def _tagged(self, tag: str, value: Any, start: int) -> Any:
        name = tag.removeprefix(_TAG_PREFIX)
        if type(value) not in _TAGGED[name]:
            self._report("yaml-tag", start, f"'{value}' does not have the type of the tag '!!{name}'")
            return value
        try:
            return float(value) if name == "float" else value
        except OverflowError:
            self._report("yaml-number", start, f"the number {str(value)[:20]}… is too large")
            return value

    def _text(self, event: Any) -> str:
        text: str = event.value
        return text.translate(self._restore) if self._restore else text

    def _count_nodes(self, nodes: int, start: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            message = f"more than {MAX_NODES:,} values after all aliases are expanded"
            self._report("yaml-too-big", start, message)
            raise _LimitExceeded

    def _check_depth(self, depth: int, start: int) -> None:
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            message = f"mappings and lists nested more than {MAX_DEPTH} deep"
            self._report("yaml-too-deep", start, message)
            raise _LimitExceeded

    def _report_tag(self, tag: str, start: int) -> None:
        name = f"!!{tag.removeprefix(_TAG_PREFIX)}" if tag.startswith(_TAG_PREFIX) else tag
        self._report("yaml-tag", start, f"the tag '{name}' is not supported")

    def _report(self, code: str, start: int, message: str, *, hint: str = "") -> None:
        place, pointer = place_at(self._file, self._lines, start), json_pointer(tuple(self._path))
        self.problems.append(Problem(place=place, code=code, message=message, pointer=pointer, hint=hint))


def place_at(file: str, lines: tuple[int, ...], offset: int) -> Place:
    """Return the place of ``offset``; ``lines`` are the offsets of line starts."""
    line = bisect_right(lines, offset)
    return Place(file=file, line=line, column=offset - lines[line - 1] + 1)


def _merge(source: dict[str, Any], place: SourceMap, data: dict[str, Any], source_map: SourceMap) -> None:
    """Add the keys of ``source`` to ``data``, whose own keys win."""
    inside: Any = place.values
    offsets: Any = source_map.values
    for key, value in source.items():
        if key not in data:
            data[key], source_map.keys[key], offsets[key] = value, place.keys[key], inside[key]


def _mergeable(value: Any, offset: Offsets) -> list[tuple[dict[str, Any], SourceMap]]:
    """Return the mappings that ``<<`` merges; empty if its value is not a mapping or a list of mappings."""
    if not isinstance(offset, SourceMap):
        return []
    if isinstance(value, dict):
        return [(value, offset)]
    pairs = list(zip(value, offset.values, strict=True))
    found = [
        (item, place) for item, place in pairs if isinstance(item, dict) and isinstance(place, SourceMap)
    ]
    return found if len(found) == len(pairs) else []


def scalar(text: str) -> Any:
    """Return the value of a plain scalar. Raise ValueError with a message for operators."""
    first = text[:1]
    if first not in _NUMBER_STARTS or not first:
        return _KEYWORDS.get(text, text)
    if _INTEGER.fullmatch(text):
        return int(_bounded(text))
    if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        return int(_bounded(text), 0)
    if _FLOAT.fullmatch(text):
        number = float(_bounded(text))
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the number {text} is too large")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


def _bounded(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return digits


class SourceMap:
    """The offsets of a mapping or a list and of all values inside it.

    The offset of a scalar is a plain number. Such a tree needs a fraction of the memory of a dict from path
    to place, and an alias shares its part of the tree as it shares its value.
    """

    __slots__ = ("keys", "start", "values")

    def __init__(self, start: int) -> None:
        self.start = start
        self.keys: dict[str, int] = {}  # of a mapping
        self.values: dict[str, Offsets] | list[Offsets] = {}


Offsets = SourceMap | int
