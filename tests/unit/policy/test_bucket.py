"""A policy is packed and unpacked, compared with another one, and named by the pointer."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.errors import InvalidBucket, RevisionNotFound
from engine.policy.bucket import (
    MAX_MESSAGE_LENGTH,
    MAX_REVISIONS,
    PushedRevision,
    Revisions,
    blob_name,
    join_parts,
    pack,
    policy_diff,
    read_revisions,
    split,
    unpack,
)

FILES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.binary(max_size=200)
)


def pushed(revision: str, **more: str) -> PushedRevision:
    return PushedRevision(
        number=0, revision=revision, blob=revision * 4, parts=1, size=1, who="ada@host", at=1, **more
    )


def after(*revisions: str) -> Revisions:
    found = Revisions()
    for revision in revisions:
        found = found.with_pushed(pushed(revision))
    return found


@given(FILES, st.integers(1, 50))
def test_unpacking_returns_the_packed_files(files: dict[str, bytes], size: int) -> None:
    packed = pack(files)
    assert packed == pack(dict(reversed(files.items())))  # whatever order they were read in
    parts = split(packed, size)
    assert all(0 < len(part) <= size for part in parts)
    assert unpack(join_parts(parts, blob_name(packed))) == files


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"x",
        pack({"a": b"b"})[:-1],
        zlib.compress(b"[]"),
        zlib.compress(b'{"a": 1}'),
        zlib.compress(b"{"),
    ],
)
def test_bytes_that_are_no_policy_are_rejected(packed: bytes) -> None:
    with pytest.raises(InvalidBucket):
        unpack(packed)


def test_parts_with_another_hash_are_rejected() -> None:
    packed = pack({"a": b"b" * 1000})
    parts = split(packed, 10)
    for wrong in (parts[1:], [*parts[:-1], b"x"], [*parts, b"y"], []):
        with pytest.raises(InvalidBucket, match="not those that were pushed"):
            join_parts(wrong, blob_name(packed))


def test_a_compression_bomb_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.policy.bucket.MAX_UNPACKED_BYTES", 1000)
    assert unpack(pack({"a": b"b" * 500})) == {"a": b"b" * 500}
    with pytest.raises(InvalidBucket, match="too large"):
        unpack(pack({"a": b"b" * 1000}))


def test_the_diff_is_unified() -> None:
    before = {
        "a.yaml": b"one\ntwo\nthree\n",
        "gone.txt": b"x\n",
        "same": b"s",
        "logo.png": b"\x89PNG\xff",
        "e": b"",
    }
    files = {"a.yaml": b"one\n2\nthree\n", "new.txt": b"y", "same": b"s", "logo.png": b"\x89PNG\xfe"}
    assert list(policy_diff(before, files, ("1", "rules"))) == [
        "--- 1/a.yaml", "+++ rules/a.yaml", "@@ -1,3 +1,3 @@", " one", "-two", "+2", " three",
        "empty file e is gone",
        "--- 1/gone.txt", "+++ /dev/null", "@@ -1 +0,0 @@", "-x",
        "binary file logo.png differs",
        "--- /dev/null", "+++ rules/new.txt", "@@ -0,0 +1 @@", "+y\\ (no newline at the end)",
    ]  # fmt: skip
    assert not list(policy_diff(files, files, ("1", "2")))


def test_the_newest_revision_is_active_until_the_pointer_is_moved() -> None:
    revisions = after("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")
    assert revisions.require().number == 3 and revisions.previous().revision == "bbbbbbbbbbbb"
    back = revisions.with_active(2, who="bob", at=9)
    assert back.require().revision == "bbbbbbbbbbbb" and (back.moved_by, back.moved_at) == ("bob", 9)
    assert back.previous().number == 1
    on = back.with_active(1, who="bob", at=9).with_pushed(pushed("dddddddddddd"))
    # What was in force before, and not what was pushed before.
    assert (on.current, on.previous().number) == (4, 1)
    with pytest.raises(RevisionNotFound, match="is the first one"):
        on.with_active(1, who="", at=0).previous()
    assert [each.number for each in back.candidates()] == [3, 1]
    assert read_revisions(on.encoded()) == on


def test_a_revision_is_found_by_number_and_by_hash() -> None:
    revisions = after("aaaaaaaaaaaa", "bbbbbbbbbbbb", "aaaaaaaaaaaa", "aaaaaabbbbbb")
    assert revisions.resolve("2").revision == "bbbbbbbbbbbb" and revisions.resolve("current").number == 4
    assert revisions.resolve("aaaaaaaaaaaa").number == 3  # the newest of equal ones
    assert revisions.resolve("bbbbbb").number == 2
    for unknown in ("5", "0", "cccccccccccc", "aaa", ""):
        with pytest.raises(RevisionNotFound, match="no revision"):
            revisions.resolve(unknown)
    with pytest.raises(RevisionNotFound, match=re.escape("may be any of 1, 3, 4")):
        revisions.resolve("aaaaaa")


def test_an_empty_or_unreadable_pointer_is_reported() -> None:
    assert read_revisions(b"") == Revisions()
    with pytest.raises(InvalidBucket, match="nothing was pushed"):
        Revisions().require()
    with pytest.raises(RevisionNotFound):
        Revisions().resolve("current")
    for bad in (b"{", b"[]", b'{"current": "x"}', b"\xff"):
        with pytest.raises(InvalidBucket, match="pointer cannot be read"):
            read_revisions(bad)


def test_the_pointer_keeps_a_limited_number_of_revisions() -> None:
    revisions = Revisions()
    for number in range(MAX_REVISIONS + 20):
        revisions = revisions.with_pushed(pushed(f"{number:012x}", message="m" * 10_000))
    assert len(revisions.pushed) == MAX_REVISIONS and revisions.current == MAX_REVISIONS + 20
    assert revisions.require().message == "m" * MAX_MESSAGE_LENGTH and len(revisions.encoded()) < 512 * 1024
    with pytest.raises(RevisionNotFound, match="no longer stored"):
        revisions.with_active(21, who="", at=0).previous()
