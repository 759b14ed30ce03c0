"""YAML as YAML 1.2 reads it, with places and problems."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.documents import composer
from engine.documents import yaml as documents
from engine.documents.yaml import Document, read, read_bytes
from engine.model.problems import Place, json_pointer


@pytest.fixture(params=["c", "pure"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of PyYAML's parsers: the C one may be missing."""
    monkeypatch.setattr(composer, "_LOADER", yaml.CLoader if request.param == "c" else yaml.Loader)
    return str(request.param)


def data(text: str) -> Any:
    document = read(text, "a.yaml")
    assert document.problems == ()
    return document.data


def problems(text: str) -> list[tuple[str, int, int]]:
    return [(p.code, p.place.line, p.place.column) for p in read(text, "a.yaml").problems]


def at(line: int, column: int) -> Place:
    return Place(file="a.yaml", line=line, column=column)


class TestScalars:
    @pytest.mark.parametrize(
        "text",
        [
            "no",
            "yes",
            "on",
            "off",
            "No",
            "ON",
            "y",
            "n",
            "22:00",
            "1:30:00",
            "2026-03-02",
            "2026-03-02T23:30:00+08:00",
            "1_000",
            "0b11",
            "-0x1F",
            "0o8",
            "0xG",
            "1.2.3",
            "+",
            "-x",
            ".",
            "e5",
            "1e",
            "tRUE",
            "nULL",
            "=",
            "Infinity",
            "NaN",
            "inf",
            "+86-138",
            "1,000",
            "١٢",
        ],
    )
    def test_other_text_is_a_string(self, text: str) -> None:
        assert data(f"a: {text}") == {"a": text}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True),
            ("True", True),
            ("FALSE", False),
            ("null", None),
            ("~", None),
            ("", None),
            ("0", 0),
            ("-7", -7),
            ("+7", 7),
            ("0123", 123),
            ("0x1F", 31),
            ("0o17", 15),
            ("1.10", 1.1),
            ("1.", 1.0),
            (".5", 0.5),
            ("-1e3", -1000.0),
            ("6.02E+23", 6.02e23),
            ("9007199254740993", 9007199254740993),
            ("1" * 400, int("1" * 400)),
        ],
    )
    def test_a_plain_scalar_has_its_value_in_yaml_1_2(self, text: str, value: object) -> None:
        found = data(f"a: {text}")["a"]
        assert (type(found), found) == (type(value), value)

    @pytest.mark.parametrize("text", ["no", "1.10", "123", "true", "null", "", "~", ".nan"])
    @pytest.mark.parametrize("quote", ["'", '"'])
    def test_a_quoted_scalar_is_text(self, text: str, quote: str) -> None:
        assert data(f"a: {quote}{text}{quote}") == {"a": text}

    def test_a_block_scalar_is_text(self) -> None:
        assert data("a: |\n  1\n  2\nb: >-\n  true\n") == {"a": "1\n2\n", "b": "true"}

    @pytest.mark.parametrize(
        "text", [".nan", ".NaN", ".inf", "-.inf", "+.INF", "1e999", "-1e999", "1" * 5000]
    )
    def test_a_number_that_cannot_be_represented_is_a_problem(self, text: str) -> None:
        document = read(f"a: {text}\nb: 1", "a.yaml")
        assert [(p.code, p.place, p.pointer) for p in document.problems] == [("yaml-number", at(1, 4), "/a")]
        assert document.data == {"a": text, "b": 1}

    def test_line_ends_of_yaml_1_1_are_ordinary_characters(self) -> None:
        document = read("a: 'x\u2028y\u2029z'\nb: 1\x852\nc: {d", "a.yaml")
        assert document.problems[0].place.line == 3
        assert data("a: 'x\u2028y\u2029z'\nb: 1\x852\n") == {"a": "x\u2028y\u2029z", "b": "1\x852"}
        assert data("\U000f0000: '\u2028'") == {"\U000f0000": "\u2028"}


class TestMappings:
    def test_keys_are_text_as_written(self) -> None:
        found = data("404: x\ntrue: y\n1.10: z\n~: n\nno: m")
        assert found == {"404": "x", "true": "y", "1.10": "z", "~": "n", "no": "m"}

    def test_a_repeated_key_is_a_problem(self) -> None:
        document = read("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n404: x\n'404': y\n", "a.yaml")
        assert [(p.code, p.place, p.pointer) for p in document.problems] == [
            ("duplicate-key", at(5, 3), "/b/c"),
            ("duplicate-key", at(7, 1), "/404"),
        ]
        assert "line 3" in document.problems[0].message
        assert document.data == {"a": 1, "b": {"c": 1, "d": 2}, "404": "x"}

    def test_the_value_of_a_repeated_key_is_checked_too(self) -> None:
        assert problems("a: 1\na: {b: .nan}\nc: &x 1\nc: *y") == [
            ("duplicate-key", 2, 1),
            ("yaml-number", 2, 8),
            ("duplicate-key", 4, 1),
            ("yaml-alias", 4, 4),
        ]

    def test_a_key_must_be_a_scalar(self) -> None:
        document = read("? [a]\n: 1\n? {b: .inf}\n: 2\n[c, d]: 3\ne: 4", "a.yaml")
        assert [(p.code, p.place.line) for p in document.problems] == [
            ("yaml-key", 1),
            ("yaml-key", 3),
            ("yaml-number", 3),
            ("yaml-key", 5),
        ]
        assert document.data == {"e": 4}


class TestTags:
    def test_the_tags_of_json_types_are_supported(self) -> None:
        text = "a: !!str 5\nb: !!int '5'\nc: !!float 1\nd: !!bool true\ne: !!null ''\n"
        found = data(text + "f: !!map {}\ng: !!seq []\nh: ! x")
        assert found == {"a": "5", "b": 5, "c": 1.0, "d": True, "e": None, "f": {}, "g": [], "h": "x"}
        assert isinstance(found["c"], float)

    @pytest.mark.parametrize(
        ("value", "name"),
        [
            ("!!binary aGk=", "!!binary"),
            ("!!python/object:os.system {}", "!!python/object:os.system"),
            ("!mine x", "!mine"),
            ("!!set {a, b}", "!!set"),
            ("!!timestamp 2026-03-02", "!!timestamp"),
            ("!!int x", "!!int"),
            ("!!bool 1", "!!bool"),
            ("!!int true", "!!int"),
            ("!!map []", "!!map"),
            ("!<tag:example.com,2000:x> 1", "tag:example.com,2000:x"),
        ],
    )
    def test_another_tag_is_a_problem(self, value: str, name: str) -> None:
        document = read(f"a: {value}\nb: 1", "a.yaml")
        assert [(p.code, p.place, p.pointer) for p in document.problems] == [("yaml-tag", at(1, 4), "/a")]
        assert f"'{name}'" in document.problems[0].message
        assert document.data["b"] == 1

    def test_a_tag_on_a_key_is_a_problem(self) -> None:
        assert problems("!x a: 1\n!!str b: 2") == [("yaml-tag", 1, 1)]

    def test_a_float_that_is_too_large_is_a_problem(self) -> None:
        assert problems("a: !!float " + "9" * 400) == [("yaml-number", 1, 4)]


class TestAnchors:
    def test_aliases_share_the_value_of_their_anchor(self) -> None:
        found = data("a: &x {b: [1, 2]}\nc: *x\nd: &y z\n*y : 1\n&k e: 2\nf: *k")
        assert found == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": "z", "z": 1, "e": 2, "f": "e"}
        assert found["a"] is found["c"]

    def test_an_alias_refers_to_the_latest_anchor_of_its_name(self) -> None:
        assert data("[&a 1, *a, &a 2, *a, &a [&a 3, *a], *a]") == [1, 1, 2, 2, [3, 3], 3]

    def test_the_place_of_an_alias_is_that_of_its_anchor(self) -> None:
        document = read("a: &x\n  b: 1\nc: *x", "a.yaml")
        assert document.place(("c", "b")) == at(2, 6)
        assert document.key_place(("c", "b")) == at(2, 3)
        assert document.key_place(("c",)) == at(3, 1)

    @pytest.mark.parametrize(
        "text", ["a: &x [*x]", "a: &x {b: {c: *x}}", "a: &x {<<: *x}", "a: *x", "*x : a"]
    )
    def test_an_alias_without_a_complete_anchor_is_a_problem(self, text: str) -> None:
        assert [code for code, _, _ in problems(text)] == ["yaml-alias"]

    def test_a_merge_key_adds_the_keys_of_mappings(self) -> None:
        text = "base: &b {x: 1, y: {z: 2}}\nmore: &m {x: 9, w: 3}\n"
        text += "a: {<<: *b, x: 5}\nb: {y: 0, <<: [*b, *m]}\nc: {<<: {q: 1}}"
        found = data(text)
        assert found["a"] == {"x": 5, "y": {"z": 2}}
        assert found["b"] == {"y": 0, "x": 1, "w": 3}
        assert found["c"] == {"q": 1}
        document = read(text, "a.yaml")
        assert document.place(("a", "x")) == at(3, 16)
        assert document.key_place(("a", "y", "z")) == at(1, 21)
        assert document.key_place(("b", "w")) == at(2, 17)

    @pytest.mark.parametrize("value", ["5", "[1]", "[{a: 1}, 2]", "", "text"])
    def test_a_merge_key_needs_mappings(self, value: str) -> None:
        assert problems(f"a:\n  <<: {value}\n  b: 1") == [("yaml-merge", 2, 3)]

    def test_a_merge_key_occurs_once_unless_it_is_quoted(self) -> None:
        assert problems("a: {<<: {b: 1}, <<: {c: 1}}") == [("duplicate-key", 1, 17)]
        assert data("'<<': 5") == {"<<": 5}

    def test_the_expansion_of_aliases_is_limited(self) -> None:
        text = "a0: &a0 x\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40)
        )
        started = time.monotonic()
        document = read(text, "a.yaml")
        assert [(p.code, p.place.line) for p in document.problems] == [("yaml-too-big", 7)]
        assert document.data == {}
        assert time.monotonic() - started < 5

    def test_the_expansion_of_merges_is_limited(self) -> None:
        steps = "".join(
            f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], a{i}: *m{i - 1}, b{i}: *m{i - 1}}}\n"
            for i in range(1, 60)
        )
        assert [code for code, _, _ in problems("m0: &m0 {k: 1}\n" + steps)] == ["yaml-too-big"]

    def test_the_depth_of_aliases_is_limited(self) -> None:
        text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))
        assert problems(text) == [("yaml-too-deep", 100, 12)]


class TestBounds:
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
    def test_the_depth_of_a_file_is_limited(self, opening: str, closing: str) -> None:
        def nested(depth: int) -> str:
            return opening * depth + "x" + closing * depth

        assert read(nested(composer.MAX_DEPTH), "a.yaml").problems == ()
        assert [code for code, _, _ in problems(nested(composer.MAX_DEPTH + 1))] == ["yaml-too-deep"]
        assert [code for code, _, _ in problems(opening * 100_000)] == ["yaml-too-deep"]

    def test_the_number_of_values_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(composer, "MAX_NODES", 4)
        assert problems("[1, 2, 3]") == []
        assert problems("[1, 2, 3, 4]") == [("yaml-too-big", 1, 11)]

    def test_the_size_of_a_file_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(documents, "MAX_BYTES", 10)
        assert read_bytes(b"a: 1234567", "a.yaml").problems == ()
        assert [p.code for p in read_bytes(b"a: 12345678", "a.yaml").problems] == ["yaml-too-big"]
        assert problems("a: 12345678") == [("yaml-too-big", 1, 1)]

    def test_ten_thousand_rules_are_quick(self) -> None:
        rule = (
            "  - id: rule-{0}\n    event: notice.login.k{0}\n"
            "    when: {{risk.score: {{gte: 70}}, country: [CN, HK]}}\n    notify: [email, sms]\n"
        )
        text = "rules:\n" + "".join(rule.format(number) for number in range(10_000))
        started = time.monotonic()
        document = read(text, "a.yaml")
        assert time.monotonic() - started < 10
        assert document.place(("rules", 9_999, "when", "country", 1)) == at(40_000, 49)


class TestFiles:
    @pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "---\n# x\n...\n", "\ufeff"])
    def test_an_empty_file_is_an_empty_mapping(self, text: str) -> None:
        assert data(text) == {}

    @pytest.mark.parametrize(("text", "value"), [("null", None), ("''", ""), ("[]", []), ("5", 5)])
    def test_the_root_can_be_any_value(self, text: str, value: object) -> None:
        assert data(text) == value

    def test_a_second_document_is_a_problem(self) -> None:
        document = read("a: 1\n---\nb: 2\n---\nc: 3\n", "a.yaml")
        assert [(p.code, p.place) for p in document.problems] == [("yaml-documents", at(2, 1))]
        assert document.data == {"a": 1}

    def test_a_byte_order_mark_is_ignored(self) -> None:
        document = read_bytes("\ufeffé: no\nb: .nan".encode(), "a.yaml")
        assert document.data == {"é": "no", "b": ".nan"}
        assert document.place(("é",)) == at(1, 4)
        assert [p.place for p in document.problems] == [at(2, 4)]

    def test_a_file_must_be_utf_8(self) -> None:
        document = read_bytes("\ufeffa: 1\nbé: ".encode() + b"\xff\n", "a.yaml")
        assert [(p.code, p.place) for p in document.problems] == [("not-utf8", at(2, 5))]
        assert "0xff" in document.problems[0].message
        assert document.data == {}

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
    def test_a_utf_16_file_is_named_as_such(self, encoding: str) -> None:
        document = read_bytes("\ufeffa: 1".encode(encoding), "a.yaml")
        assert [p.code for p in document.problems] == ["not-utf8"]

    @pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x9f", "\ufffe", "\ud800"])
    def test_a_control_character_is_a_problem(self, char: str) -> None:
        document = read(f"a: 1\nb: x{char}y", "a.yaml")
        assert [(p.code, p.place) for p in document.problems] == [("binary", at(2, 5))]
        assert f"U+{ord(char):04X}" in document.problems[0].message

    def test_each_kind_of_line_end_counts(self) -> None:
        for end in ("\n", "\r\n", "\r"):
            document = read(end.join(["# x", "a: 1", "", "b:", "  - c", ""]), "a.yaml")
            assert document.data == {"a": 1, "b": ["c"]}
            assert document.place(("b", 0)) == at(5, 5)


@pytest.mark.usefixtures("parser")
class TestTabs:
    def test_a_tab_in_the_indentation_is_a_problem(self) -> None:
        document = read("a:\n\tb: 1\nc: {d: 1, d: 2}\nc: 2\n", "a.yaml")
        assert [(p.code, p.place) for p in document.problems] == [
            ("yaml-tab", at(2, 1)),
            ("duplicate-key", at(3, 11)),
            ("duplicate-key", at(4, 1)),
        ]
        assert document.data == {"a": {"b": 1}, "c": {"d": 1}}
        assert document.place(("a", "b")) == at(2, 5)

    def test_each_tab_is_reported(self) -> None:
        assert problems("a:\n\tb: 1\nc:\n\td: 1\nl:\n-\te") == [
            ("yaml-tab", 2, 1),
            ("yaml-tab", 4, 1),
            ("yaml-tab", 6, 2),
        ]

    def test_errors_that_follow_from_tabs_are_not_reported(self) -> None:
        document = read("a:\n    b: 1\n\tc: 2\nd: .nan\nd: [\n", "a.yaml")
        assert [(p.code, p.place) for p in document.problems] == [("yaml-tab", at(3, 1))]
        assert document.data == {}

    def test_a_tab_inside_a_value_is_allowed(self, parser: str) -> None:
        assert data("a: 'x\ty'\nc: |\n  x\ty\n") == {"a": "x\ty", "c": "x\ty\n"}
        if parser == "c":  # the pure one is stricter than YAML
            assert data("b: x\ty\n") == {"b": "x\ty"}

    def test_the_number_of_reported_tabs_is_limited(self) -> None:
        text = "".join(f"a{i}:\n\tb: 1\n" for i in range(documents.MAX_TABS + 20))
        document = read(text, "a.yaml")
        assert len(document.problems) == documents.MAX_TABS
        assert {p.code for p in document.problems} == {"yaml-tab"}

    def test_an_invalid_value_after_a_tab_is_not_blamed_on_the_tab(self) -> None:
        assert [code for code, _, _ in problems("a: @x\t\n")] == ["yaml-syntax"]


@pytest.mark.usefixtures("parser")
class TestSyntax:
    @pytest.mark.parametrize(
        ("text", "line", "column", "words"),
        [
            ("a: b: c", 1, 5, "a ':' where a key is not allowed"),
            ("a: 1\n b: 2\n", 2, 3, "a ':' where a key is not allowed"),
            ("é: @x", 1, 4, "cannot start with '@' unless it is in quotes"),
            ("a: 1\nb: 'x\nc: 2\n", None, None, "the quote opened in line 2 is not closed"),
            ('a: "\\q"', None, None, "an unknown escape in double quotes"),
            ("a: [1, 2\nb: 3\n", None, None, "the '[' in line 1 is not closed"),
            ("a:\n  - {b: 1\n", None, None, "the '{' in line 2 is not closed"),
            ("- a\nb: 1", 2, 1, "does not continue the list that starts in line 1"),
            ("a:\n  b: 1\n c: 2", 3, 2, "does not continue the mapping that starts in line 1"),
            ("- a\n-b\n- c", 3, 1, "line 2 starts like a key and has no ': '"),
            ("}", 1, 1, "not valid YAML"),
            ("%YAML 3.0\n---\na", 1, 1, "not valid YAML"),
            ("!foo!bar x", 1, 1, "not valid YAML"),
        ],
    )
    def test_a_syntax_error_is_explained(
        self, text: str, line: int | None, column: int | None, words: str
    ) -> None:
        document = read(text, "a.yaml")
        (problem,) = document.problems
        assert problem.code == "yaml-syntax"
        assert words in problem.message
        assert document.data == {}
        if line is not None and column is not None:
            assert problem.place == at(line, column)

    def test_problems_before_a_syntax_error_are_kept(self) -> None:
        assert [code for code, _, _ in problems("a: 1\na: 2\nb: ]")] == ["duplicate-key", "yaml-syntax"]

    def test_an_escape_beyond_unicode_is_a_problem(self) -> None:
        assert [code for code, _, _ in problems('a: "\\UFFFFFFFF"')] == ["yaml-syntax"]


class TestPlaces:
    TEXT = 'r:\n  - id: "é🎉"\n    when: {a.b: [1, "x/~"], "q": {n: 2}}\n  -\n    id: two\n'

    def test_values_and_keys_have_places(self) -> None:
        document = read(self.TEXT, "a.yaml")
        assert document.place(()) == at(1, 1)
        assert document.place(("r",)) == at(2, 3)
        assert document.key_place(("r",)) == at(1, 1)
        assert document.place(("r", 0)) == at(2, 5)
        assert document.place(("r", 0, "id")) == at(2, 9)
        assert document.place(("r", 0, "when", "a.b", 1)) == at(3, 21)
        assert document.key_place(("r", 0, "when", "a.b")) == at(3, 12)
        assert document.key_place(("r", 0, "when", "q", "n")) == at(3, 35)
        assert document.place(("r", 1, "id")) == at(5, 9)

    def test_columns_count_characters(self) -> None:
        document = read("'🎉é': {'日本': x, y: z}", "a.yaml")
        assert document.place(("🎉é", "日本")) == at(1, 14)
        assert document.key_place(("🎉é", "y")) == at(1, 17)

    def test_a_missing_path_has_the_place_of_its_nearest_ancestor(self) -> None:
        document = read(self.TEXT, "a.yaml")
        assert document.place(("r", 0, "no", "such")) == at(2, 5)
        assert document.place(("r", 7)) == at(2, 3)
        assert document.place(("r", -1)) == at(2, 3)
        assert document.place(("r", "0")) == at(2, 3)
        assert document.place(("r", 0, "id", "deeper")) == at(2, 9)
        assert document.key_place(("r", 0, "no")) == at(2, 5)
        assert document.key_place(("r", 0)) == at(2, 5)
        assert document.key_place(()) == at(1, 1)

    def test_an_empty_value_has_a_place(self) -> None:
        document = read("a:\nb: 1", "a.yaml")
        assert document.place(("a",)).line == 1
        assert document.key_place(("a",)) == at(1, 1)

    def test_a_path_is_written_as_a_json_pointer(self) -> None:
        assert json_pointer(()) == ""
        assert json_pointer(("a/b", 0, "m~n", "")) == "/a~1b/0/m~0n/"


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inside, (*path, key))


def assert_sound(document: Document) -> None:
    for problem in document.problems:
        assert problem.place.file == "f"
        assert problem.place.line >= 1
        assert problem.place.column >= 1
        assert problem.code
        assert problem.message
    for path in paths(document.data):
        assert document.place(path).line >= 1
        assert document.key_place(path).line >= 1


# Text that looks like YAML gets further into the parser than arbitrary text.
SYNTAX = [
    "a",
    "b:",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&x",
    "*x",
    "<<:",
    "'",
    '"',
    "!!int",
    "!t",
    "|",
    ">",
    "#",
    "?",
    ":",
    "...",
    "%",
    "\\",
    "1",
    ".nan",
    "0x1",
    "é",
    "~",
    "@",
]
pieces = st.sampled_from(
    [*SYNTAX, *(f"{mark} " for mark in SYNTAX), "  ", "\n", "\n---\n", *"\t\r\x85\u2028"]
)


@given(st.one_of(st.text(), st.lists(pieces, max_size=40).map("".join)))
def test_any_text_is_read_or_has_problems(text: str) -> None:
    assert_sound(read(text, "f"))


@given(st.binary())
def test_any_bytes_are_read_or_have_problems(content: bytes) -> None:
    assert_sound(read_bytes(content, "f"))


@given(st.lists(pieces, max_size=30).map("".join))
def test_the_parser_in_python_raises_nothing_either(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composer, "_LOADER", yaml.Loader)
        assert_sound(read(text, "f"))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words
    ),
    lambda inside: st.one_of(st.lists(inside, max_size=4), st.dictionaries(words, inside, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(words, json_values, max_size=4))
def test_json_is_read_unchanged(value: dict[str, Any]) -> None:
    document = read(json.dumps(value, ensure_ascii=False), "f")
    assert document.problems == ()
    assert document.data == value
    assert_sound(document)
