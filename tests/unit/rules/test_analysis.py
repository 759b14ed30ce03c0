"""What is said of conditions without an event agrees with what they do on events."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.rules.analysis import cases, clash, implies
from engine.rules.condition_compiler import compile_block
from engine.rules.conditions import Block
from engine.rules.payload_schema import Shape

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
SMALL = st.dictionaries(PATHS, CONDITIONS, min_size=1, max_size=2)  # of which one often implies another
MANY = settings.default.max_examples

# Drawing takes far longer than asking: each block is asked about all of these.
VALUES = ["a", "ab", "Ab", "b", "B", "", 1, 2, 3, 3.5, True, False, None]
LISTS = [
    [],
    ["a"],
    ["a", "b"],
    ["B", 2],
    [1, 3.5],
    [None, True, ""],
    [{"y": "a"}, {"y": 2}],
    [["ab"], "b"],
    [{}],
]
ABSENT = object()
PLAIN = [
    {name: value for name, value in (("x", x), ("z", z)) if value is not ABSENT}
    for x in (ABSENT, {}, *VALUES, *({"y": value} for value in VALUES))
    for z in (ABSENT, *VALUES)
]
PAYLOADS = PLAIN + [
    {name: value for name, value in (("x", x), ("z", z)) if value is not ABSENT}
    for x in (*LISTS, *({"y": value} for value in LISTS))
    for z in (ABSENT, "a", 1, *LISTS)
]


def compiled(block: dict[str, Any]) -> Block:
    made, errors = compile_block(block)
    assume(not errors)
    return made


# One path, every pair of these: here drawing at random would seldom meet what matters.
SIMPLE: list[Any] = [
    *("a", "ab", "b", 1, 2, 3.5, True, None, ["a", "b"], ["a", 1], [1, 2, 3], ["a", {"prefix": "b"}]),
    *({name: bound} for name in ("gt", "gte", "lt", "lte") for bound in (1, 2, 3)),
    *({"gte": 1, "lt": 3}, {"gt": 1, "lte": 3}, {"gt": 1, "not": 2}, {"gte": 2, "lte": 2}),
    *({name: text} for name in ("prefix", "suffix", "contains") for text in ("a", "ab", ["a", "b"], ["ab", "b"])),
    *({"prefix": "a", "suffix": "b"}, {"prefix": "a", "not": "ab"}, {"prefix": "a", "not": {"suffix": "b"}}),
    *({"not": "a"}, {"not": ["a", "b"]}, {"not": {"prefix": "a"}}, {"not": {"gt": 2}}, {"not": {"not": "a"}}),
    *({"is": "string"}, {"is": "number"}, {"is": "list"}, {"is": ["string", "null"]}, {"exists": True}),
    *({"exists": False}, {"length": 1}, {"length": {"gte": 1}}, {"some": {"y": "a"}}, {"wildcard": "a*"}),
    *({"equals": "B", "ignore_case": True}, {"prefix": "a", "ignore_case": True}, {"contains": "B", "ignore_case": True}),
    *({"any_of": ["B", "a"], "ignore_case": True}, {"any_of": [{"gt": 2}, {"prefix": "a"}]}, {"regex": "a.*"}),
]  # fmt: skip


@pytest.mark.parametrize(("payloads", "single"), [(PAYLOADS, False), (PLAIN, True)], ids=["any", "single"])
def test_the_analysis_of_two_conditions_agrees_with_their_results(payloads: list[Any], single: bool) -> None:
    made = [compile_block({"x": each})[0] for each in SIMPLE]
    satisfied = [{at for at, payload in enumerate(payloads) if block.holds(payload)} for block in made]
    ways = [cases({"x": each}) or [] for each in SIMPLE]
    denied = [cases({"x": each}, holds=False) or [] for each in SIMPLE]
    found = 0
    for one, other in product(range(len(SIMPLE)), repeat=2):
        shown = SIMPLE[one], SIMPLE[other]
        if implies(ways[one], denied[other], lambda _: single):
            found += satisfied[one] <= satisfied[other]
            assert satisfied[one] <= satisfied[other], shown
        both = [(*mine, *others) for mine in ways[one] for others in ways[other]]
        if all(clash(case, lambda _: single) for case in both):
            assert not satisfied[one] & satisfied[other], shown
    assert found > 2 * len(SIMPLE)  # beside each and itself


@settings(max_examples=MANY // 4)
@given(BLOCKS)
def test_an_impossible_block_holds_for_no_payload(block: dict[str, Any]) -> None:
    made, ways = compiled(block), cases(block)
    for payloads, single in ((PAYLOADS, False), (PLAIN, True)):
        if ways is not None and all(clash(way, lambda _, single=single: single) for way in ways):
            assert not any(map(made.holds, payloads))


@settings(max_examples=MANY // 4)
@given(st.tuples(SMALL, SMALL) | st.tuples(BLOCKS, BLOCKS))
def test_an_implied_block_holds_wherever_the_other_does(
    blocks: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    narrow, wide = blocks
    less, more = compiled(narrow), compiled(wide)
    ways, denied = cases(narrow), cases(wide, holds=False)
    assume(ways is not None and denied is not None)
    for payloads, single in ((PAYLOADS, False), (PLAIN, True)):
        if implies(ways or [], denied or [], lambda _, single=single: single):
            assert all(more.holds(payload) for payload in payloads if less.holds(payload))


@settings(max_examples=MANY // 8)
@given(BLOCKS)
def test_the_cases_of_a_block_mean_the_same_as_the_block(block: dict[str, Any]) -> None:
    """A block holds where one of its cases comes true, and does not where one of its denials does."""
    made = compiled(block)
    for wanted in (True, False):
        ways = cases(block, holds=wanted)
        assume(ways is not None)
        parts = [
            [(compiled({".".join(each.path): dict(each.operators)}), each.holds) for each in way]
            for way in ways or []
        ]
        for payload in PAYLOADS:
            comes_true = any(all(part.holds(payload) is holds for part, holds in way) for way in parts)
            assert comes_true is (made.holds(payload) is wanted)


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
def test_one_block_implies_another(narrow: dict[str, Any], wide: dict[str, Any], implied: bool) -> None:
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
def test_a_schema_gives_the_types_at_a_path(path: str, types: set[str] | None) -> None:
    found = Shape.of(SCHEMA).at(path.split("."))
    assert (None if found is None else set(found.types)) == types


@pytest.mark.parametrize("path", ["open.x.y", "any.x", "away.x", "any"])
def test_any_value_is_possible_if_the_schema_says_nothing(path: str) -> None:
    found = Shape.of(SCHEMA).at(path.split("."))
    assert found is not None and len(found.types) == 6


def test_the_values_of_alternatives_are_joined() -> None:
    shape = Shape.of(SCHEMA)
    either, one = shape.at(["either"]), shape.at(["one"])
    assert either is not None and either.values == ("a", "b")
    assert one is not None and one.values is None
    assert shape.is_single(("one",)) and not shape.is_single(("many", "k")) and not shape.is_single(("any",))
