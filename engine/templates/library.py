"""Templates by name, locale and channel, compiled once and rendered in a sandbox.

Locales are language tags. A lookup tries the requested locale first, then its more general forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any
from weakref import WeakValueDictionary, proxy

import jinja2
from inscriptis import get_text
from inscriptis.model.config import ParserConfig
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..model.errors import TemplateError
from ..model.messages import Inline, Message

TEMPLATE_FOLDER = "templates/"
MAX_OUTPUT = 512 * 1024  # characters of one rendered text
VARIABLES = ("payload", "event", "events", "more", "rule", "recipient", "vars", "site")
MARKUP = ("html", "mjml")  # escaped
TEXT = ("txt", "md")  # not escaped
PICTURES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
ANY_CHANNEL = "default"  # default.txt is for every channel without a file of its own

_TAG = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """One template file without its front matter.

    ``text`` begins with as many empty lines as the front matter had, so that line numbers stay correct.
    """

    path: str  # below templates/, for example abnormal-login/zh-CN/email.html
    text: str
    subject: str | None = None
    subject_line: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One compiled file."""

    path: str
    format: str  # html, mjml, txt or md
    body: jinja2.Template
    subject: jinja2.Template | None
    depends_on_recipient: bool = True  # it uses the recipient, or another file, which may use it


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizedTemplate:
    """A template for one channel in one locale: markup, text, or both."""

    locale: str  # as the folder is named; "" is for every locale
    markup: Variant | None
    text: Variant | None
    pictures: Mapping[str, Inline] = field(default_factory=dict)
    depends_on_recipient: bool = True  # its content may differ between recipients

    @property
    def subject(self) -> jinja2.Template | None:
        return next((v.subject for v in (self.markup, self.text) if v is not None and v.subject), None)


class AcyclicTemplate(jinja2.Template):
    """A template without reference cycles: it is freed as soon as no policy uses it."""

    @classmethod
    def from_code(
        cls,
        environment: jinja2.Environment,
        code: CodeType,
        globals: MutableMapping[str, Any],  # noqa: A002 -- Jinja2's name
        uptodate: Callable[[], bool] | None = None,
    ) -> jinja2.Template:
        template = super().from_code(environment, code, globals, uptodate)
        # The functions refer to the module that they are defined in, so the module must not refer to them. A
        # block that calls super() looks itself up there: a weak reference is enough.
        module = template.root_render_func.__globals__
        for block in template.blocks.values():
            module[block.__name__] = proxy(block)
        del module["root"], module["blocks"], module["__jinja_template__"]
        return template


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 in which fields of the payload take precedence over methods, and results have a size limit.

    Its cache holds weak references: it keeps no template alive.
    """

    template_class = AcyclicTemplate
    intercepted_binops = frozenset(["*", "**"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cache = WeakValueDictionary()

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        # Jinja2 makes a chain of mappings, which is slow to copy for each text.
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        # payload.items is the field, not dict.items
        if (obj.__class__ is dict or isinstance(obj, Mapping)) and attribute in obj:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The templates of a policy: name -> locale (normal form) -> channel -> template."""

    by_name: Mapping[str, Mapping[str, Mapping[str, LocalizedTemplate]]] = field(default_factory=dict)
    flawed: frozenset[str] = frozenset()  # names of templates with an error in a file
    partials: tuple[jinja2.Template, ...] = ()  # that other files include or extend

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_name)

    def locales_of(self, name: str, channels: Iterable[str]) -> frozenset[str]:
        """Return the locales in which template ``name`` exists for one of ``channels``."""
        candidates = (*channels, ANY_CHANNEL)
        by_locale = self.by_name.get(name, {})
        return frozenset(
            locale for locale, by_channel in by_locale.items() if any(map(by_channel.get, candidates))
        )

    def find(self, name: str, channels: Iterable[str], wanted: Iterable[str]) -> LocalizedTemplate | None:
        """Return template ``name`` in the first of the ``wanted`` locales that has one of ``channels``."""
        by_locale = self.by_name.get(name, {})
        candidates = (*channels, ANY_CHANNEL)
        for locale in wanted:
            if by_channel := by_locale.get(locale):
                for channel in candidates:
                    if template := by_channel.get(channel):
                        return template
        return None


def render_template(template: LocalizedTemplate, context: Mapping[str, Any]) -> Message:
    """Render a message. Raise TemplateError if a variable is missing or an expression fails."""
    html = _fill(template.markup.body, context).strip() if template.markup else ""
    text = _fill(template.text.body, context).strip() if template.text else as_text(html)
    title = " ".join(_fill(template.subject, context).split()) if template.subject else ""
    inline = tuple(picture for name, picture in template.pictures.items() if f"cid:{name}" in html)
    markdown = template.text is not None and template.text.format == "md"
    return Message(title=title, text=text, html=html, markdown=markdown, inline=inline)


def as_text(html: str) -> str:
    """Convert HTML to text; each link is followed by its target."""
    return str(get_text(html, ParserConfig(display_links=True))).strip()


def _fill(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.root_render_func(template.new_context(dict(context))):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateError(f"{template.name}: the result has more than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise TemplateError(f"{template.name}: {error.message}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # Jinja2 passes on the errors of expressions and filters: 1/0, "a" + 1.
        raise TemplateError(f"{template.name}: {type(error).__name__}: {error}") from error
    return "".join(pieces)


def normalise_locale(tag: str) -> str:
    """Return ``zh-cn`` for ``zh_CN.UTF-8`` and ``ZH-cn``; ``""`` for a text that is no language tag."""
    folded = tag.strip().split(".")[0].split("@")[0].replace("_", "-").lower()
    return folded if _TAG.fullmatch(folded) else ""


@lru_cache(maxsize=1024)
def locale_chain(*tags: str) -> tuple[str, ...]:
    """Return each tag followed by its fallbacks, and last ``""``, which is for every locale.

    ``zh-Hans-CN`` falls back to ``zh-CN``, then to ``zh-Hans``, then to ``zh``.
    """
    wanted: list[str] = []
    for tag in map(normalise_locale, tags):
        parts = tag.split("-")
        steps = [tag]
        if len(parts) > 2:  # language, script, region: the region is more specific
            steps.append(f"{parts[0]}-{parts[-1]}")
        steps.extend("-".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        wanted.extend(step for step in steps if step)
    return (*dict.fromkeys(wanted), "")
