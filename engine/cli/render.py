"""``mss render``: a template as its reader sees it, in every channel and locale, with a sample event."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
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
from .common import payload_of, rulebook_of, stderr, stdout
from .output import harmless, indented

_NOW = to_micros(DEFAULT_AT)


@click.command(short_help="Show a template as its reader will see it.")
@click.argument("name")
@click.option(
    "--rules", "folder", type=click.Path(path_type=Path), default=Path("rules"), show_default=True,
    help="The policy.",
)  # fmt: skip
@click.option("--channel", help="Only this channel.")
@click.option("--locale", default="", help="Only this language, or what it falls back to.")
@click.option(
    "--payload", "payload_file", type=click.File("rb"), help="A sample as JSON; - is standard input."
)
@click.option(
    "--out", "target", type=click.Path(file_okay=False, path_type=Path), help="Write files below DIR."
)
@click.option("--open", "open_", is_flag=True, help="Show the files in a browser.")
def render(
    name: str,
    folder: Path,
    channel: str | None,
    locale: str,
    payload_file: Any,
    target: Path | None,
    open_: bool,
) -> None:
    """Show the template NAME as its reader will see it.

    On each channel and in each language, or as the options say. The sample is the payload given, else the
    event's example, else that of the first test whose rule uses the template. With --out the messages are
    written as HTML and text, with an index.html that shows them all.
    """
    if locale and not library.normalise_locale(locale):
        raise click.UsageError(f"--locale: {locale!r} is no language tag such as en or zh-CN")
    rendered = _rendered(folder, name, channel, locale, payload_file)
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
        if payload_file is None:
            click.echo("Give a payload that has what they need: --payload FILE", err=True)
        sys.exit(1)


def _rendered(
    folder: Path, name: str, channel: str | None, locale: str, payload_file: Any
) -> tuple[RenderedTemplate, ...]:
    payload = None if payload_file is None else payload_of(payload_file)
    if payload is not None and not isinstance(payload, dict):
        raise click.UsageError("--payload: an event's payload is an object")
    policy = load_policy(folder)
    rulebook = rulebook_of(folder, policy, console=stderr())
    if name not in rulebook.library:
        raise click.UsageError(_unknown("template", name, rulebook.library.names))
    every = pages(rulebook, policy.cases, name, locale=locale, payload=payload)
    if not every:
        raise click.ClickException(f"template {name!r} has no words in {locale!r}")
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


def _unknown(what: str, name: str, allowed: Any) -> str:
    names = sorted(set(allowed))
    return f"unknown {what} {name!r}; {nearest(name, names) or 'there are: ' + (', '.join(names) or 'none')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedTemplate:
    """A template on one channel in one language."""

    template: str
    channel: str
    locale: str
    sample: str  # where the payload comes from
    title: str = ""  # with what the channel puts before it
    message: Message | None = None
    error: str = ""  # why there is no message


@dataclass(frozen=True, slots=True, kw_only=True)
class _TemplateUse:
    """A rule, or an action, that says something with the template, over one channel."""

    rule: Rule  # of an action a stand-in
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
    """Every channel that the template is used for, in every language that it has, or in ``locale``."""
    shelf = rulebook.library.by_name[name]
    there = dict.fromkeys(words.locale for channels in shelf.values() for words in channels.values())
    wanted = [locale] if locale else sorted({tag or rulebook.defaults.locale for tag in there})
    made: dict[tuple[str, str], RenderedTemplate] = {}
    for use in _uses(rulebook, name):
        for tag in wanted:
            channels = (use.notify.channel, use.type)
            words = rulebook.library.find(name, channels, library.locale_chain(tag, rulebook.defaults.locale))
            if words is None:
                continue
            spelled = words.locale or rulebook.defaults.locale
            key = (use.notify.channel, spelled)
            if key not in made:
                made[key] = _page(rulebook, cases, use, spelled, payload)
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
    address = next(filter(None, (usable_address(str(use.address), text) for text in given)), "")
    words = rulebook.library.find(template, (use.notify.channel, use.type), library.locale_chain(locale, ""))
    assert words is not None  # noqa: S101 -- the caller has found them
    try:
        message = render_template(
            words, template_context(rulebook, event, use.rule, use.notify, recipient, address=address)
        )
    except TemplateError as error:
        return replace(page, error=str(error))
    title = with_prefix(use.prefix, message.title) if message.title else ""
    return replace(page, message=message, title=title)


def _uses(rulebook: Rulebook, name: str) -> Iterator[_TemplateUse]:
    sayings: list[tuple[Rule, Notify, ActionSpec | None]] = [
        (rule, notify, None)
        for rule in rulebook.rules
        for notify in rule.steps
        if (notify.template or rule.template) == name
    ]
    for action in rulebook.actions.values():
        if action.template == name:
            rule = replace(
                _sample_recipient(name), id=action.key, vars=action.vars, to=Audience(fields=action.to)
            )
            sayings += [(rule, Notify(channel=channel), action) for channel in action.channels]
    for rule, notify, saying in sayings:
        channel = rulebook.channels[notify.channel]
        yield _TemplateUse(
            rule=rule,
            notify=notify,
            type=channel.type,
            address=channel.address,
            prefix=channel.options.get("subject_prefix", ""),
            action=saying,
        )
    if sayings:
        return
    # Nothing says anything with it, yet: what there is, as it is.
    nobody = _sample_recipient(name)
    for channel_name in dict.fromkeys(c for shelf in rulebook.library.by_name[name].values() for c in shelf):
        notify = Notify(channel=channel_name)
        yield _TemplateUse(rule=nobody, notify=notify, type=channel_name, address=None, prefix="")


def _sample_recipient(name: str) -> Rule:
    """A stand-in, so that words which show their rule can be shown."""
    return Rule(id=name, events=(), when=Block(), notify=(), template=name, place=Place(file=""))


def _sample(
    rulebook: Rulebook,
    cases: Sequence[Case],
    use: _TemplateUse,
    locale: str,
    payload: Mapping[str, Any] | None,
) -> tuple[Event, str]:
    """An event that the rule looks at, and where its payload comes from."""
    rule = use.rule
    name = _event_name(rule)
    if payload is not None:
        return _event(rulebook, name, payload), "the payload given"
    if use.action is not None:  # no schema describes it
        heads = (path[0] for path in (*use.action.to.values(), *use.action.sensitive))
        fields = SHAPES.get(use.action.key) or dict.fromkeys(heads, "")
        sample = {field: f"({field})" for field in fields} | {"locale": locale}
        return _event(rulebook, name, sample), f"the names of the fields of {use.action.key}"
    known = rulebook.catalogue.get(name)
    examples = known.schema.get("examples") if known else None
    if isinstance(examples, list) and examples and isinstance(examples[0], Mapping):
        return _event(rulebook, name, examples[0]), f"the example of {name}"
    told: list[tuple[Event, str]] = []
    for case in cases:
        for event in case.events:
            if any(match.rule is rule for match in rulebook.match(event)):
                reads = recipient_of(rulebook, event, rule.to).locale
                if library.normalise_locale(reads) == library.normalise_locale(locale):
                    return event, f"the test {case.name!r}"
                told.append((event, f"the test {case.name!r}"))
    if told:
        return told[0]
    properties = known.schema.get("properties", {}) if known else {}
    shown = {key: spec["examples"][0] for key, spec in properties.items() if spec.get("examples")}
    return _event(rulebook, name, shown), f"the examples of {name}'s fields" if shown else "an empty payload"


def _event_name(rule: Rule) -> str:
    """An event that the rule looks at; wildcards stand for something."""
    if not rule.events:
        return f"{Kind.NOTICE}.example"
    first, *rest = next((p for p in rule.events if not p.wild), rule.events[0]).tokens
    kind = Kind.NOTICE if first in (ONE, REST) else first
    key = [
        "example" if token in (ONE, REST) else token
        for token in rest or (["example"] if first == REST else [])
    ]
    return ".".join([kind, *key])


def _event(rulebook: Rulebook, name: str, payload: Mapping[str, Any]) -> Event:
    kind, _, key = name.partition(".")
    return Event(
        kind=Kind(kind),
        key=key,
        reqid="0" * 32,
        payload=rulebook.catalogue.canonical(name, payload),
        sent=_NOW,
        received=_NOW,
    )


def write_pages(folder: Path, rendered: Sequence[RenderedTemplate]) -> Path:
    """HTML and text below ``folder``, pictures beside them; returns the page that shows them all."""
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
    for picture in page.message.inline:
        html = html.replace(f"cid:{picture.name}", quote(picture.name))
        yield picture.name, picture.data
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
