"""Blocks of conditions: paths, lists, combinations, explanations, and what is wrong with a block."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import reference_evaluator

from engine.model.problems import Diagnostic
from engine.rules.condition_compiler import ALL_OPERATORS, MAX_DEPTH, compile_block
from engine.rules.conditions import Block, ConditionResult
from engine.rules.paths import format_path, parse_path, resolve


def sound(source: object) -> Block:
    block, errors = compile_block(source)
    assert not errors
    return block


def errors_of(source: object) -> list[tuple[tuple[str | int, ...], str]]:
    return [(error.path, error.code) for error in compile_block(source)[1]]


def only_error(source: object) -> Diagnostic:
    (error,) = compile_block(source)[1]
    return error


# ---------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("userid", ("userid",)),
        ("user.email", ("user", "email")),
        (r"a\.b.c", ("a.b", "c")),
        (r"a\\.b", ("a\\", "b")),
        (r"\any", ("any",)),
        (r"\not.a", ("not", "a")),
        (r"\.a", (".a",)),
        (r"\\any", ("\\any",)),
        ("items.0.k", ("items", "0", "k")),
        ("any.x", ("any", "x")),
        (" a ", (" a ",)),
        ("城市.名", ("城市", "名")),
    ],
)
def test_a_path_is_parsed_and_written_again(text: str, path: tuple[str, ...]) -> None:
    assert parse_path(text) == path
    assert parse_path(format_path(path)) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a path is empty"),
        (".", "a key between the dots is empty"),
        ("a.", "a key between the dots is empty"),
        (".a", "a key between the dots is empty"),
        ("a..b", "a key between the dots is empty"),
        ("a\\", "a backslash must be first, or be followed by"),
        ("\\", "a backslash must be first, or be followed by"),
        (r"a\b", "a backslash must be first, or be followed by"),
        (r"a.\any", "a backslash must be first, or be followed by"),
    ],
)
def test_other_texts_are_no_paths(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_path(text)


@given(st.lists(st.text(min_size=1), min_size=1).map(tuple))
@example(("any",))
@example(("\\any",))
@example(("not", "."))
def test_every_path_can_be_written(path: tuple[str, ...]) -> None:
    assert parse_path(format_path(path)) == path
    assert format_path(path) not in ("any", "all", "not")


@pytest.mark.parametrize(
    ("payload", "path", "found"),
    [
        ({"a": 1}, "a", [1]),
        ({"a": None}, "a", [None]),
        ({}, "a", []),
        ({"a": {"b": 1}}, "a.b", [1]),
        ({"a.b": 1}, "a.b", []),
        ({"a.b": 1}, r"a\.b", [1]),
        ({"a": [1, [2]]}, "a", [[1, [2]]]),
        ({"a": [{"b": 1}, 5, {"b": 2}, [{"b": [3]}]]}, "a.b", [1, 2, [3]]),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.1.b", [2]),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.2.b", []),
        ({"a": [[1, 2], [3]]}, "a.0", [[1, 2]]),
        ({"a": [[1, 2], [3]]}, "a.0.1", [2]),
        ({"a": [{"b": [5, 6]}, {"b": [7]}]}, "a.b.1", [6]),
        ({"a": {"0": "x"}}, "a.0", ["x"]),
        ({"a": [{"00": 1}]}, "a.00", [1]),
        ({"a": [{"-1": 1}]}, "a.-1", [1]),
        ({"a": [{"٣": 1}]}, "a.٣", [1]),
        ({"a": [{"²": 1}]}, "a.²", [1]),
        ({"a": [1]}, "a." + "9" * 5000, []),
        ({"a": "xyz"}, "a.0", []),
        ({"a": "xyz"}, "a.b", []),
    ],
)
def test_a_path_leads_to_values(payload: dict[str, Any], path: str, found: list[Any]) -> None:
    assert resolve(payload, parse_path(path)) == found


def test_a_field_may_have_the_name_of_a_combinator() -> None:
    block = sound({r"\any": 1, r"\not": {"gt": 1}, "all.x": 2})
    assert block.paths == (("any",), ("not",), ("all", "x"))
    assert block.holds({"any": 1, "not": 2, "all": {"x": 2}})


@pytest.mark.parametrize("depth", [10, 100_000])
def test_payloads_may_be_deeply_nested(depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    block = sound({"a": "x"})
    assert block.holds({"a": nested})
    assert block.explain({"a": nested})[0].holds
    assert not sound({"a.b": {"exists": True}}).holds({"a": nested})


def test_the_time_grows_with_the_length_of_a_list() -> None:
    """With a look at all elements for each of them this would take hours."""
    block = sound({"s": {"prefix": "b", "not": "c", "any_of": [{"not": "d"}, "e"]}})
    assert not block.holds({"s": ["a"] * 300_000})


# --------------------------------------------------------------------------------------- blocks


def test_a_block_without_conditions_holds() -> None:
    for block in (Block(), sound({})):
        assert block.holds({})
        assert block.explain({}) == ()
        assert block.paths == ()


@pytest.mark.parametrize(
    ("when", "payload", "holds"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ({"any": [{"a": 1}, {"b": 2}]}, {"b": 2}, True),
        ({"any": [{"a": 1}, {"b": 2}]}, {}, False),
        ({"all": [{"a": 1}, {"b": 2}]}, {"a": 1, "b": 2}, True),
        ({"all": [{"a": 1}, {"b": 2}]}, {"a": 1}, False),
        ({"not": {"a": 1}}, {"a": 2}, True),
        ({"not": {"a": 1}}, {"a": 1}, False),
        ({"not": {"a": 1}}, {}, True),  # the block, unlike the operator, is plain negation
        ({"not": {"a": 1, "b": 2}}, {"a": 1}, True),
        ({"not": {"any": [{"a": 1}, {"b": 2}]}}, {"b": 2}, False),
        ({"c": 3, "any": [{"a": 1}, {"b": 2}]}, {"a": 1}, False),
        ({"any": [{"not": {"a": 1}}, {"all": [{"a": 1}, {"b": 2}]}]}, {"a": 1, "b": 2}, True),
        # Each condition on its own: two elements may satisfy one each.
        ({"items.k": "a", "items.v": 2}, {"items": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]}, True),
        ({"items.v": {"gte": 5, "lt": 7}}, {"items": [{"v": 4}, {"v": 8}]}, False),
        ({"items.v": {"gte": 5, "lt": 7}}, {"items": [{"v": 4}, {"v": [6]}]}, True),
    ],
)
def test_a_block_holds_for_a_payload(when: dict[str, Any], payload: dict[str, Any], holds: bool) -> None:
    block = sound(when)
    assert block.holds(payload) is holds
    assert all(result.holds for result in block.explain(payload)) is holds


def test_any_mapping_is_a_payload() -> None:
    class Frozen(Mapping[str, Any]):
        def __init__(self, data: dict[str, Any]) -> None:
            self.data = data

        def __getitem__(self, key: str) -> Any:
            return self.data[key]

        def __iter__(self) -> Any:
            return iter(self.data)

        def __len__(self) -> int:
            return len(self.data)

    block = sound({"a.b": 1, "a.c": {"exists": False}})
    assert block.holds(Frozen({"a": Frozen({"b": 1})}))
    assert not block.holds(Frozen({"a": Frozen({"b": 2})}))


def test_the_paths_of_a_block_include_those_of_inner_blocks() -> None:
    block = sound({"a": 1, "any": [{"b": 1, "a": 2}, {"not": {"c.d": {"exists": False}}}]})
    assert block.paths == (("a",), ("b",), ("c", "d"))
    assert [condition.operators for condition in block.conditions()] == [
        *({"equals": 1}, {"equals": 1}, {"equals": 2}, {"exists": False})
    ]


# ------------------------------------------------------------------------------------- explain


def test_a_result_has_the_expected_and_the_actual_value() -> None:
    block = sound({"result": "success", "country": ["CN", "HK"], "risk.score": {"gte": 70}})
    assert block.explain({"result": "success", "risk": {"score": None}}) == (
        ConditionResult(path="result", operator="equals", expected="success", actual="success", holds=True),
        ConditionResult(path="country", operator="any_of", expected=["CN", "HK"], present=False, holds=False),
        ConditionResult(path="risk.score", operator="gte", expected=70, actual=None, holds=False),
    )


def test_several_values_are_shown_as_a_list() -> None:
    (result,) = sound({"items.k": "a"}).explain({"items": [{"k": "a"}, {"k": ["b"]}]})
    assert (result.actual, result.holds) == (["a", ["b"]], True)


def test_operators_are_shown_together_and_one_by_one() -> None:
    (result,) = sound({"n": {"gte": 5, "lt": 7}}).explain({"n": [4, 8]})
    assert (result.path, result.operator, result.holds) == ("n", "all", False)
    assert [(f.operator, f.expected, f.holds) for f in result.inside] == [("gte", 5, True), ("lt", 7, True)]


def test_combinations_are_shown_with_their_parts() -> None:
    source = [{"a": 1}, {"b": 2, "c": 3}]
    (result,) = sound({"any": source}).explain({"b": 2})
    assert (result.path, result.operator, result.expected, result.holds) == ("", "any", source, False)
    first, second = result.inside
    assert (first.path, first.holds) == ("a", False)
    assert (second.path, second.operator, second.expected, second.holds) == ("", "all", source[1], False)
    assert [(f.path, f.holds) for f in second.inside] == [("b", True), ("c", False)]


def test_a_path_is_shown_as_it_is_written() -> None:
    assert [f.path for f in sound({r"\any": 1, r"a\.b.c": 1}).explain({})] == [r"\any", r"a\.b.c"]


def test_each_alternative_of_a_list_is_shown() -> None:
    (result,) = sound({"c": ["CN", {"prefix": "H"}, {"gt": 5}]}).explain({"c": "HK"})
    assert [(f.operator, f.expected, f.holds) for f in result.inside] == [
        ("prefix", "H", True), ("gt", 5, False), ("any_of", ["CN"], False),
    ]  # fmt: skip


def test_not_shows_its_argument() -> None:
    (result,) = sound({"ip": {"not": {"cidr": "10.0.0.0/8"}}}).explain({"ip": "10.0.0.1"})
    (inside,) = result.inside
    assert (result.holds, inside.operator, inside.holds) == (False, "cidr", True)


def test_some_shows_the_element_that_satisfies_most() -> None:
    (result,) = sound({"a": {"some": {"k": "x", "v": 2}}}).explain({"a": [{}, {"k": "x", "v": 1}, 5]})
    assert [(f.path, f.actual, f.holds) for f in result.inside] == [("k", "x", True), ("v", 1, False)]
    assert sound({"a": {"some": {"k": 1}}}).explain({"a": "x"})[0].inside == ()


def test_ignore_case_is_shown() -> None:
    mapping = {"suffix": "@b", "ignore_case": True}
    (result,) = sound({"a": mapping}).explain({"a": "x@B"})
    assert (result.operator, result.expected, result.holds) == ("all", mapping, True)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("source", "path", "code"),
    [
        (None, (), "invalid-condition-block"),
        ([], (), "invalid-condition-block"),
        ("a", (), "invalid-condition-block"),
        ({"any": {"a": 1}}, ("any",), "invalid-condition-block"),
        ({"any": []}, ("any",), "invalid-condition-block"),
        ({"all": "x"}, ("all",), "invalid-condition-block"),
        ({"not": [{"a": 1}]}, ("not",), "invalid-condition-block"),
        ({"any": [{"a": 1}, "b"]}, ("any", 1), "invalid-condition-block"),
        ({"": 1}, ("",), "bad-path"),
        ({"a..b": 1}, ("a..b",), "bad-path"),
        ({5: 1}, (5,), "bad-path"),
        ({None: 1}, (None,), "bad-path"),
        ({"a": {}}, ("a",), "missing-operator"),
        ({"a": {"not": {}}}, ("a", "not"), "missing-operator"),
        ({"a": []}, ("a",), "bad-argument"),
        ({"a": ["b", ["c"]]}, ("a", 1), "bad-argument"),
        ({"a": float("nan")}, ("a",), "bad-argument"),
        ({"a": ["b", float("inf")]}, ("a", 1), "bad-argument"),
        ({"a": b"x"}, ("a",), "bad-argument"),
        ({"a": {"any_of": "b"}}, ("a", "any_of"), "bad-argument"),
        ({"a": {"any_of": []}}, ("a", "any_of"), "bad-argument"),
        ({"a": {"prefix": 5}}, ("a", "prefix"), "bad-argument"),
        ({"a": {"exists": "yes"}}, ("a", "exists"), "bad-argument"),
        ({"a": {"exists": 0}}, ("a", "exists"), "bad-argument"),
        ({"a": {"exists": False, "gt": 5}}, ("a", "exists"), "exists-with-others"),
        ({"a": {"not": {"exists": True}}}, ("a", "not", "exists"), "exists-inside"),
        ({"a": ["b", {"exists": False}]}, ("a", 1, "exists"), "exists-inside"),
        ({"a": {"startswith": "b"}}, ("a", "startswith"), "unknown-operator"),
        ({"a": ["b", {"nope": 1}]}, ("a", 1, "nope"), "unknown-operator"),
        ({"a": {5: 1}}, ("a", 5), "unknown-operator"),
        ({"any": [{"a": {"not": {"nope": 1}}}]}, ("any", 0, "a", "not", "nope"), "unknown-operator"),
        ({"a": {"gte": 7, "lt": 5}}, ("a", "lt"), "empty-range"),
        ({"a": {"gte": 7, "lt": 7}}, ("a", "lt"), "empty-range"),
        ({"a": {"gt": 7, "lte": 7}}, ("a", "lte"), "empty-range"),
        ({"a": {"not": {"gt": 8, "lt": 7.5}}}, ("a", "not", "lt"), "empty-range"),
        ({"a": {"prefix": ["x", 5]}}, ("a", "prefix", 1), "bad-argument"),
        ({"a": {"cidr": "10.0.0.1/8"}}, ("a", "cidr"), "bad-argument"),
        ({"a": {"cidr": ["10.0.0.0/8", "10.0.0.1/8"]}}, ("a", "cidr", 1), "bad-argument"),
        ({"a": {"not": {"regex": "("}}}, ("a", "not", "regex"), "bad-argument"),
        ({"a": {"wildcard": "\\a", "ignore_case": True}}, ("a", "wildcard"), "bad-argument"),
        ({"a": {"is": None}}, ("a", "is"), "bad-argument"),
        ({"a": {"length": "3"}}, ("a", "length"), "bad-argument"),
        ({"a": {"length": True}}, ("a", "length"), "bad-argument"),
        ({"a": {"length": -1}}, ("a", "length"), "bad-argument"),
        ({"a": {"length": {"gte": 1.5}}}, ("a", "length", "gte"), "bad-argument"),
        ({"a": {"length": {"prefix": 1}}}, ("a", "length", "prefix"), "unknown-operator"),
        ({"a": {"length": {}}}, ("a", "length"), "missing-operator"),
        ({"a": {"length": {"lt": 0}}}, ("a", "length"), "empty-range"),
        ({"a": {"length": {"gt": 2, "lt": 3}}}, ("a", "length"), "empty-range"),
        ({"a": {"length": {"equals": 5, "lt": 3}}}, ("a", "length"), "empty-range"),
        ({"a": {"some": []}}, ("a", "some"), "invalid-condition-block"),
        ({"a": {"some": "x"}}, ("a", "some"), "invalid-condition-block"),
        ({"a": {"some": {"b": {"nope": 1}}}}, ("a", "some", "b", "nope"), "unknown-operator"),
        ({"a": {"some": {"b..": 1}}}, ("a", "some", "b.."), "bad-path"),
        ({"a": {"ignore_case": True}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"gt": 1, "ignore_case": True}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"equals": 1, "ignore_case": True}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"cidr": "::1", "ignore_case": True}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"some": {"b": "x"}, "ignore_case": True}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"prefix": "x", "ignore_case": False}}, ("a", "ignore_case"), "bad-argument"),
        ({"a": {"prefix": "x", "ignore_case": "yes"}}, ("a", "ignore_case"), "bad-argument"),
    ],
)
def test_an_error_has_a_place_and_a_code(source: object, path: tuple[str | int, ...], code: str) -> None:
    assert errors_of(source) == [(path, code)]


def test_all_errors_are_found_at_once() -> None:
    source = {
        "a..": {"prefix": 1, "nope": 2},
        "b": {"gt": "x", "lt": True},
        "any": [{"c": []}, 5],
        "not": {"d": {"exists": False, "gt": "1"}},
    }
    assert errors_of(source) == [
        (("a..",), "bad-path"),
        (("a..", "prefix"), "bad-argument"),
        (("a..", "nope"), "unknown-operator"),
        (("b", "gt"), "bad-argument"),
        (("b", "lt"), "bad-argument"),
        (("any", 0, "c"), "bad-argument"),
        (("any", 1), "invalid-condition-block"),
        (("not", "d", "exists"), "exists-with-others"),
        (("not", "d", "gt"), "bad-argument"),
    ]


@pytest.mark.parametrize(
    "source", [{"a": {"gte": 7, "lte": 7}}, {"a": {"gt": 1, "lt": 2}}, {"a": {"exists": True, "gt": 1}}]
)
def test_other_conditions_are_no_errors(source: object) -> None:
    assert errors_of(source) == []


def test_errors_come_with_hints() -> None:
    assert only_error({"a": {"length": {"gtee": 1}}}).hint == "did you mean 'gte'?"
    near = only_error({"a": {"prefx": "x"}})
    assert "'prefx'" in near.message
    assert "prefix" in near.message
    assert near.hint == "did you mean 'prefix'?"
    assert only_error({"risk": {"score": 5}}).hint == "for a field inside risk write risk.score"
    assert only_error({"any": {"gt": 1}}).hint == r"for a payload field of that name write \any"
    assert "quotes" in only_error({5: 1}).hint


def test_conditions_nested_too_deeply_are_an_error() -> None:
    block: Any = {"a": 1}
    value: Any = "x"
    for _ in range(10_000):
        block = {"not": block}
        value = {"not": value}
    assert [code for _, code in errors_of(block)] == ["too-deep"]
    assert [code for _, code in errors_of({"a": value})] == ["too-deep"]


def test_conditions_nested_up_to_the_limit_are_no_error() -> None:
    block: Any = {"a": 1}
    for _ in range(MAX_DEPTH):
        block = {"not": block}
    assert sound(block).holds({"a": 1})
    assert sound(block).explain({"a": 1})[0].holds


# ------------------------------------------------- the tree against the language, taken literally


@given(reference_evaluator.blocks, reference_evaluator.payloads)
@example({"a": {"prefix": "a", "not": "ab"}}, {"a": ["ab", "a"]})
@example({"a": [{"not": "a"}]}, {"a": []})
@example({"a": {"equals": None}}, {"a": []})
@example({"a.0.b": 1}, {"a": [[{"b": 1}]]})
@example({"a": {"is": "list", "prefix": "a"}}, {"a": [["a"], "b"]})
@example({"a.b": {"length": 2, "equals": "x"}}, {"a": [{"b": ["x"]}, {"b": ["y", "z"]}]})
@example({"a": {"some": {"b": 1, "c": 2}}}, {"a": [[{"b": 1}, {"c": 2}], {"b": 1, "c": 2}]})
@example({"a": {"not": {"any_of": ["A", {"suffix": "B"}]}, "ignore_case": True}}, {"a": ["x", "b"]})
@example({"a": {"not": {"some": {"exists": {"exists": True}}}}}, {"a": [1]})
def test_holds_and_explain_agree_with_the_reference_evaluator(source: Any, payload: Any) -> None:
    block, errors = compile_block(source)
    assert not errors
    expected = reference_evaluator.holds(source, payload)
    assert block.holds(payload) is expected
    assert all(result.holds for result in block.explain(payload)) is expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=2),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["any", "all", "a", "", *ALL_OPERATORS]) | st.integers(), inner, max_size=3
            )
        ),
    ),
    reference_evaluator.payloads,
)
def test_no_source_makes_the_compiler_raise(source: Any, payload: Any) -> None:
    block, errors = compile_block(source)
    assert errors or block.holds(payload) is all(result.holds for result in block.explain(payload))


# --------------------------------------------------------------------------------------- bounds


STRINGS = {"prefix": "aab", "suffix": "baa", "contains": "aab", "wildcard": "*a*a*a*a*b", "regex": "(a+)+b"}
WORST = [
    *({name: argument} for name, argument in STRINGS.items()),
    *({name: argument, "ignore_case": True} for name, argument in STRINGS.items()),
    {"wildcard": "*a?a?a?a?a?b*"},
    {"regex": "(a|a)*(a|aa)+b"},
    {"regex": ".*a.{50}b"},
    {"cidr": "10.0.0.0/8"},
    {"not": {"not": {"not": {"prefix": "b"}}}},
    {"any_of": [{"prefix": "b"}, {"not": "x"}, {"not": {"suffix": "a"}}], "not": ["a", {"wildcard": "*b"}]},
    {"length": {"gt": 5}, "is": "list", "prefix": "b"},
    {"some": {"a": 1}, "prefix": "b"},
    {"some": {"a": {"some": {"a": {"some": {"a": 1}}}}}, "not": "b"},
]


def seconds(block: Block, payload: Any) -> float:
    """The least of a few runs, of this thread alone: what else the machine does is not counted."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        block.holds(payload)
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("condition", WORST, ids=str)
@pytest.mark.parametrize(
    "grown",
    [
        lambda size: "a" * size,
        lambda size: ["a" * 20] * size,
        lambda size: [["a"], [["a"]]] * (size // 2),
        lambda size: [{"a": [{"a": ["a"]}]}] * size,
    ],
    ids=["string", "list", "nested lists", "mappings"],
)
def test_sixteen_times_the_input_takes_about_sixteen_times_the_time(condition: Any, grown: Any) -> None:
    """Were a bound quadratic, it would be 256 times; of what is exponential the first run never ends."""
    block = sound({"v": condition})
    small, large = {"v": grown(4_000)}, {"v": grown(64_000)}
    assert any(seconds(block, large) < 80 * seconds(block, small) + 0.001 for _ in range(3))


def test_a_string_of_a_megabyte_is_tested_at_once() -> None:
    payload = {"v": "a" * 1_000_000}
    for condition in WORST:
        sound({"v": condition}).holds(payload)
        sound({"v": condition}).explain(payload)


def test_ten_thousand_alternatives_for_ten_thousand_elements() -> None:
    """Compared one by one these would be a hundred million steps."""
    elements = {"v": [f"x{number}" for number in range(10_000)]}
    for condition in (
        [f"y{number}" for number in range(10_000)],
        {"any_of": [f"Y{number}" for number in range(10_000)], "ignore_case": True},
        {"cidr": [f"10.{number >> 8}.{number & 255}.0/24" for number in range(10_000)]},
    ):
        assert not sound({"v": condition}).holds(elements)


def test_some_accepts_deeply_nested_payloads() -> None:
    nested: Any = {"k": "x"}
    for _ in range(50_000):
        nested = [nested]
    block = sound({"a": {"some": {"k": "x"}, "not": {"length": 2}}})
    assert block.holds({"a": nested})
    assert block.explain({"a": nested})[0].holds
