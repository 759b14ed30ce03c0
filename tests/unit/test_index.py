"""The index gives what asking every pattern would give, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine import index
from engine.index import SubjectIndex
from engine.subjects import Pattern, parse_pattern

tokens = st.sampled_from(["notice", "audit", "a", "b", "c"])
subjects = st.lists(tokens, min_size=1, max_size=5).map(".".join)
patterns = st.builds(
    lambda first, last: Pattern((*first, *last)),
    st.lists(tokens | st.just("*"), max_size=3),
    tokens.map(lambda t: (t,)) | st.sampled_from([("*",), (">",)]),
)


def indexed(*entries: list[str]) -> SubjectIndex[int]:
    return SubjectIndex([([parse_pattern(text) for text in texts], n) for n, texts in enumerate(entries)])


@given(st.lists(st.lists(patterns, max_size=3), max_size=12), st.lists(subjects, max_size=5))
def test_the_index_and_plain_matching_agree(entries: list[list[Pattern]], given_subjects: list[str]) -> None:
    built = SubjectIndex([(each, n) for n, each in enumerate(entries)])
    for subject in (*given_subjects, *given_subjects):  # the second time from memory
        plain = tuple(n for n, each in enumerate(entries) if any(p.matches(subject) for p in each))
        assert built.lookup(subject) == plain


def test_items_come_in_the_order_given_whatever_their_patterns() -> None:
    built = indexed([">"], ["notice.login"], ["*.login"], ["notice.*"], ["notice.>"])
    assert built.lookup("notice.login") == (0, 1, 2, 3, 4)


def test_an_item_comes_once_where_several_of_its_patterns_match() -> None:
    assert indexed(["notice.login", "notice.*", ">", "notice.login"]).lookup("notice.login") == (0,)


def test_items_need_not_be_hashable_or_differ() -> None:
    everything = [parse_pattern(">")]
    built: SubjectIndex[list[int]] = SubjectIndex([(everything, []), (everything, [])])
    assert built.lookup("log") == ([], [])
    assert len(built) == 2


def test_nothing_is_filed_or_nothing_matches() -> None:
    assert indexed().lookup("log") == ()
    assert indexed(["notice.a"]).lookup("notice") == ()
    assert indexed(["notice.a"]).lookup("notice.a.b") == ()
    assert indexed(["notice.>"]).lookup("notice") == ()


def test_subjects_remembered_are_bounded() -> None:
    built = indexed(["notice.*"])
    for n in range(index.REMEMBERED + 10):
        assert built.lookup(f"notice.{n}") == (0,)
        assert len(built._memory) <= index.REMEMBERED
    assert built.lookup("notice.0") == (0,)


def test_a_very_long_subject_is_looked_up() -> None:
    built = indexed([">"], ["*.>"], ["a.*"])
    assert built.lookup(".".join(["a"] * 100_000)) == (0, 1)
