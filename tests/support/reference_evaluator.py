"""A direct evaluation of conditions, and strategies for blocks and payloads that often match.

``holds`` is the reference for every evaluation in the engine. It is slow and plain, compiles nothing, and shares
no code with the engine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st


def holds(block: Mapping[str, Any], payload: Any) -> bool:
    """Return whether a valid block holds for a payload, or for an element inside ``some``."""
    return all(part_holds(key, value, payload) for key, value in block.items())


def part_holds(key: str, value: Any, payload: Any) -> bool:
    if key == "any":
        return any(holds(inner, payload) for inner in value)
    if key == "all":
        return all(holds(inner, payload) for inner in value)
    if key == "not":
        return not holds(value, payload)
    found = walk(payload, key.split("."))
    if value == {"exists": False}:
        return not found
    return bool(found) and any_satisfies(value, found, ignore_case=False)


def walk(value: Any, steps: list[str]) -> list[Any]:
    """Return the values at a path. A number selects an element of a list, another key descends into all."""
    if not steps:
        return [value]
    if type(value) is dict:
        return walk(value[steps[0]], steps[1:]) if steps[0] in value else []
    if type(value) is list and re.fullmatch("0|[1-9][0-9]*", steps[0]):
        return [f for element in value[int(steps[0]) :][:1] for f in walk(element, steps[1:])]
    return [f for element in value for f in walk(element, steps)] if type(value) is list else []


def leaves(value: Any) -> list[Any]:
    return [leaf for element in value for leaf in leaves(element)] if type(value) is list else [value]


class Nothing:
    """The stand-in for an element of an empty list."""


def any_satisfies(condition: Any, found: list[Any], *, ignore_case: bool) -> bool:
    """Return whether a value, or an element of a value that is a list, satisfies the condition."""
    return any(
        satisfies(condition, value, element, found, ignore_case)
        for value in found
        for element in leaves(value) or [Nothing]
    )


def satisfies(condition: Any, value: Any, element: Any, found: list[Any], ignore_case: bool) -> bool:  # noqa: C901
    if type(condition) is list:
        return any(satisfies(each, value, element, found, ignore_case) for each in condition)
    if type(condition) is not dict:
        return same(condition, element, ignore_case)
    ignore_case = ignore_case or "ignore_case" in condition
    for name, argument in condition.items():
        match name:
            case "ignore_case" | "exists":
                outcome = True
            case "any_of":
                outcome = satisfies(argument, value, element, found, ignore_case)
            case "not":
                outcome = not any_satisfies(argument, found, ignore_case=ignore_case)
            case "is":
                outcome = kind(value) == argument
            case "length":
                sizes = argument if type(argument) is dict else {"equals": argument}
                outcome = type(value) in (str, list) and all(
                    compares(each, bound, len(value)) for each, bound in sizes.items()
                )
            case "some":
                outcome = type(value) is list and any(holds(argument, each) for each in leaves(value))
            case "equals":
                outcome = same(argument, element, ignore_case)
            case "gt" | "gte" | "lt" | "lte":
                outcome = kind(element) == "number" and compares(name, argument, element)
            case _:
                outcome = type(element) is str and text(name, argument, element, ignore_case)
        if not outcome:
            return False
    return True


def kind(value: Any) -> str:
    names = {
        type(None): "null",
        str: "string",
        bool: "boolean",
        list: "list",
        dict: "object",
        int: "number",
        float: "number",
    }
    if type(value) is float and (value != value or abs(value) == float("inf")):
        return "none of them"
    return names.get(type(value), "none of them")


def same(one: Any, other: Any, ignore_case: bool) -> bool:
    if ignore_case and type(one) is str and type(other) is str:
        return one.casefold() == other.casefold()
    return kind(one) == kind(other) in ("null", "string", "boolean", "number") and bool(one == other)


def compares(name: str, bound: Any, value: Any) -> bool:
    return bool(
        {
            "equals": value == bound,
            "gt": value > bound,
            "gte": value >= bound,
            "lt": value < bound,
            "lte": value <= bound,
        }[name]
    )


def text(name: str, argument: Any, value: str, ignore_case: bool) -> bool:
    if name == "regex":
        flags = re.IGNORECASE if ignore_case else 0
        return not has_surrogate(value) and re.fullmatch(argument, value, flags) is not None
    if name == "cidr":
        return any(is_inside(value, each) for each in (argument if type(argument) is list else [argument]))
    wanted = argument if type(argument) is list else [argument]
    if ignore_case:
        value, wanted = value.casefold(), [each.casefold() for each in wanted]
    match name:
        case "prefix":
            return any(value[: len(each)] == each for each in wanted)
        case "suffix":
            return any(value[len(value) - len(each) :] == each for each in wanted if len(each) <= len(value))
        case "contains":
            return any(value[at : at + len(each)] == each for each in wanted for at in range(len(value) + 1))
        case "wildcard":
            return fits(wanted[0], value)
    raise AssertionError(name)


def has_surrogate(value: str) -> bool:
    return any(0xD800 <= ord(char) <= 0xDFFF for char in value)


def fits(pattern: str, value: str) -> bool:
    """Match a wildcard pattern: keep the set of all positions that a prefix of the pattern can reach."""
    places = {0}
    at = 0
    while at < len(pattern):
        char, at = pattern[at], at + 1
        if char == "*":
            places = set(range(min(places), len(value) + 1)) if places else set()
            continue
        if char == "\\":
            char, at = "\\" + pattern[at], at + 1
        places = {p + 1 for p in places if p < len(value) and (char == "?" or value[p] == char[-1])}
    return len(value) in places


def bits(address: str) -> str | None:
    """Return the bits of an address, of an IPv4-mapped one as IPv4; None if it is invalid."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        if len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff":
            packed = packed[12:]
        return "".join(f"{octet:08b}" for octet in packed)
    return None


def is_inside(value: str, network: str) -> bool:
    address = bits(value)
    parsed = ipaddress.ip_network(network)
    first, length = bits(str(parsed.network_address)), parsed.prefixlen
    if address is None or first is None:
        return False
    if len(first) == 32 and parsed.version == 6:
        length -= 96
    return len(address) == len(first) and address[:length] == first[:length]


# ------------------------------------------------------------------------------------ strategies
# Few values, so that they often match, with the difficult ones among them.

numbers = st.sampled_from([0, 1, 1.0, 2, 3, 2**53, 2**53 + 1, float(2**53), 10**400, -3, -0.5])
STRINGS = [
    "",
    "a",
    "ab",
    "b",
    "A",
    "aB",
    "1",
    "aba",
    "abb",
    "ß",
    "ss",
    "SS",
    "é",
    "e\u0301",
    "İ",
    "Σ",
    "ς",
    "*",
    "a\n",
]
strings = st.sampled_from(STRINGS) | st.text("abAß", max_size=4)
ips = st.sampled_from(
    [
        "10.0.0.1",
        "10.1.2.3",
        "010.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:a00:1",
        "::1",
        "2001:db8::1",
        "2001:db8:1::",
        "192.168.0.1",
        "10.0.0.1:80",
        "10.0.0.1/8",
        "fe80::1%1",
        " 10.0.0.1",
        "10.0.0",
        "256.0.0.1",
        "1.2.3.４",
    ]
)
networks = st.sampled_from(
    [
        "10.0.0.0/8",
        "10.0.0.0/31",
        "10.0.0.1",
        "0.0.0.0/0",
        "192.168.0.0/16",
        "::/0",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "::1",
        "::ffff:10.0.0.0/104",
        "::ffff:10.0.0.1",
    ]
)
wildcards = st.lists(
    st.sampled_from(["*", "?", "a", "b", "ab", "A", "ß", "\\*", "\\?", "\\\\"]), max_size=6
).map("".join)
regexes = st.sampled_from(
    [
        "",
        "a",
        "a*b?",
        "[ab]+",
        "(a|b)*a",
        ".*",
        ".+b",
        "A.?",
        "[^a]*",
        "ab|a",
        "(?i)ab",
        "a{1,2}b*",
        "é?e?",
        "[0-9]+",
    ]
)
scalars = st.sampled_from([None, True, False]) | numbers | strings | ips
keys = st.sampled_from(["a", "b", "c", "0", "1"])
values = st.recursive(
    scalars | st.sampled_from([float("inf"), float("nan"), 10**400, "\ud800", [], {}, [[]], [[], "a"]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
payloads = st.dictionaries(keys, values, max_size=3)
paths = st.lists(keys, min_size=1, max_size=3).map(".".join)


def one_or_several(each: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return each | st.lists(each, min_size=1, max_size=3)


def ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Limits that some number satisfies: a lower and an upper one, or one alone."""
    single = st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), bounds).map(lambda pair: dict([pair]))
    double = st.tuples(bounds, bounds, st.sampled_from(["gt", "gte"]), st.sampled_from(["lt", "lte"])).map(
        lambda four: (
            {four[2]: min(four[:2]), four[3]: max(four[:2])} if four[0] != four[1] else {"gte": four[0]}
        )
    )
    return single | double


counts = st.integers(0, 3)
lengths = counts | st.sampled_from(
    [{"gte": 1}, {"lt": 2}, {"gt": 0, "lte": 2}, {"equals": 2}, {"gte": 1, "lt": 3}]
)
TYPES = ["null", "string", "number", "boolean", "list", "object"]


def has_text(condition: Any) -> bool:
    """Return whether case can matter to the condition, else ``ignore_case`` is refused."""
    if type(condition) is dict:
        return any(
            has_text(argument) if name in ("equals", "any_of", "not") else name in TEXTUAL
            for name, argument in condition.items()
        )
    return any(map(has_text, condition)) if type(condition) is list else type(condition) is str


TEXTUAL = {
    "prefix": one_or_several(strings),
    "suffix": one_or_several(strings),
    "contains": one_or_several(strings),
    "wildcard": wildcards,
    "regex": regexes,
}


def operators(
    inner: st.SearchStrategy[Any], block: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of operators, usually few, with ``inner`` in ``not`` and ``any_of``, and ``block`` in ``some``."""
    each: dict[str, st.SearchStrategy[Any]] = {
        **TEXTUAL,
        "equals": scalars,
        "cidr": one_or_several(networks),
        "is": st.sampled_from(TYPES),
        "length": lengths,
        "any_of": st.lists(inner.filter(lambda c: type(c) is not list), min_size=1, max_size=3),
        "not": inner,
        "some": block,
    }
    single = st.sampled_from(sorted(each)).flatmap(
        lambda name: each[name].map(lambda argument: {name: argument})
    )
    mapping = (
        single
        | ranges(numbers)
        | st.tuples(single, single | ranges(numbers)).map(lambda two: {**two[0], **two[1]})
    )
    return st.tuples(mapping, st.booleans()).map(
        lambda both: {**both[0], "ignore_case": True} if both[1] and has_text(both[0]) else both[0]
    )


small_blocks = st.dictionaries(
    keys, scalars | ranges(numbers) | st.just({"exists": False}), min_size=1, max_size=2
)
conditions = st.recursive(
    scalars | st.lists(scalars, min_size=1, max_size=3),
    lambda inner: operators(inner, small_blocks),
    max_leaves=4,
)
at_a_path = (
    conditions
    | st.sampled_from([{"exists": True}, {"exists": False}])
    | operators(conditions, small_blocks).map(lambda mapping: {**mapping, "exists": True})
)
plain_blocks = st.dictionaries(paths, at_a_path, max_size=3)
blocks = st.recursive(
    plain_blocks,
    lambda inner: st.tuples(
        plain_blocks | st.dictionaries(paths, operators(conditions, inner), min_size=1, max_size=1),
        st.fixed_dictionaries(
            {},
            optional={
                "any": st.lists(inner, min_size=1, max_size=3),
                "all": st.lists(inner, min_size=1, max_size=3),
                "not": inner,
            },
        ),
    ).map(lambda both: {**both[0], **both[1]}),
    max_leaves=4,
)
