"""The index returns the same rules as a test of every rule, and looks at few of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference_evaluator

from engine.model.subjects import Pattern, parse_pattern
from engine.rules.condition_compiler import compile_block
from engine.rules.conditions import Block
from engine.rules.index import keys, rule_index, tables
from engine.rules.index.rule_index import RuleIndex
from engine.rules.index.subject_trie import SubjectIndex

Written = tuple[list[Pattern], Any]
MANY = settings.default.max_examples // 3  # where an example is a policy and takes long to draw

tokens = st.sampled_from(["notice", "audit", "a", "b", "c"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda first, last: Pattern((*first, *last)),
    st.lists(tokens | st.just("*"), max_size=2),
    tokens.map(lambda t: (t,)) | st.sampled_from([("*",), (">",), (">",)]),
)

# Few paths, few values: so that rules share keys and events meet them.
texts = st.sampled_from(["", "a", "A", "ab", "abc", "abcdef", "bcdefg", "a*", "straße", "STRASSE", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "1", "x.y"])  # fmt: skip
numbers = st.sampled_from([0, 1, 1.0, 2, 2.5, 3, -1, 2**53, 2**53 + 1, 10**400, 1e300])
scalars = texts | numbers | st.booleans() | st.none()
values = st.recursive(
    scalars | st.sampled_from([float("nan"), float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "k", "0"]), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
payloads = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), values, max_size=4)
paths = st.sampled_from(["a", "b", "c", "a.a", "a.k", "a.k.a", "b.0", "b.k", "c.a", "d"])

one_or_more = st.one_of(texts, st.lists(texts, min_size=1, max_size=3))
networks = st.sampled_from(["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::/0", "::ffff:10.0.0.0/104"])  # fmt: skip
operators = st.one_of(
    st.fixed_dictionaries({"equals": scalars}),
    st.fixed_dictionaries({"equals": texts, "ignore_case": st.just(True)}),
    st.fixed_dictionaries({"any_of": st.lists(texts, min_size=1, max_size=3), "ignore_case": st.just(True)}),
    st.fixed_dictionaries({}, optional={"gt": numbers, "gte": numbers, "lt": numbers, "lte": numbers}),
    *(
        st.fixed_dictionaries({name: one_or_more}, optional={"ignore_case": st.just(True)})
        for name in ("prefix", "suffix", "contains")
    ),
    st.fixed_dictionaries({"prefix": texts, "suffix": texts}, optional={"gt": numbers}),
    st.fixed_dictionaries({"wildcard": st.sampled_from(["*", "a*", "*c", "a*c", "*bcde*", "?b*", "ab", r"a\*", "*a*"])}, optional={"ignore_case": st.just(True)}),
    st.fixed_dictionaries({"regex": st.sampled_from(["a.*", "[ab]+", ""])}),
    st.fixed_dictionaries({"cidr": networks | st.lists(networks, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.fixed_dictionaries({"is": st.sampled_from(["null", "string", "number", "boolean", "list", "object"])}),
    st.fixed_dictionaries({"length": st.fixed_dictionaries({"gte": st.integers(0, 3)})}),
    st.fixed_dictionaries({"some": st.fixed_dictionaries({"k": scalars})}),
)  # fmt: skip
conditions = st.one_of(
    scalars,
    st.lists(scalars | operators, min_size=1, max_size=3),
    operators,
    operators,
    st.fixed_dictionaries({"not": scalars | operators}),
)
blocks = st.recursive(
    st.dictionaries(paths, conditions, max_size=3),
    lambda inner: st.builds(
        lambda block, more: {**block, **more},
        inner,
        st.fixed_dictionaries(
            {}, optional={"any": st.lists(inner, min_size=1, max_size=3), "all": st.lists(inner, min_size=1, max_size=2), "not": inner}
        ),
    ),
    max_leaves=4,
)  # fmt: skip


def compiled(source: Any) -> Block | None:
    block, errors = compile_block(source)
    return None if errors else block


policies = st.lists(
    st.tuples(
        st.lists(patterns, min_size=1, max_size=2), blocks.map(compiled).filter(lambda b: b is not None)
    ),
    max_size=12,
)


def plain(rules: list[Written], subject: str, payload: Mapping[str, Any]) -> list[int]:
    return [
        n
        for n, (each, block) in enumerate(rules)
        if any(pattern.matches(subject) for pattern in each) and block.holds(payload)
    ]


def entries(rules: list[Written]) -> list[tuple[list[Pattern], Block, int]]:
    return [(each, block, n) for n, (each, block) in enumerate(rules)]


def ways(rules: list[Written]) -> list[RuleIndex[int]]:
    """Build the index as for few rules, as for many, and with every bucket split as far as possible."""
    return [
        RuleIndex(entries(rules)),
        RuleIndex(entries(rules), plain_up_to=0),
        RuleIndex(entries(rules), plain_up_to=0, split_above=1, frugal=False),
    ]


@settings(max_examples=MANY)
@given(policies, st.lists(st.tuples(subjects, payloads), min_size=1, max_size=6))
def test_the_index_and_plain_evaluation_agree(
    rules: list[Written], events: list[tuple[str, dict[str, Any]]]
) -> None:
    for built in ways(rules):
        for subject, payload in events:
            assert built.lookup(subject, payload) == plain(rules, subject, payload)


# One operator at a time with few values, so that a key that is wrong by one is noticed.
few = st.sampled_from([0, 1, 1.0, 2, 2**53, 2**53 + 1])
few_texts = st.sampled_from(
    ["", "a", "ab", "abcd", "xabcdx", "abcdabcd", "bcd", "straße", "STRASSE", "A", "ABCD", "a*"]
)
several = few_texts | st.lists(few_texts, min_size=1, max_size=2)
blocks_of = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "10.1.2.2/31", "0.0.0.0/0", "2001:db8::/32", "::/0", "::ffff:10.1.2.0/120"])  # fmt: skip
hosts = st.sampled_from(["10.1.2.3", "10.1.2.2", "10.2.0.1", "11.0.0.1", "010.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "2001:db9::", "fe80::1%eth0", "10.1.2", "10.1.2.3.4", "x"])  # fmt: skip
OPERATORS: dict[str, tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]] = {
    "equals": (few | few_texts | st.booleans() | st.none(), few | few_texts | st.booleans() | st.none()),
    "any_of": (st.lists(few | few_texts | st.booleans(), min_size=1, max_size=3), few | few_texts | st.booleans()),
    "range": (
        st.fixed_dictionaries({}, optional={"gt": few, "gte": few, "lt": few, "lte": few}),
        few | st.sampled_from([0.5, 1.5, 10**400, float("nan"), float("inf"), True, "1"]),
    ),
    "wildcard": (
        st.fixed_dictionaries({"wildcard": st.sampled_from(["a*", "*d", "a*d", "*abcd*", "*bcda*", "?bcd", "ab", r"a\*", "*", "A*D"])}, optional={"ignore_case": st.just(True)}),
        few_texts,
    ),
    "cidr": (st.fixed_dictionaries({"cidr": blocks_of | st.lists(blocks_of, min_size=1, max_size=2)}), hosts),
    **{
        name: (st.fixed_dictionaries({name: several}, optional={"ignore_case": st.just(True)}), few_texts)
        for name in ("prefix", "suffix", "contains")
    },
    "equals, ignore_case": (st.fixed_dictionaries({"equals": few_texts, "ignore_case": st.just(True)}), few_texts),
}  # fmt: skip


def operator_alone(name: str) -> None:
    sources, found = OPERATORS[name]

    @settings(max_examples=300, database=None)
    @given(st.lists(sources, min_size=1, max_size=4), st.lists(found, min_size=1, max_size=4))
    def agree(given_sources: list[Any], given_values: list[Any]) -> None:
        rules: list[Written] = [
            ([parse_pattern(">")], block)
            for source in given_sources
            if (block := compiled({"a.k": source})) is not None
        ]
        for built in ways(rules)[1:]:
            for payload in (*({"a": {"k": value}} for value in given_values), {"a": [{"k": given_values}]}):
                assert built.lookup("x", payload) == plain(rules, "x", payload)

    agree()


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_agrees_by_itself(operator: str) -> None:
    operator_alone(operator)


@settings(max_examples=MANY)
@given(st.lists(st.tuples(patterns, reference_evaluator.blocks), max_size=6), st.lists(st.tuples(subjects, reference_evaluator.payloads), min_size=1, max_size=4))  # fmt: skip
def test_the_index_and_the_reference_evaluator_agree(
    sources: list[tuple[Pattern, dict[str, Any]]], events: list[tuple[str, dict[str, Any]]]
) -> None:
    usable = [
        (pattern, source, block) for pattern, source in sources if (block := compiled(source)) is not None
    ]
    for built in ways([([pattern], block) for pattern, _, block in usable]):
        for subject, payload in events:
            expected = [
                n
                for n, (pattern, source, _) in enumerate(usable)
                if pattern.matches(subject) and reference_evaluator.holds(source, payload)
            ]
            assert built.lookup(subject, payload) == expected


def indexed(*entries: list[str]) -> SubjectIndex[int]:
    return SubjectIndex([([parse_pattern(text) for text in texts], n) for n, texts in enumerate(entries)])


@given(st.lists(st.lists(patterns, max_size=3), max_size=12), st.lists(subjects, max_size=5))
def test_the_subject_index_and_plain_matching_agree(
    entries: list[list[Pattern]], given_subjects: list[str]
) -> None:
    built = SubjectIndex([(each, n) for n, each in enumerate(entries)])
    for subject in given_subjects:
        plain = tuple(n for n, each in enumerate(entries) if any(p.matches(subject) for p in each))
        assert built.find(subject) == plain


def test_items_keep_their_order() -> None:
    built = indexed([">"], ["notice.login"], ["*.login"], ["notice.*"], ["notice.>"])
    assert built.find("notice.login") == (0, 1, 2, 3, 4)


def test_an_item_is_found_once_if_several_of_its_patterns_match() -> None:
    assert indexed(["notice.login", "notice.*", ">", "notice.login"]).find("notice.login") == (0,)


def test_items_need_not_be_hashable_or_differ() -> None:
    everything = [parse_pattern(">")]
    built: SubjectIndex[list[int]] = SubjectIndex([(everything, []), (everything, [])])
    assert built.find("log") == ([], [])
    assert len(built) == 2


def test_a_subject_without_a_matching_pattern_finds_nothing() -> None:
    assert indexed().find("log") == ()
    assert indexed(["notice.a"]).find("notice") == ()
    assert indexed(["notice.a"]).find("notice.a.b") == ()
    assert indexed(["notice.>"]).find("notice") == ()


def test_a_very_long_subject_is_looked_up() -> None:
    built = indexed([">"], ["*.>"], ["a.*"])
    assert built.find(".".join(["a"] * 100_000)) == (0, 1)


def rule(event: str, when: dict[str, Any]) -> Written:
    block = compiled(when)
    assert block is not None
    return [parse_pattern(event)], block


def lowered(inner: Any) -> Any:
    return lambda value, leaves: inner(value.lower(), leaves)


def cut(inner: Any) -> Any:
    def build(filed: Any) -> Any:
        search = inner(filed)
        return lambda value, leaves: search(value[1:-1], leaves)

    return build


def closed(inner: Any) -> Any:
    return lambda self, interval: inner(self, (interval[0], True, *interval[2:]))


BREAKS: dict[str, tuple[Any, str, Any]] = {
    "equals, ignore_case": (tables, "_case_folded", lambda _: lowered),
    "prefix": (tables, "_by_prefix", cut),
    "suffix": (tables, "_by_suffix", cut),
    "contains": (tables, "_by_part", cut),
    "cidr": (tables, "_by_network", cut),
    "wildcard": (tables, "_by_prefix", cut),
    "range": (tables.SegmentTree, "_pieces", closed),
    "equals": (keys, "_equal", lambda _: lambda path, scalar, _: ((path, keys.EXACT), scalar)),
    "any_of": (keys, "_equal", lambda _: lambda path, scalar, _: ((path, keys.EXACT), scalar)),
}


@pytest.mark.parametrize("operator", BREAKS)
def test_the_tests_notice_a_broken_operator_in_the_index(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, broken = BREAKS[operator]
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        operator_alone(operator)


# The number of rules looked at does not depend on the machine.

KEYED = {
    "equals": lambda n: {"user.id": f"u{n}"},
    "any_of": lambda n: {"user.id": [f"u{n}", f"v{n}"]},
    "number": lambda n: {"user.id": n},
    "ignore_case": lambda n: {"user.id": {"equals": f"U{n}", "ignore_case": True}},
    "prefix": lambda n: {"user.id": {"prefix": f"u{n:05}/"}},
    "suffix": lambda n: {"user.id": {"suffix": f"@{n:05}"}},
    "folded prefix": lambda n: {"user.id": {"prefix": f"U{n:05}/", "ignore_case": True}},
    "contains": lambda n: {"user.id": {"contains": f"{n:05}"}},
    "wildcard, head": lambda n: {"user.id": {"wildcard": f"u{n:05}/*/x"}},
    "wildcard, tail": lambda n: {"user.id": {"wildcard": f"*?@{n:05}"}},
    "cidr": lambda n: {"user.id": {"cidr": f"10.{n // 256}.{n % 256}.0/24"}},
    "cidr, IPv6": lambda n: {"user.id": {"cidr": f"2001:db8:{n:x}::/48"}},
    "range": lambda n: {"user.id": {"gte": n, "lt": n + 1}},
    "any": lambda n: {"any": [{"user.id": f"u{n}"}, {"user.mail": f"m{n}"}]},
    "all": lambda n: {"all": [{"result": "success"}, {"user.id": f"u{n}"}]},
}
VALUES = {
    "number": 77, "range": 77, "prefix": "u00077/x", "suffix": "x@00077", "folded prefix": "u00077/x",
    "contains": "x00077x", "wildcard, head": "u00077/a/x", "wildcard, tail": "ab@00077",
    "cidr": "10.0.77.9", "cidr, IPv6": "2001:db8:4d::1",
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYED)
def test_rules_for_other_events_are_not_looked_at(kind: str) -> None:
    payload = {"user": {"id": VALUES.get(kind, "u77"), "mail": "m1"}, "result": "success"}
    looked_at = []
    most = [rule(">", KEYED[kind](n)) for n in range(2_000)]
    for rules in (most[:1_000], most):
        built = RuleIndex(entries(rules))
        assert built.lookup("x", payload) == plain(rules, "x", payload) != []
        looked_at.append(built.candidates("x", payload))
    assert looked_at[1] <= max(3, looked_at[0]) <= 12


def test_a_large_bucket_is_split_by_another_key() -> None:
    rules = [rule(">", {"tenant": "t1", "user.id": {"prefix": f"u{n:04}"}}) for n in range(2_000)]
    rules += [rule(">", {"tenant": f"t{n}", "user.id": {"prefix": "u"}}) for n in range(2_000)]
    built = RuleIndex(entries(rules))
    payload = {"tenant": "t1", "user": {"id": "u0077-x"}}
    assert built.lookup("x", payload) == plain(rules, "x", payload) == [77, 2_001]
    assert built.candidates("x", payload) <= 30


def test_rules_with_a_rare_pattern_are_filed_by_it() -> None:
    rules = [rule(f"audit.{n}.*", {"score": {"gt": 5}}) for n in range(2_000)]
    built = RuleIndex(entries(rules))
    assert built.lookup("audit.77.x", {"score": 6}) == [77]
    assert built.candidates("audit.77.x", {"score": 6}) == 1


def test_patterns_with_the_same_byte_are_distinguished() -> None:
    """A leaf has a byte for each set of patterns, and there may be more sets than bytes."""
    leaf = tables.make_leaf([(5, (), 1), (261, (), 2), (517, (lambda _: False,), 3)])
    found: list[int] = []
    tables.verify_leaf(leaf, {261, 517}, {5}, {}, found)
    assert found == [2]


@pytest.mark.parametrize("apart", [2, 5])
def test_a_rule_is_found_once_if_several_of_its_patterns_match(apart: int) -> None:
    fitting = [parse_pattern(text) for text in ("a.b", "a.*", "*.b", "*.*", ">")[:apart]]
    rules = [(fitting, rule(">", when)[1]) for when in ({}, {"k": 1}, {"k": {"gte": 1}})]
    for built in ways(rules):
        assert built.lookup("a.b", {"k": 1}) == [0, 1, 2]
        assert built.lookup("a.b", {"k": 0}) == [0]


def test_a_list_of_equal_elements_is_looked_up_once() -> None:
    rules = [rule(">", {"tags": "a", "n": n}) for n in range(20)]
    rules += [rule(">", {"tags": f"b{n}"}) for n in range(200)]
    built = RuleIndex(entries(rules))
    payload = {"tags": ["a"] * 10_000, "n": 7}
    assert built.lookup("x", payload) == [7]
    assert built.candidates("x", payload) <= 30


def test_conditions_with_errors_do_not_break_the_index() -> None:
    sources: list[Any] = [{"a": {"prefix": 5}}, {"a": {"any_of": "x"}}, {"a": {"cidr": "10.0.0.1/8"}}, {"a": {"gte": "5"}}, {"a": []}, {"a": {5: 6}}, {"a": {"equals": [1]}}]  # fmt: skip
    rules: list[Written] = [([parse_pattern(">")], compile_block(source)[0]) for source in sources]
    for built in ways(rules):
        built.lookup("x", {"a": "10.1.2.3"})


def test_the_cache_of_subjects_is_bounded() -> None:
    built = RuleIndex(entries([rule("notice.*", {})]))
    for n in range(rule_index.MAX_CACHED_SUBJECTS + 10):
        assert built.lookup(f"notice.{n}", {}) == [0]
        assert len(built._cache) <= rule_index.MAX_CACHED_SUBJECTS
    assert built.lookup("notice.0", {}) == [0]


def test_the_index_accepts_odd_payloads() -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    rules = [rule(">", {"a": "x"}), rule(">", {"a.b": {"gte": 1}}), rule(">", {"a": {"contains": "abcd"}})]
    payloads: list[dict[str, Any]] = [
        {"a": deep}, {"a": {"b": float("nan")}}, {"a": {"b": 10**5000}}, {"a": "x" * 1_000_000}, {"a": b"x"},
    ]  # fmt: skip
    for built in ways(rules):
        for payload in payloads:
            assert built.lookup("x", payload) == plain(rules, "x", payload)
