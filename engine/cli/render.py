"""``mss render``: a template as its recipients see it, on each channel and in each locale."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote

import click
from msgspec import structs
from rich.console import Console
from rich.text import Text

from ..channels.email.message import with_prefix
from ..model.addresses import usable_address
from ..model.errors import TemplateError
from ..model.messages import Event, Kind, Message
from ..model.problems import Place
from ..model.subjects import ONE, REST
from ..model.times import to_micros
from ..model.wording import nearest
from ..planning.planner import template_context
from ..planning.recipients import recipient_of
from ..planning.requests import SHAPES
from ..policy.loader import load_policy
from ..policy.testing.cases import DEFAULT_AT, Case
from ..rules.conditions import Block
from ..rules.rulebook import ActionSpec, Audience, Notify, Rule, Rulebook
from ..templates import library
from ..templates.library import render_template
from .common import DIRECTORY, FOLDER, event_of, examples, payload_option, rulebook_of, stderr, stdout
from .output import harmless, indented

_NOW = to_micros(DEFAULT_AT)


@click.command(
    epilog=examples(
        "mss render order-shipped shop",
        "mss render order-shipped shop --locale zh-CN --payload order.json",
        "mss render order-shipped shop --out pages --open",
    )
)
@click.argument("name", metavar="TEMPLATE")
@FOLDER
@click.option("--channel", metavar="NAME", help="Only this channel.")
@click.option("--locale", metavar="LOCALE", help="Only this language, or the one it falls back to.")
@payload_option(required=False)
@click.option("--out", "target", metavar="DIR", type=DIRECTORY, help="Write files into this folder.")
@click.option("--open", "open_", is_flag=True, help="Show the files in a browser.")
def render(
    name: str,
    folder: Path,
    channel: str | None,
    locale: str | None,
    payload: Any,
    target: Path | None,
    open_: bool,
) -> None:
    """Show a template as its recipients see it.

    The command renders the template for each channel and each language. The sample is the payload, or else
    the example of the event, or else the payload of the first test whose rule uses the template. With --out,
    the command writes the messages as HTML and text, and an index.html that shows all of them. DIR is the
    policy; by default, the folder rules.

    Exit code 1: the template failed to render, or the policy has errors.
    """
    if locale and not library.normalise_locale(locale):
        raise click.BadParameter(
            f"{locale!r} is not a language tag, such as en or zh-CN", param_hint="--locale"
        )
    if payload is not None and not isinstance(payload, dict):
        raise click.BadParameter("the payload of an event is an object", param_hint="--payload")
    rendered = _render(folder, name, channel, locale or "", payload)
    if target is None and not open_:
        for page in rendered:
            _show(stdout(), page)
    else:
        index = write_pages(target or Path(mkdtemp(prefix="mss-render-")), rendered)
        click.echo(index)
        if open_:
            click.launch(str(index))
    failed = [page for page in rendered if page.error]
    for page in failed:
        click.echo(f"Error: {page.channel}, {page.locale}, with {page.sample}: {page.error}", err=True)
    if failed:
        if payload is None:
            click.echo("Give a payload with the fields that the template needs: --payload FILE", err=True)
        sys.exit(1)


def _render(
    folder: Path, name: str, channel: str | None, locale: str, payload: Mapping[str, Any] | None
) -> tuple[RenderedTemplate, ...]:
    policy = load_policy(folder)
    rulebook = rulebook_of(folder, policy, console=stderr())
    if name not in rulebook.library:
        raise click.UsageError(_unknown("template", name, rulebook.library.names))
    every = pages(rulebook, policy.cases, name, locale=locale, payload=payload)
    if not every:
        raise click.ClickException(f"template {name!r} does not exist in {locale!r}")
    rendered = tuple(page for page in every if channel in (None, page.channel))
    if not rendered:
        raise click.UsageError(_unknown("channel", str(channel), {page.channel for page in every}))
    return rendered


def _show(console: Console, page: RenderedTemplate) -> None:
    if page.message is None:
        return
    head = Text.assemble((f"{page.channel}, {page.locale}", "bold underline"), f"  with {page.sample}")
    console.print(harmless(head), soft_wrap=True)
    if page.title:
        indented(console, Text(page.title, "bold"), 2)
    indented(console, page.message.text, 2)
    console.print()


def _unknown(noun: str, name: str, allowed: Iterable[str]) -> str:
    names = sorted(set(allowed))
    hint = nearest(name, names) or f"the policy has: {', '.join(names) or 'none'}"
    return f"unknown {noun} {name!r}; {hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedTemplate:
    """A template that was rendered for one channel in one language."""

    template: str
    channel: str
    locale: str
    sample: str  # the source of the payload
    title: str = ""  # with the prefix of the channel
    message: Message | None = None
    error: str = ""  # why there is no message


@dataclass(frozen=True, slots=True, kw_only=True)
class _TemplateUse:
    """A rule, or an action, that uses the template for one channel."""

    rule: Rule  # for an action: a stand-in
    notify: Notify
    type: str  # of the channel
    address: str | None
    prefix: str  # of titles
    action: ActionSpec | None = None


def pages(
    rulebook: Rulebook,
    cases: Sequence[Case],
    name: str,
    *,
    locale: str = "",
    payload: Mapping[str, Any] | None = None,
) -> tuple[RenderedTemplate, ...]:
    """Render the template for each channel that uses it, in each of its languages or in ``locale``."""
    default = rulebook.defaults.locale
    locales = {
        text.locale or default for texts in rulebook.library.by_name[name].values() for text in texts.values()
    }
    wanted = [locale] if locale else sorted(locales)
    made: dict[tuple[str, str], RenderedTemplate] = {}
    for use in _uses(rulebook, name):
        for tag in wanted:
            channels = (use.notify.channel, use.type)
            text = rulebook.library.find(name, channels, library.locale_chain(tag, default))
            if text is None:
                continue
            found = text.locale or default
            key = (use.notify.channel, found)
            if key not in made:
                made[key] = _page(rulebook, cases, use, found, payload)
    return tuple(made.values())


def _page(
    rulebook: Rulebook,
    cases: Sequence[Case],
    use: _TemplateUse,
    locale: str,
    payload: Mapping[str, Any] | None,
) -> RenderedTemplate:
    event, sample = _sample(rulebook, cases, use, locale, payload)
    template = use.notify.template or use.rule.template
    page = RenderedTemplate(template=template, channel=use.notify.channel, locale=locale, sample=sample)
    recipient = structs.replace(recipient_of(rulebook, event, use.notify.to or use.rule.to), locale=locale)
    given = recipient.addresses.get(use.address, ()) if use.address else ()
    address = next(filter(None, (usable_address(str(use.address), each) for each in given)), "")
    text = rulebook.library.find(template, (use.notify.channel, use.type), library.locale_chain(locale, ""))
    assert text is not None  # noqa: S101 -- the caller has found it
    try:
        message = render_template(
            text, template_context(rulebook, event, use.rule, use.notify, recipient, address=address)
        )
    except TemplateError as error:
        return replace(page, error=str(error))
    title = with_prefix(use.prefix, message.title) if message.title else ""
    return replace(page, message=message, title=title)


def _uses(rulebook: Rulebook, name: str) -> Iterator[_TemplateUse]:
    uses: list[tuple[Rule, Notify, ActionSpec | None]] = [
        (rule, notify, None)
        for rule in rulebook.rules
        for notify in rule.steps
        if (notify.template or rule.template) == name
    ]
    for action in rulebook.actions.values():
        if action.template == name:
            rule = replace(_stand_in(name), id=action.key, vars=action.vars, to=Audience(fields=action.to))
            uses += [(rule, Notify(channel=channel), action) for channel in action.channels]
    for rule, notify, action_spec in uses:
        channel = rulebook.channels[notify.channel]
        yield _TemplateUse(
            rule=rule,
            notify=notify,
            type=channel.type,
            address=channel.address,
            prefix=channel.options.get("subject_prefix", ""),
            action=action_spec,
        )
    if uses:
        return
    # Nothing uses the template yet: show it for the channels that it is written for.
    unused = _stand_in(name)
    for channel_name in dict.fromkeys(
        each for texts in rulebook.library.by_name[name].values() for each in texts
    ):
        notify = Notify(channel=channel_name)
        yield _TemplateUse(rule=unused, notify=notify, type=channel_name, address=None, prefix="")


def _stand_in(name: str) -> Rule:
    """Return a rule for a template without one, because a template can show its rule."""
    return Rule(id=name, events=(), when=Block(), notify=(), template=name, place=Place(file=""))


def _sample(
    rulebook: Rulebook,
    cases: Sequence[Case],
    use: _TemplateUse,
    locale: str,
    payload: Mapping[str, Any] | None,
) -> tuple[Event, str]:
    """Return an event for the rule, and a text that names the source of its payload."""
    rule = use.rule
    name = _event_name(rule)
    if payload is not None:
        return event_of(rulebook, name, payload, _NOW), "the payload given"
    if use.action is not None:  # an action has no payload schema
        heads = (path[0] for path in (*use.action.to.values(), *use.action.sensitive))
        fields = SHAPES.get(use.action.key) or dict.fromkeys(heads, "")
        sample = {field: f"({field})" for field in fields} | {"locale": locale}
        return event_of(rulebook, name, sample, _NOW), f"the field names of {use.action.key}"
    known = rulebook.catalogue.get(name)
    examples = known.schema.get("examples") if known else None
    if isinstance(examples, list) and examples and isinstance(examples[0], Mapping):
        return event_of(rulebook, name, examples[0], _NOW), f"the example of {name}"
    other_locales: list[tuple[Event, str]] = []
    for case in cases:
        for event in case.events:
            if any(match.rule is rule for match in rulebook.match(event)):
                preferred = recipient_of(rulebook, event, rule.to).locale
                if library.normalise_locale(preferred) == library.normalise_locale(locale):
                    return event, f"the test {case.name!r}"
                other_locales.append((event, f"the test {case.name!r}"))
    if other_locales:
        return other_locales[0]
    properties = known.schema.get("properties", {}) if known else {}
    shown = {key: spec["examples"][0] for key, spec in properties.items() if spec.get("examples")}
    return event_of(
        rulebook, name, shown, _NOW
    ), f"the examples of {name}'s fields" if shown else "an empty payload"


def _event_name(rule: Rule) -> str:
    """Return the name of an event that the rule matches; each wildcard becomes a token."""
    if not rule.events:
        return f"{Kind.NOTICE}.example"
    first, *rest = next((p for p in rule.events if not p.wild), rule.events[0]).tokens
    kind = Kind.NOTICE if first in (ONE, REST) else first
    key = [
        "example" if token in (ONE, REST) else token
        for token in rest or (["example"] if first == REST else [])
    ]
    return ".".join([kind, *key])


def write_pages(folder: Path, rendered: Sequence[RenderedTemplate]) -> Path:
    """Write HTML, text and images into ``folder``, and return the page that shows all of them."""
    shown: list[str] = []
    for page in rendered:
        place = folder / page.template / page.locale
        place.mkdir(parents=True, exist_ok=True)
        files = dict(_files(page))
        for name, content in files.items():
            (place / name).write_bytes(content)
        shown.append(_section(page, [name for name in files if name.startswith(f"{page.channel}.")]))
    name = rendered[0].template
    index = folder / name / "index.html"
    index.write_text(_INDEX.format(title=escape(name), sections="\n".join(shown)), encoding="utf-8")
    return index


def _files(page: RenderedTemplate) -> Iterator[tuple[str, bytes]]:
    if page.message is None:
        return
    html = page.message.html
    for image in page.message.inline:
        html = html.replace(f"cid:{image.name}", quote(image.name))
        yield image.name, image.data
    if html:
        yield f"{page.channel}.html", html.encode()
    extension = "md" if page.message.markdown else "txt"
    yield f"{page.channel}.{extension}", f"{page.message.text}\n".encode()


def _section(page: RenderedTemplate, files: Sequence[str]) -> str:
    head = f"<h2>{escape(page.channel)}, {escape(page.locale)}</h2>"
    if page.message is None:
        return f"<section>{head}<p>{escape(page.error)}</p></section>"
    title = f"<p><strong>{escape(page.title)}</strong></p>" if page.title else ""
    parts = [
        f'<iframe sandbox src="{quote(page.locale)}/{quote(name)}" title="{escape(name)}"></iframe>'
        for name in files
        if name.endswith(".html")
    ]
    text = f"<pre>{escape(page.message.text)}</pre>"
    return f"<section>{head}<p>with {escape(page.sample)}</p>{title}{''.join(parts)}{text}</section>"


_INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2rem; color: #1f2937 }}
section {{ margin-bottom: 3rem }}
iframe {{ width: 100%; max-width: 680px; height: 560px; border: 1px solid #d1d5db; display: block }}
pre {{ max-width: 680px; padding: 1rem; background: #f3f4f6; white-space: pre-wrap }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""
