"""Whether templates of two policies say the same: a print of each, of all the files that it is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import jinja2
import jinja2.meta

from ..templates import PICTURES, TEMPLATE_FOLDER

_REFERENCE_PARSER = jinja2.Environment()  # noqa: S701 -- parses, and renders nothing
_Closure = set[str] | None  # files; None is every file of templates/


def template_prints(files: Mapping[str, bytes]) -> dict[str, str]:
    """By name of the template, and by file below templates/; ``files`` are a policy's, by path.

    Words are made from their file, from what it includes or extends, from the pictures beside it and
    from those that partials share. What includes by a name that it computes may be made from anything.
    """
    below = {
        name.removeprefix(TEMPLATE_FOLDER): data
        for name, data in files.items()
        if name.startswith(TEMPLATE_FOLDER)
    }
    references = {name: _references(data) for name, data in below.items()}
    folders: dict[str, list[str]] = {}
    shared = []
    for name in below:
        folder = name.partition("/")[0]
        folders.setdefault(folder, []).append(name)
        if folder.startswith("_") and _is_picture(name):
            shared.append(name)
    digests = {name: hashlib.sha256(data).digest() for name, data in below.items()}
    prints = {}
    for folder, own in folders.items():
        if folder.startswith("_"):
            continue
        beside = [name for name in own if _is_picture(name)]
        prints[folder] = _print(_closure([*own, *shared], references), digests)
        for name in own:
            prints[name] = _print(_closure([name, *beside, *shared], references), digests)
    return prints


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in PICTURES


def _references(data: bytes) -> tuple[str | None, ...]:
    """The files that one names; None where it computes the name, or cannot be read here."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ()  # a picture
    if "{%" not in text:
        return ()
    try:
        return tuple(jinja2.meta.find_referenced_templates(_REFERENCE_PARSER.parse(text)))
    except jinja2.TemplateSyntaxError:
        return (None,)


def _closure(start: list[str], references: Mapping[str, tuple[str | None, ...]]) -> _Closure:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name in found or name not in references:
            continue
        found.add(name)
        for reference in references[name]:
            if reference is None:
                return None
            waiting.append(reference)
    return found


def _print(names: _Closure, digests: Mapping[str, bytes]) -> str:
    def parts() -> Iterator[bytes]:
        for name in sorted(digests if names is None else names):
            yield b"%d:%s" % (len(name.encode()), name.encode())
            yield digests[name]

    return hashlib.sha256(b"".join(parts())).hexdigest()
