"""What people read: templates by name, locale and channel, compiled once and rendered in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import jinja2
import jinja2.meta
import mrml
from inscriptis import get_text
from inscriptis.model.config import ParserConfig
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from . import locales
from .errors import TemplateError
from .model import Inline, Message

TEMPLATE_FOLDER = "templates/"
MAX_OUTPUT = 512 * 1024  # characters of one rendered text
VARIABLES = ("payload", "event", "rule", "recipient", "vars", "site")
MARKUP = ("html", "mjml")  # escaped
TEXT = ("txt", "md")  # not escaped
PICTURES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
_REFERRING = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
ANY_CHANNEL = "default"  # default.txt serves any channel that has no words of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One template file, its front matter taken off.

    ``text`` begins with as many empty lines as the front matter had, so that line numbers stay right.
    """

    path: str  # below templates/, for example abnormal-login/zh-CN/email.html
    text: str
    subject: str | None = None
    subject_line: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Something wrong in one template file."""

    path: str
    line: int
    code: str
    message: str
    column: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One compiled file."""

    path: str
    format: str  # html, mjml, txt or md
    body: jinja2.Template
    subject: jinja2.Template | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a template has to say on one channel in one locale: markup, text, or both."""

    locale: str  # as the folder is spelled; "" is for everybody
    markup: Variant | None
    text: Variant | None
    pictures: Mapping[str, Inline] = field(default_factory=dict)

    @property
    def subject(self) -> jinja2.Template | None:
        return next((v.subject for v in (self.markup, self.text) if v is not None and v.subject), None)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 where a payload's field wins over a method, and nothing grows without bound."""

    intercepted_binops = frozenset(["*", "**"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        # payload.items is the field, never dict.items
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        sized = left if hasattr(left, "__len__") else right if hasattr(right, "__len__") else None
        times = right if sized is left else left
        too_long = sized is not None and isinstance(times, int) and len(sized) * times > MAX_OUTPUT
        too_large = operator == "**" and isinstance(right, int | float) and abs(right) > 64
        if too_long or too_large:
            raise SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _environment(sources: Mapping[str, str]) -> Sandbox:
    return Sandbox(
        loader=jinja2.DictLoader(sources),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(enabled_extensions=MARKUP, default_for_string=False),
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        cache_size=-1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Every template of a policy: name -> locale (normal form) -> channel -> words."""

    shelves: Mapping[str, Mapping[str, Mapping[str, Words]]] = field(default_factory=dict)
    flawed: frozenset[str] = frozenset()  # names of templates that have a file with a flaw

    def __contains__(self, name: object) -> bool:
        return name in self.shelves

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shelves)

    def find(self, name: str, channels: Iterable[str], wanted: Iterable[str]) -> Words | None:
        """The words of template ``name``: language first, then the nearest of ``channels``."""
        shelf = self.shelves.get(name, {})
        candidates = (*channels, ANY_CHANNEL)
        for locale in wanted:
            for channel in candidates:
                if words := shelf.get(locale, {}).get(channel):
                    return words
        return None


def render(words: Words, context: Mapping[str, Any]) -> Message:
    """The finished message. Raises TemplateError when the event does not bring what it needs."""
    html = _fill(words.markup.body, context).strip() if words.markup else ""
    text = _fill(words.text.body, context).strip() if words.text else as_text(html)
    title = " ".join(_fill(words.subject, context).split()) if words.subject else ""
    inline = tuple(picture for name, picture in words.pictures.items() if f"cid:{name}" in html)
    markdown = words.text is not None and words.text.format == "md"
    return Message(title=title, text=text, html=html, markdown=markdown, inline=inline)


def as_text(html: str) -> str:
    """What a reader without HTML sees of it, the targets of links beside their words."""
    return str(get_text(html, ParserConfig(display_links=True))).strip()


def _fill(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(context):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateError(f"{template.name}: more than {MAX_OUTPUT} characters come out")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise TemplateError(f"{template.name}: {error.message}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # Jinja2 lets through what an expression raises: 1/0, "a" + 1, a filter's complaint.
        raise TemplateError(f"{template.name}: {type(error).__name__}: {error}") from error
    return "".join(pieces)


def compile_library(
    sources: Iterable[Source], pictures: Mapping[str, bytes]
) -> tuple[Library, tuple[Flaw, ...]]:
    """Compile every file; what is wrong with one comes back as a Flaw and does not hide the others."""
    return _Compiler(tuple(sources), pictures).compile()


class _Compiler:
    def __init__(self, sources: tuple[Source, ...], pictures: Mapping[str, bytes]) -> None:
        self.sources = sources
        self.pictures = pictures
        self.flaws: list[Flaw] = []

    def compile(self) -> tuple[Library, tuple[Flaw, ...]]:
        texts = {source.path: self._markup(source) for source in self.sources}
        environment = _environment(texts)
        found: dict[str, dict[str, dict[str, dict[str, Variant]]]] = {}
        spelled: dict[tuple[str, str], str] = {}
        for source in self.sources:
            path = PurePosixPath(source.path)
            name, *middle = path.parts[:-1] or ("",)
            if name.startswith("_"):
                continue  # partials, for include and extends
            if not name or len(middle) > 1 or (middle and not locales.normal(middle[0])):
                self._flaw(source, 1, "template-path", "a template lies at <name>/<channel>.<ext> or "
                           "<name>/<locale>/<channel>.<ext>")  # fmt: skip
                continue
            variant = self._variant(environment, source)
            if variant is None:
                continue
            spelling = middle[0] if middle else ""
            locale = locales.normal(spelling)
            spelled[name, locale] = spelling
            part = "markup" if variant.format in MARKUP else "text"
            parts = found.setdefault(name, {}).setdefault(locale, {}).setdefault(path.stem, {})
            if part in parts:
                self._flaw(source, 1, "template-twice", f"{parts[part].path} says the same already")
            parts[part] = variant
        shelves = {
            name: {
                locale: {
                    channel: Words(
                        locale=spelled[name, locale],
                        markup=parts.get("markup"),
                        text=parts.get("text"),
                        pictures=self._beside(name, spelled[name, locale]),
                    )
                    for channel, parts in channels.items()
                }
                for locale, channels in by_locale.items()
            }
            for name, by_locale in found.items()
        }
        flawed = frozenset(PurePosixPath(flaw.path).parts[0] for flaw in self.flaws)
        return Library(shelves=shelves, flawed=flawed), tuple(self.flaws)

    def _flaw(self, source: Source, line: int, code: str, message: str, at: str = "") -> None:
        """``at``: what the column is that of, as a pattern; the parser knows lines only."""
        lines = source.text.splitlines()
        found = re.search(at, lines[line - 1]) if at and line <= len(lines) else None
        column = found.start() + 1 if found else 1
        self.flaws.append(Flaw(path=source.path, line=line, code=code, message=message, column=column))

    def _markup(self, source: Source) -> str:
        if not source.path.endswith(".mjml"):
            return source.text
        try:
            return str(mrml.to_html(source.text.strip()).content)
        except OSError as error:
            self._flaw(source, 1, "template-mjml", f"MJML: {error}")
            return ""

    def _variant(self, environment: Sandbox, source: Source) -> Variant | None:
        ok = self._parses(environment, source, source.text, 0)
        if source.subject is not None:
            ok = self._parses(environment, source, source.subject, source.subject_line - 1) and ok
        if not ok:
            return None
        return Variant(
            path=source.path,
            format=source.path.rpartition(".")[2],
            body=environment.get_template(source.path),
            subject=None if source.subject is None else environment.from_string(source.subject),
        )

    def _parses(self, environment: Sandbox, source: Source, text: str, offset: int) -> bool:
        try:
            tree = environment.parse(text, source.path)
            environment.compile(tree, source.path)
        except jinja2.TemplateSyntaxError as error:
            words = error.message or "syntax error"
            self._flaw(source, error.lineno + offset, "template-syntax", words, at=r"\{[{%#]")
            return False
        ok = True
        unknown = jinja2.meta.find_undeclared_variables(tree) - {*VARIABLES, *environment.globals}
        for name in tree.find_all(nodes.Name):
            if name.name in unknown:
                unknown.discard(name.name)
                words = f"{name.name!r} is no variable; there are {', '.join(VARIABLES)}"
                at = rf"\b{name.name}\b"
                self._flaw(source, name.lineno + offset, "unknown-variable", words, at)
                ok = False
        known = {source.path for source in self.sources}
        for node in environment.parse(text).find_all(_REFERRING):
            for reference in jinja2.meta.find_referenced_templates(nodes.Template([node], lineno=1)):
                if reference is not None and reference not in known:
                    words = f"there is no {reference!r} in templates/"
                    at = re.escape(reference)
                    self._flaw(source, node.lineno + offset, "missing-template", words, at)
                    ok = False
        return ok

    def _beside(self, name: str, locale: str) -> dict[str, Inline]:
        """The pictures that lie beside a template, or beside the partials that all may use."""
        folders = (name, f"{name}/{locale}") if locale else (name,)
        return {
            path.name: Inline(name=path.name, media_type=PICTURES[path.suffix[1:].lower()], data=data)
            for path, data in ((PurePosixPath(p), d) for p, d in self.pictures.items())
            if str(path.parent) in folders or path.parts[0].startswith("_")
        }
