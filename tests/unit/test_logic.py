"""What is said of conditions without an event agrees with what they do on events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.condition_compiler import compile_block
from engine.logic import cases, clash, implies
from engine.payload_types import Shape

SCALARS = st.sampled_from(["a", "ab", "b", "B", "", 1, 2, 3.5, True, False, None])
TEXTS = st.sampled_from(["a", "ab", "b", ""])
NUMBERS = st.sampled_from([1, 2, 3, 3.5])
LISTED = st.lists(SCALARS, min_size=1, max_size=3)


def mappings(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "equals": SCALARS,
            "any_of": st.lists(SCALARS | inner, min_size=1, max_size=3),
            **dict.fromkeys(("gt", "gte", "lt", "lte"), NUMBERS),
            **{
                name: TEXTS | st.lists(TEXTS, min_size=1, max_size=2)
                for name in ("prefix", "suffix", "contains")
            },
            "not": SCALARS | inner,
            "is": st.sampled_from(["string", "number", "list"]),
            "ignore_case": st.just(True),
        },
    ).filter(bool)


OPERATORS = st.recursive(st.fixed_dictionaries({"prefix": TEXTS}), mappings, max_leaves=2)
CONDITIONS = (
    SCALARS | LISTED | OPERATORS | mappings(OPERATORS) | st.fixed_dictionaries({"exists": st.booleans()})
)
PATHS = st.sampled_from(["x", "x.y", "z"])
BLOCKS = st.recursive(
    st.dictionaries(PATHS, CONDITIONS, max_size=3),
    lambda inner: st.dictionaries(PATHS, CONDITIONS, max_size=2).flatmap(
        lambda block: st.fixed_dictionaries(
            {key: st.just(value) for key, value in block.items()},
            optional={"any": st.lists(inner, min_size=1, max_size=2), "all": st.lists(inner, min_size=1, max_size=2), "not": inner},
        )
    ),
    max_leaves=3,
)  # fmt: skip
VALUES = SCALARS | st.lists(SCALARS | st.fixed_dictionaries({"y": SCALARS}), max_size=3)
PAYLOADS = st.fixed_dictionaries(
    {}, optional={"x": VALUES | st.fixed_dictionaries({}, optional={"y": VALUES}), "z": VALUES}
)
PLAIN = st.fixed_dictionaries(
    {}, optional={"x": SCALARS | st.fixed_dictionaries({}, optional={"y": SCALARS}), "z": SCALARS}
)


def holds(block: dict[str, Any], payload: dict[str, Any]) -> bool:
    compiled, flaws = compile_block(block)
    assume(not flaws)
    return compiled.holds(payload)


@settings(max_examples=400, deadline=None)
@given(BLOCKS, PAYLOADS, PLAIN)
def test_what_never_holds_never_does(
    block: dict[str, Any], payload: dict[str, Any], plain: dict[str, Any]
) -> None:
    assume(not compile_block(block)[1])
    for sees, single in ((payload, False), (plain, False), (plain, True)):
        ways = cases(block)
        if ways is not None and all(clash(way, lambda _, single=single: single) for way in ways):
            assert not holds(block, sees)


@settings(max_examples=600, deadline=None)
@given(BLOCKS, BLOCKS, PAYLOADS, PLAIN)
def test_what_is_implied_holds(
    narrow: dict[str, Any], wide: dict[str, Any], payload: dict[str, Any], plain: dict[str, Any]
) -> None:
    assume(not compile_block(narrow)[1] and not compile_block(wide)[1])
    ways, denied = cases(narrow), cases(wide, holds=False)
    assume(ways is not None and denied is not None)
    for sees, single in ((payload, False), (plain, False), (plain, True)):
        if implies(ways or [], denied or [], lambda _, single=single: single) and holds(narrow, sees):
            assert holds(wide, sees)


@settings(max_examples=300, deadline=None)
@given(BLOCKS, PAYLOADS)
def test_a_block_taken_apart_means_the_same(block: dict[str, Any], payload: dict[str, Any]) -> None:
    """A block holds where one of its cases comes true, and does not where one of its denials does."""
    expected = holds(block, payload)
    for wanted in (True, False):
        ways = cases(block, holds=wanted)
        assume(ways is not None)
        comes_true = any(
            all(holds({".".join(each.path): dict(each.operators)}, payload) is each.holds for each in way)
            for way in ways or []
        )
        assert comes_true is (expected is wanted)


@pytest.mark.parametrize(
    ("narrow", "wide", "implied"),
    [
        ({"x": "a"}, {"x": ["a", "b"]}, True),
        ({"x": ["a", "c"]}, {"x": ["a", "b"]}, False),
        ({"x": {"gte": 90}}, {"x": {"gt": 70}}, True),
        ({"x": {"gte": 70}}, {"x": {"gt": 70}}, False),
        ({"x": {"gt": 70}}, {"x": {"gte": 70}}, True),
        ({"x": {"lt": 5}}, {"x": {"lte": 5}}, True),
        ({"x": {"lte": 5}}, {"x": {"lt": 5}}, False),
        ({"x": {"prefix": "abc"}}, {"x": {"prefix": ["ab", "q"]}}, True),
        ({"x": {"prefix": "a"}}, {"x": {"prefix": "ab"}}, False),
        ({"x": "abc"}, {"x": {"suffix": "c"}}, True),
        ({"x": 1}, {"x": True}, False),
        ({"x": 1, "z": 2}, {"z": 2}, True),
        ({"x.y": 1}, {"x": {"exists": True}}, True),
        ({"x": {"exists": False}}, {"x.y": {"exists": False}}, True),
        ({"x": "a"}, {"any": [{"x": "b"}, {"x": "a"}]}, True),
        ({"any": [{"x": "a"}, {"x": "b"}]}, {"x": ["a", "b"]}, True),
        ({"x": "a"}, {"not": {"x": {"exists": False}}}, True),
        ({"x": "a"}, {}, True),
        ({}, {"x": "a"}, False),
    ],
)
def test_implication(narrow: dict[str, Any], wide: dict[str, Any], implied: bool) -> None:
    assert implies(cases(narrow) or [], cases(wide, holds=False) or [], lambda _: False) is implied


SCHEMA = {
    "type": "object",
    "properties": {
        "one": {"type": "string"},
        "many": {
            "type": ["array", "null"],
            "items": {"properties": {"k": {"type": "integer"}}, "type": "object"},
        },
        "open": {"type": "object"},
        "any": True,
        "map": {"type": "object", "additionalProperties": {"type": "number"}},
        "by_name": {"type": "object", "patternProperties": {"^x-": {"type": "string"}}},
        "ref": {"$ref": "#/$defs/point"},
        "either": {"anyOf": [{"enum": ["a"]}, {"const": "b"}]},
        "self": {"$ref": "#"},
        "away": {"$ref": "https://example.com/x.json"},
        "nothing": False,
    },
    "$defs": {
        "point": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False}
    },
}


@pytest.mark.parametrize(
    ("path", "types"),
    [
        ("one", {"string"}),
        ("one.x", None),
        ("two", None),
        ("many", {"list", "null"}),
        ("many.k", {"number"}),
        ("many.0", {"object"}),
        ("many.0.k", {"number"}),
        ("many.q", None),
        ("map.whatever", {"number"}),
        ("by_name.x-a", {"string"}),
        ("by_name.a", None),
        ("ref.x", {"number"}),
        ("ref.y", None),
        ("either", {"string"}),
        ("self.self.self.one", {"string"}),
        ("nothing", None),
    ],
)
def test_what_a_schema_says_of_a_path(path: str, types: set[str] | None) -> None:
    found = Shape.of(SCHEMA).at(path.split("."))
    assert (None if found is None else set(found.types)) == types


@pytest.mark.parametrize("path", ["open.x.y", "any.x", "away.x", "any"])
def test_where_a_schema_is_silent_anything_may_stand(path: str) -> None:
    found = Shape.of(SCHEMA).at(path.split("."))
    assert found is not None and len(found.types) == 6


def test_the_values_of_alternatives() -> None:
    shape = Shape.of(SCHEMA)
    either, one = shape.at(["either"]), shape.at(["one"])
    assert either is not None and either.values == ("a", "b")
    assert one is not None and one.values is None
    assert shape.is_single(("one",)) and not shape.is_single(("many", "k")) and not shape.is_single(("any",))
