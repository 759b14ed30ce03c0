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
ANY_CHANNEL = "default"  # default.txt serves any channel that has no words of its own

_TAG = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """One template file, its front matter taken off.

    ``text`` begins with as many empty lines as the front matter had, so that line numbers stay right.
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
    depends_on_recipient: bool = True  # it names the recipient, or another file, which may


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizedTemplate:
    """What a template has to say on one channel in one locale: markup, text, or both."""

    locale: str  # as the folder is spelled; "" is for everybody
    markup: Variant | None
    text: Variant | None
    pictures: Mapping[str, Inline] = field(default_factory=dict)
    depends_on_recipient: bool = True  # who reads it may make a difference

    @property
    def subject(self) -> jinja2.Template | None:
        return next((v.subject for v in (self.markup, self.text) if v is not None and v.subject), None)


class AcyclicTemplate(jinja2.Template):
    """A template that leads back to itself nowhere: where nobody has it any more, it is gone at once."""

    @classmethod
    def from_code(
        cls,
        environment: jinja2.Environment,
        code: CodeType,
        globals: MutableMapping[str, Any],  # noqa: A002 -- Jinja2's name
        uptodate: Callable[[], bool] | None = None,
    ) -> jinja2.Template:
        page = super().from_code(environment, code, globals, uptodate)
        # The functions refer to the module that they were made in; it need not hold them. A block that says
        # super() looks itself up there.
        module = page.root_render_func.__globals__
        for block in page.blocks.values():
            module[block.__name__] = proxy(block)
        del module["root"], module["blocks"], module["__jinja_template__"]
        return page


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 where a payload's field wins over a method, and nothing grows without bound.

    It remembers the templates that somebody has, and keeps none.
    """

    template_class = AcyclicTemplate
    intercepted_binops = frozenset(["*", "**"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cache = WeakValueDictionary()

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        # Jinja2's own is a chain of mappings, which is copied, slowly, for each text.
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        # payload.items is the field, never dict.items
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
    """Every template of a policy: name -> locale (normal form) -> channel -> words."""

    by_name: Mapping[str, Mapping[str, Mapping[str, LocalizedTemplate]]] = field(default_factory=dict)
    flawed: frozenset[str] = frozenset()  # names of templates that have a file with a flaw
    partials: tuple[jinja2.Template, ...] = ()  # which others include or extend

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_name)

    def locales_of(self, name: str, channels: Iterable[str]) -> frozenset[str]:
        """The locales in which template ``name`` has words for one of ``channels``."""
        candidates = (*channels, ANY_CHANNEL)
        shelf = self.by_name.get(name, {})
        return frozenset(locale for locale, there in shelf.items() if any(map(there.get, candidates)))

    def find(self, name: str, channels: Iterable[str], wanted: Iterable[str]) -> LocalizedTemplate | None:
        """The words of template ``name``: language first, then the nearest of ``channels``."""
        shelf = self.by_name.get(name, {})
        candidates = (*channels, ANY_CHANNEL)
        for locale in wanted:
            if there := shelf.get(locale):
                for channel in candidates:
                    if words := there.get(channel):
                        return words
        return None


def render_template(words: LocalizedTemplate, context: Mapping[str, Any]) -> Message:
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
        for piece in template.root_render_func(template.new_context(dict(context))):
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


def normalise_locale(tag: str) -> str:
    """``zh_CN.UTF-8`` and ``ZH-cn`` are both ``zh-cn``; what is no language tag is ``""``."""
    folded = tag.strip().split(".")[0].split("@")[0].replace("_", "-").lower()
    return folded if _TAG.fullmatch(folded) else ""


@lru_cache(maxsize=1024)
def locale_chain(*tags: str) -> tuple[str, ...]:
    """Each tag and what it falls back to, most wanted first, ending in ``""``: words for everybody.

    ``zh-Hans-CN`` falls back to ``zh-CN``, then to ``zh``.
    """
    wanted: list[str] = []
    for tag in map(normalise_locale, tags):
        parts = tag.split("-")
        steps = [tag]
        if len(parts) > 2:  # language, script, region: the region says more
            steps.append(f"{parts[0]}-{parts[-1]}")
        steps.extend("-".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        wanted.extend(step for step in steps if step)
    return (*dict.fromkeys(wanted), "")
