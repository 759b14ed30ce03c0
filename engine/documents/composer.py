"""Compose values and their offsets from the events of PyYAML's parser.

The meaning of an event is decided here, because PyYAML itself reads YAML 1.1. There ``no`` is false,
``22:00`` is 1320, and the last of two equal keys wins without a warning.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import yaml

from ..model.problems import Place, Problem, json_pointer

MAX_NODES = 1_000_000  # values in one file once every alias is written out
MAX_DEPTH = 100  # mappings and lists inside one another

_LOADER: Any = getattr(yaml, "CLoader", yaml.Loader)  # PyYAML may be built without libyaml

_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {  # the tags honoured on scalars, and what may follow each
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}

MAX_DIGITS = 1000  # of one number

_WORDS = {
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


class _LimitExceeded(Exception):  # noqa: N818  it stops the reading; nobody outside sees it
    """There is more, or it is nested deeper, than may be."""


class _Anchor:
    """What ``&name`` stands for; not done while the reader is still inside it."""

    __slots__ = ("done", "height", "size", "spot", "text", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.spot: Spot = 0
        self.size = 0  # values in it, aliases written out
        self.height = 0  # mappings and lists inside one another, itself included
        self.text: str | None = None  # as written, where it is a scalar


class Composer:
    """One reading of one text.

    ``lines`` are the offsets of line starts; ``restore`` brings back, by code point, the characters
    that were kept out of the parser's sight.
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
        self._deepest = 0  # since the anchor that is being read began
        self._events: Iterator[Any] = iter(())

    def compose(self, text: str) -> tuple[Any, Spot]:
        """The data of ``text`` and its spots; its errors are in ``problems``.

        Where it passes a bound, the data is an empty mapping. Raises what the parser raises:
        YAMLError, and the one in Python also ValueError and OverflowError.
        """
        try:
            return self._document(text)
        except _LimitExceeded:
            return {}, 0

    def _document(self, text: str) -> tuple[Any, Spot]:
        events: Any = yaml.parse(text, Loader=_LOADER)
        self._events = events
        data: Any = {}
        spots: Spot = 0
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    start: Any = event.start_mark
                    self._fault("yaml-documents", start.index, "a second document in one file")
                    break
                first: Any = next(self._events)
                data, spots = self._value(first)
                if isinstance(first, yaml.ScalarEvent) and not first.style and first.value == "":
                    data = {}  # a file of comments, or of nothing, says nothing
        return data, spots

    def _value(self, event: Any) -> tuple[Any, Spot]:
        start: int = event.start_mark.index
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, start)
        self._count_nodes(1, start)
        if event.anchor is None:
            return self._content(event, start)
        anchor = self._anchors[event.anchor] = _Anchor()
        before, outer = self._nodes - 1, self._deepest
        self._deepest = self._depth
        anchor.value, anchor.spot = self._content(event, start)
        anchor.size = self._nodes - before
        anchor.height = self._deepest - self._depth
        self._deepest = max(outer, self._deepest)
        anchor.text = self._text(event) if isinstance(event, yaml.ScalarEvent) else None
        anchor.done = True
        return anchor.value, anchor.spot

    def _content(self, event: Any, start: int) -> tuple[Any, Spot]:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, start), start
        self._depth += 1
        self._check_depth(self._depth, start)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG_PREFIX + ("map" if mapping else "seq")):
            self._tag_fault(event.tag, start)
        found = self._mapping(start) if mapping else self._list(start)
        self._depth -= 1
        return found

    def _list(self, start: int) -> tuple[list[Any], SourceMap]:
        branch = SourceMap(start)
        data: list[Any] = []
        branch.values = spots = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            self._path.append(len(data))
            value, spot = self._value(event)
            self._path.pop()
            data.append(value)
            spots.append(spot)
        return data, branch

    def _mapping(self, start: int) -> tuple[dict[str, Any], SourceMap]:
        branch = SourceMap(start)
        data: dict[str, Any] = {}
        branch.values = spots = {}
        merge_keys: dict[str, int] = {}
        merged: list[tuple[dict[str, Any], SourceMap]] = []
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event)
            if key is None:
                self._value(next(self._events))  # without a name for it; its own faults still count
                continue
            merging = key == "<<" and isinstance(event, yaml.ScalarEvent) and not event.style
            seen = merge_keys if merging else branch.keys
            key_start: int = event.start_mark.index
            self._path.append(key)
            repeated = key in seen
            if repeated:
                self._repeated_key(key, key_start, seen[key])
            before = len(self.problems)
            value, spot = self._value(next(self._events))
            if merging:
                merged += self._merge_sources(value, spot, key_start, quiet=len(self.problems) > before)
            elif not repeated:  # of a repeated key the first one stays
                data[key], spots[key] = value, spot
            seen.setdefault(key, key_start)
            self._path.pop()
        for source, place in merged:
            _merge(source, place, data, branch)
        return data, branch

    def _repeated_key(self, key: str, start: int, first: int) -> None:
        line = bisect_right(self._lines, first)
        self._fault("duplicate-key", start, f"the key '{key}' a second time; first in line {line}")

    def _merge_sources(
        self, value: Any, spot: Spot, start: int, *, quiet: bool
    ) -> list[tuple[dict[str, Any], SourceMap]]:
        sources = _mergeable(value, spot)
        if not sources and not quiet:
            self._fault("yaml-merge", start, "'<<' takes a mapping or a list of mappings")
        return sources

    def _key(self, event: Any) -> str | None:
        """A key's text as written, ``404`` as ``"404"``; None, and a fault, where it is no scalar."""
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
        self._fault("yaml-key", start, "a mapping or a list as a key; only text can be one")
        return None

    def _alias(self, event: Any, start: int) -> tuple[Any, Spot]:
        name: str = event.anchor
        anchor = self._anchors.get(name)
        if anchor is None:
            self._fault("yaml-alias", start, f"nothing before '*{name}' is called '&{name}'")
        elif not anchor.done:
            self._fault("yaml-alias", start, f"'*{name}' stands inside the value that it names")
        else:
            self._count_nodes(anchor.size, start)
            self._check_depth(self._depth + anchor.height, start)
            return anchor.value, anchor.spot
        return None, start

    def _scalar(self, event: Any, start: int) -> Any:
        text = self._text(event)
        tag = event.tag
        if tag not in (None, "!"):
            if not tag.startswith(_TAG_PREFIX) or tag.removeprefix(_TAG_PREFIX) not in _TAGGED:
                self._tag_fault(tag, start)
                return text
            if tag == _TAG_PREFIX + "str":
                return text
        elif event.style:
            return text
        try:
            value = scalar(text)
        except ValueError as error:
            self._fault("yaml-number", start, str(error), hint="put it in quotes if text is meant")
            return text
        return value if tag in (None, "!") else self._tagged(tag, value, start)

    def _tagged(self, tag: str, value: Any, start: int) -> Any:
        name = tag.removeprefix(_TAG_PREFIX)
        if type(value) not in _TAGGED[name]:
            self._fault("yaml-tag", start, f"'{value}' is not what the tag '!!{name}' says")
            return value
        try:
            return float(value) if name == "float" else value
        except OverflowError:
            self._fault("yaml-number", start, f"the number {str(value)[:20]}… is too large")
            return value

    def _text(self, event: Any) -> str:
        text: str = event.value
        return text.translate(self._restore) if self._restore else text

    def _count_nodes(self, nodes: int, start: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, every alias written out"
            self._fault("yaml-too-big", start, message)
            raise _LimitExceeded

    def _check_depth(self, depth: int, start: int) -> None:
        self._deepest = max(self._deepest, depth)
        if depth > MAX_DEPTH:
            message = f"mappings and lists more than {MAX_DEPTH} deep"
            self._fault("yaml-too-deep", start, message)
            raise _LimitExceeded

    def _tag_fault(self, tag: str, start: int) -> None:
        name = f"!!{tag.removeprefix(_TAG_PREFIX)}" if tag.startswith(_TAG_PREFIX) else tag
        self._fault("yaml-tag", start, f"the tag '{name}'; values have no tags here")

    def _fault(self, code: str, start: int, message: str, *, hint: str = "") -> None:
        place, pointer = place_at(self._file, self._lines, start), json_pointer(tuple(self._path))
        self.problems.append(Problem(place=place, code=code, message=message, pointer=pointer, hint=hint))


def place_at(file: str, lines: tuple[int, ...], offset: int) -> Place:
    """Return the place of ``offset``; ``lines`` are the offsets of line starts."""
    line = bisect_right(lines, offset)
    return Place(file=file, line=line, column=offset - lines[line - 1] + 1)


def _merge(source: dict[str, Any], place: SourceMap, data: dict[str, Any], branch: SourceMap) -> None:
    """Bring the keys of ``source`` into ``data``, whose own win."""
    inside: Any = place.values
    spots: Any = branch.values
    for key, value in source.items():
        if key not in data:
            data[key], branch.keys[key], spots[key] = value, place.keys[key], inside[key]


def _mergeable(value: Any, spot: Spot) -> list[tuple[dict[str, Any], SourceMap]]:
    """The mappings that ``<<`` brings in; empty where it is given something else."""
    if not isinstance(spot, SourceMap):
        return []
    if isinstance(value, dict):
        return [(value, spot)]
    pairs = list(zip(value, spot.values, strict=True))
    found = [
        (item, place) for item, place in pairs if isinstance(item, dict) and isinstance(place, SourceMap)
    ]
    return found if len(found) == len(pairs) else []


def scalar(text: str) -> Any:
    """The value that ``text`` stands for; ValueError, in words for operators, where a number has none."""
    first = text[:1]
    if first not in _NUMBER_STARTS or not first:
        return _WORDS.get(text, text)
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
        raise ValueError(f"{text} is no finite number")
    return text


def _bounded(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return digits


class SourceMap:
    """Where a mapping or a list and all inside it stand: offsets into the text.

    A scalar is its bare offset. A tree beside the data costs a fraction of a dict from path to
    place, and an alias shares its part of it as it shares its value.
    """

    __slots__ = ("keys", "start", "values")

    def __init__(self, start: int) -> None:
        self.start = start
        self.keys: dict[str, int] = {}  # of a mapping
        self.values: dict[str, Spot] | list[Spot] = {}


Spot = SourceMap | int
