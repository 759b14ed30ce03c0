"""The keys that a rule requires of a payload: one of them must be present for the rule to match.

The keys may demand less than the condition, never more: a rule is found by them and then tested for the
rest. A condition without a known key demands nothing, and is always tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..conditions import Block, Combination, Condition
from ..matchers import Network, parse_network
from ..operators import is_number, is_scalar
from ..paths import ALL, ANY, FieldPath

EXACT = "exact"  # equal to; a boolean as a 1-tuple, since to Python True is 1
FOLDED = "folded"  # equal to, both case-folded
PREFIX, SUFFIX = "prefix", "suffix"
FOLDED_PREFIX, FOLDED_SUFFIX = "folded-prefix", "folded-suffix"
NETWORK = "network"  # (version, how many bits are free, the address without those)
RANGE = "range"  # (least, whether itself, most, whether itself); None is no bound
PART = "part"  # somewhere inside the string

Slot = tuple[FieldPath, str]  # where to look and how
Key = tuple[Slot, Any]
PayloadTest = Callable[[Mapping[str, Any]], bool]

MIN_PART_LENGTH = 4  # characters; of shorter ones too many strings have them somewhere
_RANGE = ("gt", "gte", "lt", "lte")
_TOKEN = re.compile(r"\\(.)|([*?])|([^\\*?]+)|(\\)", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class RequiredKeys:
    """The rule holds only where one of the ``keys`` fits or one of the ``choices`` does."""

    keys: tuple[Key, ...]
    alternatives: tuple[tuple[RequiredKeys, ...], ...] = ()  # of each, every demand is met where it holds
    exact_condition: Condition | None = None  # the condition that is this demand and nothing more

    def all_keys(self) -> tuple[Key, ...]:
        if not self.alternatives:
            return self.keys
        inside = (key for choice in self.alternatives for demand in choice for key in demand.all_keys())
        return (*self.keys, *inside)


def parts_of(block: Block) -> Iterator[Condition | Combination]:
    """What all must hold for the block to hold; ``all`` dissolves into its parts."""
    for part in block.parts:
        if isinstance(part, Combination) and part.operator == ALL and part.blocks:
            for inner in part.blocks:
                yield from parts_of(inner)
        else:
            yield part


def required_keys_of(part: Condition | Combination) -> tuple[RequiredKeys, ...]:
    """Each of these is met by every payload for which ``part`` holds."""
    if isinstance(part, Condition):
        return tuple(_of_operators(part.path, part.operators, part))
    if part.operator != ANY or not part.blocks:
        return ()
    choices = []
    for block in part.blocks:
        inside = tuple(demand for each in parts_of(block) for demand in required_keys_of(each))
        if not inside:
            return ()
        choices.append(inside)
    return (RequiredKeys((), tuple(choices)),)


def _of_operators(
    path: FieldPath, operators: Mapping[str, Any], whole: Condition | None
) -> Iterator[RequiredKeys]:
    """``whole`` is the condition where ``operators`` are all that it asks."""
    if operators.get("exists") is False:
        return
    ignore_case = operators.get("ignore_case", False) is not False
    asked = [name for name in operators if name != "ignore_case"]
    if any(name in _RANGE for name in asked):
        bounds = {name: operators[name] for name in _RANGE if name in operators}
        if all(map(is_number, bounds.values())):
            yield RequiredKeys(
                (((path, RANGE), _interval(bounds)),),
                exact_condition=whole if len(bounds) == len(asked) else None,
            )
    for name in asked:
        argument = operators[name]
        if name == "any_of":
            yield from _of_any_of(path, argument, ignore_case, whole if len(asked) == 1 else None)
        elif (read := _READERS.get(name)) is not None:
            given = argument if isinstance(argument, list) and name != "equals" else [argument]
            for keys, precise in read(path, given, ignore_case):
                yield RequiredKeys(keys, exact_condition=whole if precise and len(asked) == 1 else None)


def _of_any_of(
    path: FieldPath, argument: object, ignore_case: bool, whole: Condition | None
) -> Iterator[RequiredKeys]:
    if not isinstance(argument, list):
        return
    scalars = [item for item in argument if is_scalar(item)]
    choices = []
    for item in argument:
        if isinstance(item, Mapping):
            # Case folding of the whole may reach inside: a folded key fits then as well.
            inside = {**item, "ignore_case": True} if ignore_case else item
            demands = tuple(_of_operators(path, inside, None))
            if not demands:
                return
            choices.append(demands)
    if len(scalars) + len(choices) == len(argument) > 0:
        keys = tuple(_equal(path, scalar, ignore_case) for scalar in scalars)
        yield RequiredKeys(keys, tuple(choices), exact_condition=None if choices else whole)


def _interval(bounds: Mapping[str, int | float]) -> tuple[Any, bool, Any, bool]:
    least: tuple[Any, bool] = (None, True)
    most: tuple[Any, bool] = (None, True)
    for name, closed in (("gte", True), ("gt", False)):
        if name in bounds and (least[0] is None or bounds[name] >= least[0]):
            least = (bounds[name], closed)
    for name, closed in (("lte", True), ("lt", False)):
        if name in bounds and (most[0] is None or bounds[name] <= most[0]):
            most = (bounds[name], closed)
    return (*least, *most)


def _equal(path: FieldPath, scalar: object, ignore_case: bool) -> Key:
    if ignore_case and isinstance(scalar, str):
        return (path, FOLDED), scalar.casefold()
    return (path, EXACT), (scalar,) if isinstance(scalar, bool) else scalar


# A reader says which keys an operator's arguments have, each set by itself enough, and whether a
# value that fits one of them satisfies the operator for certain.
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
    """The literal head, the literal tail, and the longest literal of the patterns."""
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
    """The texts between the wildcards of a pattern, the first and the last possibly empty."""
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
