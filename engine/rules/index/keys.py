"""The keys that a rule requires of a payload: the rule can match only if one of them is present.

The keys may require less than the condition, never more. The index finds a rule by its keys; the remaining
tests follow. A condition without known keys requires nothing and is always tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..conditions import Block, Combination, Condition
from ..matchers import Network, parse_network
from ..operators import IGNORE_CASE, NUMERIC, is_number, is_scalar
from ..paths import ALL, ANY, FieldPath

EXACT = "exact"  # equal; a boolean is a 1-tuple because True == 1 in Python
FOLDED = "folded"  # equal after both are case-folded
PREFIX, SUFFIX = "prefix", "suffix"
FOLDED_PREFIX, FOLDED_SUFFIX = "folded-prefix", "folded-suffix"
NETWORK = "network"  # (version, number of free bits, the address without these)
RANGE = "range"  # (lower bound, inclusive, upper bound, inclusive); None is no bound
PART = "part"  # anywhere in the string

Slot = tuple[FieldPath, str]  # the path and the kind of look-up
Key = tuple[Slot, Any]
ValueRange = tuple[Any, bool, Any, bool]  # as of RANGE

MIN_PART_LENGTH = 4  # characters; too many strings contain a shorter part
_TOKEN = re.compile(r"\\(.)|([*?])|([^\\*?]+)|(\\)", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class RequiredKeys:
    """A requirement of a rule: one of ``keys`` or one of ``alternatives`` must fit the payload."""

    keys: tuple[Key, ...]
    alternatives: tuple[tuple[RequiredKeys, ...], ...] = ()  # all of an alternative must be met
    exact_condition: Condition | None = None  # holds exactly when one of ``keys`` fits

    def all_keys(self) -> tuple[Key, ...]:
        if not self.alternatives:
            return self.keys
        inside = (key for each in self.alternatives for required in each for key in required.all_keys())
        return (*self.keys, *inside)


def parts_of(block: Block) -> Iterator[Condition | Combination]:
    """Yield the parts that must all hold; ``all`` is replaced by its parts."""
    for part in block.parts:
        if isinstance(part, Combination) and part.operator == ALL and part.blocks:
            for inner in part.blocks:
                yield from parts_of(inner)
        else:
            yield part


def required_keys_of(part: Condition | Combination) -> tuple[RequiredKeys, ...]:
    """Return requirements that every payload meets for which ``part`` holds."""
    if isinstance(part, Condition):
        return tuple(_of_operators(part.path, part.operators, part))
    if part.operator != ANY or not part.blocks:
        return ()
    alternatives = []
    for block in part.blocks:
        inside = tuple(required for each in parts_of(block) for required in required_keys_of(each))
        if not inside:
            return ()
        alternatives.append(inside)
    return (RequiredKeys((), tuple(alternatives)),)


def _of_operators(
    path: FieldPath, operators: Mapping[str, Any], whole: Condition | None
) -> Iterator[RequiredKeys]:
    """``whole`` is the condition if it consists of ``operators`` alone."""
    if operators.get("exists") is False:
        return
    ignore_case = operators.get(IGNORE_CASE, False) is not False
    names = [name for name in operators if name != IGNORE_CASE]
    bounds = {name: operators[name] for name in NUMERIC if name in operators}
    if bounds and all(map(is_number, bounds.values())):
        exact_condition = whole if len(bounds) == len(names) else None
        yield RequiredKeys((((path, RANGE), _interval(bounds)),), exact_condition=exact_condition)
    for name in names:
        argument = operators[name]
        if name == "any_of":
            yield from _of_any_of(path, argument, ignore_case, whole if len(names) == 1 else None)
        elif (read := _READERS.get(name)) is not None:
            given = argument if isinstance(argument, list) and name != "equals" else [argument]
            for keys, exact in read(path, given, ignore_case):
                yield RequiredKeys(keys, exact_condition=whole if exact and len(names) == 1 else None)


def _of_any_of(
    path: FieldPath, argument: object, ignore_case: bool, whole: Condition | None
) -> Iterator[RequiredKeys]:
    if not isinstance(argument, list):
        return
    scalars = [item for item in argument if is_scalar(item)]
    alternatives = []
    for item in argument:
        if isinstance(item, Mapping):
            # ``ignore_case`` also applies inside: a folded key fits then as well.
            inside = {**item, IGNORE_CASE: True} if ignore_case else item
            required = tuple(_of_operators(path, inside, None))
            if not required:
                return
            alternatives.append(required)
    if len(scalars) + len(alternatives) == len(argument) > 0:
        keys = tuple(_equal(path, scalar, ignore_case) for scalar in scalars)
        yield RequiredKeys(keys, tuple(alternatives), exact_condition=None if alternatives else whole)


def _interval(bounds: Mapping[str, Any]) -> ValueRange:
    # Of two equal bounds the exclusive one counts.
    lower = [(bounds[name], name == "gt") for name in ("gt", "gte") if name in bounds]
    upper = [(bounds[name], name == "lte") for name in ("lt", "lte") if name in bounds]
    least, exclusive = max(lower, default=(None, False))
    return least, not exclusive, *min(upper, default=(None, True))


def _equal(path: FieldPath, scalar: object, ignore_case: bool) -> Key:
    if ignore_case and isinstance(scalar, str):
        return (path, FOLDED), scalar.casefold()
    return (path, EXACT), (scalar,) if isinstance(scalar, bool) else scalar


# A reader yields sets of keys for the arguments of an operator, each sufficient by itself, and whether a
# value that fits one of the keys is certain to pass the operator.
_Reading = Iterator[tuple[tuple[Key, ...], bool]]


def _read_equals(path: FieldPath, given: list[Any], ignore_case: bool) -> _Reading:
    if all(map(is_scalar, given)):
        yield tuple(_equal(path, scalar, ignore_case) for scalar in given), True


def _read_strings(kind: str, folded: str) -> Callable[[FieldPath, list[Any], bool], _Reading]:
    def read(path: FieldPath, given: list[Any], ignore_case: bool) -> _Reading:
        if given and all(isinstance(text, str) for text in given):
            if ignore_case:
                yield tuple(((path, folded), text.casefold()) for text in given), True
            else:
                yield tuple(((path, kind), text) for text in given), True

    return read


def _read_contains(path: FieldPath, given: list[Any], ignore_case: bool) -> _Reading:
    if ignore_case or not given:
        return
    if all(isinstance(text, str) and len(text) >= MIN_PART_LENGTH for text in given):
        yield tuple(((path, PART), text) for text in given), False


def _read_wildcard(path: FieldPath, given: list[Any], ignore_case: bool) -> _Reading:
    """Yield the literal heads, the literal tails, and the longest literals of the patterns."""
    if not given or not all(isinstance(text, str) for text in given):
        return
    literals = [_literals(text) for text in given]
    heads, tails = [each[0] for each in literals], [each[-1] for each in literals]
    if all(len(each) == 1 for each in literals):
        yield tuple(_equal(path, text, ignore_case) for text in heads), True
        return
    if all(heads):
        yield next(_read_strings(PREFIX, FOLDED_PREFIX)(path, heads, ignore_case))[0], False
    if all(tails):
        yield next(_read_strings(SUFFIX, FOLDED_SUFFIX)(path, tails, ignore_case))[0], False
    yield from _read_contains(path, [max(each, key=len) for each in literals], ignore_case)


def _literals(pattern: str) -> list[str]:
    """Return the texts between the wildcards of a pattern; the first and the last may be empty."""
    texts = [""]
    for escaped, wild, plain, backslash in _TOKEN.findall(pattern):
        if wild:
            texts.append("")
        else:
            texts[-1] += escaped or plain or backslash
    return texts


def _read_cidr(path: FieldPath, given: list[Any], _: bool) -> _Reading:
    try:
        networks = [parse_network(text) for text in given if isinstance(text, str)]
    except ValueError:
        return
    if given and len(networks) == len(given):
        yield tuple(((path, NETWORK), _network(each)) for each in networks), True


def _network(network: Network) -> tuple[int, int, int]:
    free = (32 if network.version == 4 else 128) - network.bits
    return network.version, free, network.number >> free


_READERS: dict[str, Callable[[FieldPath, list[Any], bool], _Reading]] = {
    "equals": _read_equals,
    "prefix": _read_strings(PREFIX, FOLDED_PREFIX),
    "suffix": _read_strings(SUFFIX, FOLDED_SUFFIX),
    "contains": _read_contains,
    "wildcard": _read_wildcard,
    "cidr": _read_cidr,
}
