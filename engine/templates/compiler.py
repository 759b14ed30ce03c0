"""Compile template files to a library, and report each error with its place.

A fingerprint covers all files that a template is made from. Templates with equal fingerprints render the
same, in any policy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import PurePosixPath
from types import CodeType
from typing import Any

import jinja2
import jinja2.meta
import mrml
from jinja2 import nodes

from ..model.messages import Inline
from ..model.problems import Place, Problem
from ..model.wording import nearest
from .library import (
    MARKUP,
    PICTURES,
    TEMPLATE_FOLDER,
    VARIABLES,
    Library,
    LocalizedTemplate,
    Sandbox,
    TemplateSource,
    Variant,
    normalise_locale,
)

_REFERRING = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)

_REFERENCE_PARSER = jinja2.Environment()  # noqa: S701 -- parses, and renders nothing
_Closure = set[str] | None  # files; None is every file in templates/


def _environment(sources: Mapping[str, str]) -> Sandbox:
    return Sandbox(
        loader=_TemplateLoader(sources),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(enabled_extensions=MARKUP, default_for_string=False),
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _TemplateLoader(jinja2.DictLoader):
    """The files of a policy by path; a file in several policies is compiled once."""

    def load(
        self,
        environment: jinja2.Environment,
        name: str,
        globals: MutableMapping[str, Any] | None = None,  # noqa: A002 -- Jinja2's name
    ) -> jinja2.Template:
        text, _, _ = self.get_source(environment, name)
        return environment.template_class.from_code(environment, _parsed(text, name).code, globals or {})


def compile_library(
    sources: Iterable[TemplateSource], pictures: Mapping[str, bytes]
) -> tuple[Library, tuple[Problem, ...]]:
    """Compile every file; a problem in one does not hide those of the others."""
    return _TemplateCompiler(tuple(sources), pictures).compile()


class _TemplateCompiler:
    def __init__(self, sources: tuple[TemplateSource, ...], pictures: Mapping[str, bytes]) -> None:
        self.sources = sources
        self.pictures = pictures
        self.problems: list[Problem] = []

    def compile(self) -> tuple[Library, tuple[Problem, ...]]:
        texts = {source.path: self._markup(source) for source in self.sources}
        environment = _environment(texts)
        found: dict[str, dict[str, dict[str, dict[str, Variant]]]] = {}
        locale_names: dict[tuple[str, str], str] = {}
        partials: list[jinja2.Template] = []
        for source in self.sources:
            path = PurePosixPath(source.path)
            name, *middle = path.parts[:-1] or ("",)
            if name.startswith("_"):  # a partial, for include and extends
                if self._is_sound(source, source.text, 0, bound=self._bound):
                    partials.append(environment.get_template(source.path))
                continue
            if not name or len(middle) > 1 or (middle and not normalise_locale(middle[0])):
                usual = "<name>/<channel>.<ext> or <name>/<locale>/<channel>.<ext>"
                self._report(source, 1, "template-path", f"the path of a template is {usual}")
                continue
            variant = self._variant(environment, source)
            if variant is None:
                continue
            locale_name = middle[0] if middle else ""
            locale = normalise_locale(locale_name)
            locale_names[name, locale] = locale_name
            part = "markup" if variant.format in MARKUP else "text"
            parts = found.setdefault(name, {}).setdefault(locale, {}).setdefault(path.stem, {})
            if part in parts:
                message = f"{parts[part].path} is for the same name, locale and channel"
                self._report(source, 1, "template-twice", message)
            parts[part] = variant
        by_name = {
            name: {
                locale: {
                    channel: LocalizedTemplate(
                        locale=locale_names[name, locale],
                        markup=parts.get("markup"),
                        text=parts.get("text"),
                        pictures=self._pictures_for(name, locale_names[name, locale]),
                        depends_on_recipient=any(variant.depends_on_recipient for variant in parts.values()),
                    )
                    for channel, parts in channels.items()
                }
                for locale, channels in by_locale.items()
            }
            for name, by_locale in found.items()
        }
        flawed = frozenset(problem.place.file.split("/")[1] for problem in self.problems)
        library = Library(by_name=by_name, flawed=flawed, partials=tuple(partials))
        return library, tuple(self.problems)

    def _report(
        self, source: TemplateSource, line: int, code: str, message: str, *, at: str = "", hint: str = ""
    ) -> None:
        """Report an error. ``at`` is a pattern that finds the column: the parser knows lines only."""
        lines = source.text.splitlines()
        found = re.search(at, lines[line - 1]) if at and line <= len(lines) else None
        column = found.start() + 1 if found else 1
        place = Place(file=TEMPLATE_FOLDER + source.path, line=line, column=column)
        problem = Problem(place=place, code=code, message=message, hint=hint)
        self.problems.append(problem)

    def _markup(self, source: TemplateSource) -> str:
        if not source.path.endswith(".mjml"):
            return source.text
        try:
            return str(mrml.to_html(source.text.strip()).content)
        except OSError as error:
            self._report(source, 1, "template-mjml", f"MJML: {error}")
            return ""

    def _variant(self, environment: Sandbox, source: TemplateSource) -> Variant | None:
        is_sound = self._is_sound(source, source.text, 0)
        subject = None
        if source.subject is not None:
            is_sound &= self._is_sound(source, source.subject, source.subject_line - 1)
        if not is_sound:
            return None
        if source.subject is not None:
            code = _parsed(source.subject, source.path).code
            subject = environment.template_class.from_code(environment, code, environment.make_globals(None))
        format_ = source.path.rpartition(".")[2]
        # The checks read MJML as written; rendering fills the HTML made from it.
        body = environment.get_template(source.path)
        texts = (source.text, source.subject or "")
        depends_on_recipient = any(_depends_on_recipient(_parsed(text, source.path)) for text in texts)
        return Variant(
            path=source.path,
            format=format_,
            body=body,
            subject=subject,
            depends_on_recipient=depends_on_recipient,
        )

    def _is_sound(
        self, source: TemplateSource, text: str, offset: int, bound: frozenset[str] = frozenset()
    ) -> bool:
        """Return whether ``text`` has no error. ``bound``: variables set by the files that include it."""
        before = len(self.problems)
        try:
            parsed = _parsed(text, source.path)
        except jinja2.TemplateSyntaxError as error:
            message = error.message or "syntax error"
            self._report(source, error.lineno + offset, "template-syntax", message, at=r"\{[{%#]")
            return False
        for name, line in parsed.undeclared:
            if name not in (*VARIABLES, *bound):
                message = f"{name!r} is no variable; variables are {', '.join(VARIABLES)}"
                hint = nearest(name, (*VARIABLES, *sorted(bound)))
                self._report(source, line + offset, "unknown-variable", message, at=rf"\b{name}\b", hint=hint)
        known = {source.path for source in self.sources}
        for reference, line in parsed.references:
            if reference not in known:
                message = f"there is no {reference!r} in templates/"
                hint = nearest(reference, sorted(known))
                self._report(
                    source, line + offset, "missing-template", message, at=re.escape(reference), hint=hint
                )
        return len(self.problems) == before

    @cached_property
    def _bound(self) -> frozenset[str]:
        """Every variable that some file sets."""
        return frozenset(chain.from_iterable(map(_set_in, self.sources)))

    def _pictures_for(self, name: str, locale: str) -> dict[str, Inline]:
        """Return the pictures in the folder of a template and in those of partials."""
        folders = (name, f"{name}/{locale}") if locale else (name,)
        return {
            path.name: Inline(name=path.name, media_type=PICTURES[path.suffix[1:].lower()], data=data)
            for path, data in ((PurePosixPath(p), d) for p, d in self.pictures.items())
            if str(path.parent) in folders or path.parts[0].startswith("_")
        }


def _set_in(source: TemplateSource) -> frozenset[str]:
    try:
        return _parsed(source.text, source.path).set
    except jinja2.TemplateSyntaxError:  # the compilation reports it
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parsed:
    """The result of parsing one text, independent of other files."""

    code: CodeType
    undeclared: Sequence[tuple[str, int]]  # variables that it does not set, and the line of each
    references: Sequence[tuple[str, int]]  # files that it names, and the line of each
    set: frozenset[str]  # variables


def _depends_on_recipient(parsed: _Parsed) -> bool:
    # The other files are not known here and may use it; ``self`` and ``caller`` refer to the text itself.
    return bool(parsed.references) or any(name == "recipient" for name, _ in parsed.undeclared)


@lru_cache(maxsize=4096)  # a reload changes few files
def _parsed(text: str, path: str) -> _Parsed:
    tree = _PARSER.parse(text, path)
    names = list(tree.find_all(nodes.Name))
    references = [
        (reference, node.lineno)
        for node in tree.find_all(_REFERRING)
        for reference in jinja2.meta.find_referenced_templates(nodes.Template([node], lineno=1))
        if reference is not None
    ]
    lines = {name.name: name.lineno for name in reversed(names)}  # the first of each
    undeclared = jinja2.meta.find_undeclared_variables(tree) - set(_PARSER.globals)
    return _Parsed(
        undeclared=[(name, lines[name]) for name in sorted(undeclared)],
        references=references,
        set=frozenset(name.name for name in names if name.ctx != "load"),
        code=_PARSER.compile(tree, path),
    )


_PARSER = _environment({})


def template_prints(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return fingerprints by template name and by file below templates/, of the ``files`` of a policy.

    A fingerprint covers the file, the files that it includes or extends, and the pictures of its folder and
    of the partials. If a file computes the name of another, the fingerprint covers all files.
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
        pictures = [name for name in own if _is_picture(name)]
        prints[folder] = _print(_closure([*own, *shared], references), digests)
        for name in own:
            prints[name] = _print(_closure([name, *pictures, *shared], references), digests)
    return prints


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in PICTURES


def _references(data: bytes) -> tuple[str | None, ...]:
    """Return the files that a file names; None stands for a computed name, or for a file with errors."""
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
    pending = list(start)
    while pending:
        name = pending.pop()
        if name in found or name not in references:
            continue
        found.add(name)
        for reference in references[name]:
            if reference is None:
                return None
            pending.append(reference)
    return found


def _print(names: _Closure, digests: Mapping[str, bytes]) -> str:
    def parts() -> Iterator[bytes]:
        for name in sorted(digests if names is None else names):
            yield b"%d:%s" % (len(name.encode()), name.encode())
            yield digests[name]

    return hashlib.sha256(b"".join(parts())).hexdigest()
