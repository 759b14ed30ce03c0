"""Templates: their look-up, their variables, and the limits of the sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from engine.model.errors import TemplateError
from engine.model.messages import Message
from engine.templates.compiler import compile_library
from engine.templates.library import MAX_OUTPUT, Library, TemplateSource, locale_chain, render_template

CONTEXT: dict[str, Any] = {
    "payload": {}, "event": {}, "rule": {}, "recipient": {}, "vars": {}, "site": {"name": "S"},
}  # fmt: skip


def library(*files: tuple[str, str], pictures: dict[str, bytes] | None = None) -> Library:
    made, problems = compile_library(
        [TemplateSource(path=path, text=text) for path, text in files], pictures or {}
    )
    assert problems == ()
    return made


def message(text: str, extension: str = "txt", **payload: Any) -> Message:
    template = library((f"t/email.{extension}", text)).find("t", ["email"], [""])
    assert template is not None
    return render_template(template, {**CONTEXT, "payload": payload})


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["zh-Hans-CN"], ("zh-hans-cn", "zh-cn", "zh-hans", "zh", "")),
        (["zh_CN.UTF-8", "en"], ("zh-cn", "zh", "en", "")),
        (["EN-us", "en"], ("en-us", "en", "")),
        (["../../etc/passwd", "en"], ("en", "")),
        (["", "en"], ("en", "")),
    ],
)
def test_locales_fall_back(tags: list[str], expected: tuple[str, ...]) -> None:
    assert locale_chain(*tags) == expected


def test_language_comes_before_the_channel() -> None:
    made = library(
        ("t/zh-CN/default.txt", "通用"),
        ("t/email.txt", "plain"),
        ("t/zh/sms.txt", "短信"),
        ("t/default.txt", "any"),
    )

    def found(channel: str, *tags: str) -> str:
        template = made.find("t", [channel], locale_chain(*tags))
        assert template is not None
        return render_template(template, CONTEXT).text

    assert found("email", "zh-CN") == "通用"
    assert found("sms", "zh-Hans-CN") == "通用"
    assert found("sms", "zh-TW") == "短信"
    assert found("email", "fr") == "plain"
    assert found("slack", "fr") == "any"
    assert made.find("t", ["email"], ["de"]) is None
    assert made.find("nothing", ["email"], [""]) is None


def test_html_is_escaped_and_text_is_not() -> None:
    assert message("Hi {{ payload.n }}", "html", n="<b>&").html == "Hi &lt;b&gt;&amp;"
    assert message("Hi {{ payload.n }}", "txt", n="<b>&").text == "Hi <b>&"
    assert message("Hi {{ payload.n }}", "md", n="*x*").markdown is True


def test_escaping_follows_the_file_also_through_a_layout() -> None:
    made = library(
        ("_layout/mail.html", "<main>{% block body %}{% endblock %}</main>"),
        ("t/email.html", '{% extends "_layout/mail.html" %}{% block body %}{{ payload.n }}{% endblock %}'),
    )
    template = made.find("t", ["email"], [""])
    assert template is not None
    assert render_template(template, {**CONTEXT, "payload": {"n": "<i>"}}).html == "<main>&lt;i&gt;</main>"


def test_super_renders_the_block_of_the_layout_below() -> None:
    made = library(
        ("_layout/all.txt", "{% block body %}all{% endblock %}"),
        (
            "_layout/mail.txt",
            '{% extends "_layout/all.txt" %}{% block body %}mail, {{ super() }}{% endblock %}',
        ),
        ("t/email.txt", '{% extends "_layout/mail.txt" %}{% block body %}t, {{ super() }}{% endblock %}'),
    )
    template = made.find("t", ["email"], [""])
    assert template is not None
    assert render_template(template, CONTEXT).text == "t, mail, all"


def test_a_mail_without_text_gets_one_from_its_html() -> None:
    made = message('<h1>Hello</h1><p>Look <a href="https://x.example/a">here</a></p>', "html")
    assert "Hello" in made.text and "https://x.example/a" in made.text and "<" not in made.text


def test_mjml_becomes_html_with_the_template_inside() -> None:
    text = "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ payload.n }}</mj-text></mj-column></mj-section></mj-body></mjml>"
    made = message(text, "mjml", n="<b>")
    assert "<table" in made.html and "Hi &lt;b&gt;" in made.html and "mj-text" not in made.html


def test_the_subject_is_always_one_line() -> None:
    source = TemplateSource(path="t/email.txt", text="body", subject="New {{ payload.n }}")
    made, _ = compile_library([source], {})
    template = made.find("t", ["email"], [""])
    assert template is not None
    made_message = render_template(template, {**CONTEXT, "payload": {"n": "x\r\nBcc: evil@example.com"}})
    assert made_message.title == "New x Bcc: evil@example.com"


def test_fields_take_precedence_over_methods_and_null_is_empty() -> None:
    assert message("{{ payload.items }}|{{ payload.gone }}", items="mine", gone=None).text == "mine|"


def test_only_pictures_in_use_are_sent() -> None:
    pictures = {"t/a.png": b"a", "t/b.png": b"b", "other/c.png": b"c", "_layout/d.png": b"d"}
    text = '<img src="cid:a.png"><img src="cid:c.png"><img src="cid:d.png">'
    template = library(("t/email.html", text), pictures=pictures).find("t", ["email"], [""])
    assert template is not None
    assert [picture.name for picture in render_template(template, CONTEXT).inline] == ["a.png", "d.png"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ payload.missing }}",
        "{{ payload.a.b.c }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'x' * 10000000 }}",
        "{{ ('x' * 10000000) | length }}",
        "{{ 9 ** 99999 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
        "{% for i in range(99999999) %}x{% endfor %}",
    ],
)
def test_a_failed_rendering_is_a_template_error(text: str) -> None:
    with pytest.raises(TemplateError, match=r"t/email\.txt"):
        message(text, a={})


def test_the_length_of_the_result_is_limited() -> None:
    with pytest.raises(TemplateError, match=str(MAX_OUTPUT)):
        message("{% for c in payload.a %}{{ payload.b }}{% endfor %}", a=list(range(1000)), b="x" * 1000)


@pytest.mark.parametrize(
    ("path", "text", "code", "line"),
    [
        ("t/email.txt", "a\n{% if x %}", "template-syntax", 2),
        ("t/email.txt", "a\n\n{{ payload.x | nofilter }}", "template-syntax", 3),
        ("t/email.txt", "a\n{{ payloat.x }}", "unknown-variable", 2),
        ("t/email.txt", '{% include "_no/such.txt" %}', "missing-template", 1),
        ("t/email.mjml", "<mjml><mj-body>", "template-mjml", 1),
        ("email.txt", "no folder", "template-path", 1),
        ("t/en/deep/email.txt", "too deep", "template-path", 1),
    ],
)
def test_errors_are_reported_at_load_with_their_line(path: str, text: str, code: str, line: int) -> None:
    made, problems = compile_library(
        [TemplateSource(path=path, text=text), TemplateSource(path="u/sms.txt", text="ok")], {}
    )
    assert [(problem.place.file, problem.code, problem.place.line) for problem in problems] == [
        (f"templates/{path}", code, line)
    ]
    assert "u" in made  # one bad file does not hide the others
