"""Every operator follows its case file, never raises, and refuses bad arguments with a message."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support import reference_evaluator

from engine.rules.condition_compiler import ALL_OPERATORS, compile_block
from engine.rules.matchers import parse_address, parse_network, wildcard, within
from engine.rules.operators import OPERATORS, describe, is_number

TESTS = Path(__file__).parents[2]
FILES = sorted((TESTS / "cases" / "operators").glob("*.yaml"))
CASES = [
    pytest.param(case, id=f"{file.stem}-{position}-{case['why']}")
    for file in (*FILES, TESTS / "cases" / "semantics.yaml")
    for position, case in enumerate(yaml.safe_load(file.read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize("case", CASES)
def test_a_condition_holds_as_its_case_says(case: dict[str, Any]) -> None:
    block, errors = compile_block(case["when"])
    assert not errors
    assert block.holds(case["payload"]) is case["holds"], case["why"]
    assert all(result.holds for result in block.explain(case["payload"])) is case["holds"], case["why"]


def test_every_operator_has_a_case_file_and_every_case_file_an_operator() -> None:
    assert {file.stem for file in FILES} == set(ALL_OPERATORS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_case_file_is_about_its_operator(file: Path) -> None:
    cases = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert len(cases) >= 10
    assert {case["holds"] for case in cases} == {True, False}
    assert len({case["why"] for case in cases}) == len(cases), "two cases say the same"
    shorthand = {"equals", "any_of"}  # these are also written without their name
    assert file.stem in shorthand or all(f"'{file.stem}'" in str(case["when"]) for case in cases[:10])


def anywhere(tree: Any, wanted: Callable[[Any], bool]) -> bool:
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return wanted(tree) or any(anywhere(each, wanted) for each in inside)


ODD_PAYLOADS: dict[str, Callable[[Any], bool]] = {
    "absent": lambda payload: not payload,
    "null": lambda payload: anywhere(payload, lambda value: value is None),
    "list": lambda payload: anywhere(payload, lambda value: isinstance(value, list)),
    "nested list": lambda payload: anywhere(
        payload, lambda value: isinstance(value, list) and any(isinstance(each, list) for each in value)
    ),
    "Unicode": lambda payload: anywhere(
        payload, lambda value: isinstance(value, str) and not value.isascii()
    ),
    "large integer": lambda payload: anywhere(
        payload, lambda value: isinstance(value, int) and abs(value) > 2**53
    ),
}


@pytest.mark.parametrize("kind", ODD_PAYLOADS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_case_file_has_odd_payloads(file: Path, kind: str) -> None:
    cases = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert any(ODD_PAYLOADS[kind](case["payload"]) for case in cases), f"{file.stem}: none is {kind}"


def test_the_schema_knows_the_same_operators() -> None:
    schema = json.loads((TESTS.parent / "schemas" / "policy.schema.json").read_text(encoding="utf-8"))
    assert set(schema["$defs"]["operators"]["properties"]) == set(ALL_OPERATORS)


@pytest.mark.parametrize("name", ALL_OPERATORS)
def test_an_operator_has_a_section_in_the_reference(name: str) -> None:
    page = (TESTS.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("### ")]
    assert any(f"`{name}`" in line for line in headings), f"docs/rules.md has no section on {name}"
    bounds = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
    assert len(bounds) >= 2, f"docs/rules.md has {name} not in both of its tables"


@pytest.mark.parametrize("name", ALL_OPERATORS)
def test_an_operator_is_described(name: str) -> None:
    assert ALL_OPERATORS[name]


ARGUMENTS: dict[str, list[Any]] = {
    "equals": ["", "a", 0, 1.5, True, None],
    "gt": [0, -1.5, 2**70],
    "gte": [0, -1.5, 2**70],
    "lt": [0, -1.5, 2**70],
    "lte": [0, -1.5, 2**70],
    "prefix": ["", "a", ["a", ""]],
    "suffix": ["", "a", ["a", ""]],
    "contains": ["", "a", ["a", ""]],
    "wildcard": ["", "*", "a*?b*", r"\*"],
    "regex": ["", ".*", "(a|b)+"],
    "cidr": ["10.0.0.0/8", ["::/0", "0.0.0.0/0", "10.1.2.3"]],
    "is": ["null", "string", "number", "boolean", "list", "object"],
}
PREDICATES = [
    compile_(argument)
    for name in ARGUMENTS
    for argument in ARGUMENTS[name]
    for compile_ in (OPERATORS[name].compile, OPERATORS[name].folded)
    if compile_ is not None
]
ODD = [
    *(None, True, False, 0, -1, 1, 2**53 + 1, 10**400, 0.5, -0.0, float("inf"), float("-inf"), float("nan")),
    *("", "a", "70", "\ud800", "\0", [], [1], {}, {"a": 1}, b"a", object(), (1,), {1}),
]


@pytest.mark.parametrize("name", OPERATORS)
def test_a_predicate_returns_true_or_false_for_every_value(name: str) -> None:
    for argument in ARGUMENTS[name]:  # an operator without an entry there fails here
        predicate = OPERATORS[name].compile(argument)
        for value in ODD:
            assert predicate(value) in (True, False)
            if isinstance(value, list | dict) and not OPERATORS[name].tests_whole_value:
                assert predicate(value) is False


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20
    )
)
def test_no_predicate_raises(value: Any) -> None:
    for predicate in PREDICATES:
        assert predicate(value) in (True, False)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("equals", ["a"], "equals takes a string, a number, true, false or null, not a list"),
        ("equals", ["a"], "; any_of takes several values"),
        ("equals", {}, "not an empty mapping"),
        ("equals", float("nan"), "not the number nan"),
        ("equals", float("inf"), "not the number inf"),
        ("gt", "70", "gt takes a number, not the string '70': remove the quotes"),
        ("gt", "seventy", "not the string 'seventy'$"),
        ("gte", True, "gte takes a number, not true"),
        ("lt", None, "lt takes a number, not null"),
        ("lte", [1], "lte takes a number, not a list"),
        ("gt", float("nan"), "gt takes a number, not the number nan"),
        ("prefix", 5, "prefix takes a string or a list of strings, not the number 5"),
        ("prefix", [], "prefix has an empty list"),
        ("prefix", ["a", None], "not null"),
        ("suffix", {"a": 1}, "suffix takes a string or a list of strings, not a mapping"),
        ("suffix", [["a"]], "not a list"),
        ("contains", 5, "contains takes a string or a list of strings, not the number 5"),
        ("contains", [], "contains has an empty list"),
        (
            "wildcard",
            ["a*"],
            r"wildcard takes one pattern, a string, not a list; for several patterns write any_of",
        ),
        ("wildcard", 5, "wildcard takes one pattern, a string, not the number 5$"),
        ("wildcard", "a\\b", "a backslash must be followed by"),
        ("wildcard", "a\\", "a backslash must be followed by"),
        ("wildcard", "a" * 1001, "a pattern of 1,001 characters; at most 1,000"),
        ("regex", None, "regex takes one pattern, a string, not null"),
        ("regex", "(", r"regex '\(': missing \): \("),
        ("regex", "(?=a)", "there is no look-ahead or look-behind"),
        ("regex", r"(a)\1", "there are no back-references"),
        ("regex", "a{1001}", "invalid repetition size"),
        ("regex", r"\pL{100}", "is too large: .* instructions, at most 2,000"),
        ("regex", "a" * 1001, "a pattern of 1,001 characters; at most 1,000"),
        ("regex", "\ud800", "half a surrogate pair"),
        ("cidr", "10.0.0.1/8", "has bits set after the first 8: did you mean 10.0.0.0/8?"),
        ("cidr", "::ffff:10.0.0.1/104", "has bits set after the first 8: did you mean 10.0.0.0/8?"),
        ("cidr", "2001:db8::1/32", "did you mean 2001:db8::/32?"),
        ("cidr", "10.0.0.0/33", "the slash is followed by a number of bits from 0 to 32"),
        ("cidr", "::/129", "from 0 to 128"),
        ("cidr", "10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("cidr", "10.0.0.0/08", "from 0 to 32"),
        ("cidr", "10.0.0.0/", "from 0 to 32"),
        ("cidr", "10.0.0/8", "is no network"),
        ("cidr", "010.0.0.0/8", "is no network"),
        ("cidr", "::ffff:0.0.0.0/90", "contains IPv4 and other addresses"),
        ("cidr", "", "is no network"),
        ("cidr", [], "cidr has an empty list"),
        ("cidr", 10, "cidr takes a string or a list of strings, not the number 10"),
        ("is", None, '"null" in quotes'),
        ("is", "integer", "is takes one of null, string, number, boolean, list, object, not the string"),
        ("is", ["string"], "not a list"),
    ],
)
def test_a_bad_argument_is_refused_with_a_message(name: str, argument: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPERATORS[name].compile(argument)


@given(
    st.text(alphabet="0123456789abcdefABCDEFx.:%/ \n٣", max_size=20)
    | st.ip_addresses().map(str)
    | reference_evaluator.ips
)
def test_addresses_are_parsed_like_inet_pton(text: str) -> None:
    address = parse_address(text)
    bits = reference_evaluator.bits(text)
    assert (address is None) is (bits is None)
    if address and bits:
        assert (address[0], address[1]) == (4 if len(bits) == 32 else 6, int(bits, 2))


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_networks_contain_the_same_addresses_as_in_the_standard_library(
    first: Any, bits: int, other: Any
) -> None:
    network = ipaddress.ip_network((first, min(bits, first.max_prefixlen)), strict=False)
    assume(network.version == 4 or not network.network_address.ipv4_mapped)  # refused, or IPv4
    inside = within([parse_network(str(network))])
    meant = getattr(other, "ipv4_mapped", None) or other  # the library keeps the two apart
    assert inside(str(other)) is (meant in network)
    assert inside(str(network[0]))


@given(
    reference_evaluator.wildcards | st.text("ab*?", max_size=12),
    reference_evaluator.strings | st.text("ab", max_size=12),
)
@example("*a*a*a*a*b", "a" * 300)
def test_wildcards_match_like_the_reference_evaluator(pattern: str, text: str) -> None:
    assert wildcard(pattern)(text) is reference_evaluator.fits(pattern, text)


def test_a_predicate_does_not_change_with_its_argument() -> None:
    argument = ["a"]
    predicate = OPERATORS["prefix"].compile(argument)
    argument.append("b")
    assert predicate("ab")
    assert not predicate("ba")


def test_booleans_and_infinities_are_no_numbers() -> None:
    assert all(map(is_number, (0, -1, 2**70, 0.5)))
    assert not any(map(is_number, (True, None, "1", float("inf"), float("nan"), [], {})))


def test_values_are_named_in_messages() -> None:
    names = [describe(value) for value in (None, True, "a", 1, 1.5, 10**5000, [], [1], {}, {"a": 1}, b"")]
    assert names == [
        *("null", "true", "the string 'a'", "the number 1", "the number 1.5", "a very large number"),
        *("an empty list", "a list", "an empty mapping", "a mapping", "a bytes"),
    ]
