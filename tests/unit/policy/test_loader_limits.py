"""A folder or file that is no policy, or too large, leads to a clear problem and never to an exception."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.locations import ROOT
from support.policy_builders import write

from engine.model.problems import CODES
from engine.policy import loader
from engine.policy.loader import Files, Policy, load_bytes, load_files, load_policy

GOOD = "channels: {t: {type: console}}\n"
NOBODY = 65534  # the user who owns nothing


def codes(policy: Policy) -> list[tuple[str, str]]:
    return [(p.place.file, p.code) for p in policy.problems if p.severity == "error"]


def test_a_file_of_100_megabytes_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": GOOD})
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(100 * 1024 * 1024)  # sparse: it takes no room
    assert codes(load_policy(tmp_path, {})) == [("big.yaml", "file-too-big")]


def test_the_size_of_all_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_POLICY", 1000)
    write(tmp_path, {f"{name}.yaml": "#" * 400 for name in "abcd"})
    assert codes(load_policy(tmp_path, {})) == [("c.yaml", "file-too-big")]


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_FILES", 3)
    write(tmp_path, {f"{name}.yaml": "" for name in "abcde"})
    assert codes(load_policy(tmp_path, {})) == [("d.yaml", "too-many-files")]


def test_nested_aliases_do_not_explode(tmp_path: Path) -> None:
    levels = "".join(
        f"    {b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    bomb = "defaults:\n  site:\n    a: &a [x, x, x, x, x, x, x, x, x, x]\n" + levels
    assert codes(load_policy(write(tmp_path, {"bomb.yaml": bomb}), {})) == [("bomb.yaml", "yaml-too-big")]


def test_a_folder_that_contains_itself_is_reported(tmp_path: Path) -> None:
    write(tmp_path, {"a/x.yaml": GOOD})
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert codes(load_policy(tmp_path, {})) == [("a/loop", "symlink-loop")]


def test_a_link_to_itself_is_reported(tmp_path: Path) -> None:
    (tmp_path / "self.yaml").symlink_to("self.yaml")
    policy = load_policy(write(tmp_path, {"a.yaml": GOOD}), {})
    assert codes(policy) == [("self.yaml", "unreadable")]
    assert "symbolic links" in policy.problems[-1].message


def test_a_link_without_a_target_is_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    assert codes(load_policy(write(tmp_path, {"a.yaml": GOOD}), {})) == [("gone.yaml", "unreadable")]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    policy = load_policy(write(tmp_path, {"a.yaml": GOOD}), {})
    assert codes(policy) == [("pipe.yaml", "unreadable")]


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    assert codes(load_policy(write(tmp_path, {"a.yaml": GOOD}), {})) == [("zero.yaml", "unreadable")]


def test_a_binary_file_is_reported(tmp_path: Path) -> None:
    files = {"a.yaml": GOOD, "b.yaml": b"\x7fELF\x02\x01\x01\x00", "c.yaml": b"\x89PNG\r\n\x1a\n"}
    assert codes(load_policy(write(tmp_path, files), {})) == [("b.yaml", "binary"), ("c.yaml", "not-utf8")]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of the super-user, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_read_permission_is_reported() -> None:
    with TemporaryDirectory() as temporary:  # pytest's own folders are shut to others
        folder = write(
            Path(temporary), {"a.yaml": GOOD, "secret.yaml": GOOD, "in/x.yaml": GOOD, "out/x.yaml": GOOD}
        )
        load_policy(folder, {})  # imports what it imports late, perhaps from where nobody may read
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, -1)
        (folder / "secret.yaml").chmod(0)
        (folder / "in").chmod(stat.S_IRUSR)  # it can be listed and not entered
        (folder / "out").chmod(0)
        try:
            with as_nobody():
                policy = load_policy(folder, {})
        finally:
            for path in folder.iterdir():
                path.chmod(stat.S_IRWXU)
    assert codes(policy) == [
        ("in/x.yaml", "unreadable"),
        ("out", "unreadable"),
        ("secret.yaml", "unreadable"),
    ]
    assert {problem.message for problem in policy.problems if problem.code == "unreadable"} == {
        "Permission denied"
    }


def test_a_file_that_fails_during_a_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.yaml": GOOD, "b.yaml": GOOD.replace("t:", "u:")})
    real = Path.open

    def fails(self: Path, *arguments: object, **named: object) -> object:
        if self.name == "b.yaml":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", fails)
    assert codes(load_policy(tmp_path, {})) == [("b.yaml", "unreadable")]


def test_a_file_name_may_contain_any_bytes(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))).write_text("rules: 1\n")
    (problem,) = load_policy(tmp_path, {}).problems
    assert (problem.place.file, problem.code) == ("\ufffd.yaml", "wrong-type")


EXAMPLE = {
    path.relative_to(ROOT / "rules").as_posix(): path.read_bytes()
    for path in sorted((ROOT / "rules").rglob("*"))
    if path.is_file() and path.suffix in (".yaml", ".txt", ".html")
}
PIECES = [
    b"\t", b"\n", b" ", b"-", b":", b"*a", b"&a ", b"!!x ", b"{", b"}", b"[", b"]", b'"', b"'", b"|", b"#",
    b"\x00", b"\xff", b"<<: ", b"? ", b"null", b"1e999", b".nan", b"${X}", b"file:", b"{{", b"}}", b"{% if",
    b"when: {", b"not: ", b"any: [", b"exists: false", b"\xe2\x80\xa8", b"---\n", b"\xef\xbb\xbf", b"\\", b">",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """One file of the example policy with a few bytes, lines or words changed."""
    name = draw(st.sampled_from(sorted(EXAMPLE)))
    data = EXAMPLE[name]
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "delete", "swap", "repeat", "exchange"])):
            case "insert":
                data = data[:at] + draw(st.sampled_from(PIECES) | st.binary(max_size=4)) + data[at:]
            case "delete":
                data = data[:at] + data[at + draw(st.integers(1, 40)) :]
            case "swap":
                lines = data.splitlines(keepends=True)
                if len(lines) > 1:
                    one, two = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
                    lines[one], lines[two] = lines[two], lines[one]
                data = b"".join(lines)
            case "repeat":
                lines = data.splitlines(keepends=True)
                if lines:
                    one = draw(st.integers(0, len(lines) - 1))
                    lines[one:one] = lines[one : one + draw(st.integers(1, 5))]
                data = b"".join(lines)
            case "exchange":
                words = sorted(set(data.replace(b":", b" ").split()))
                if len(words) > 1:
                    old, new = (draw(st.sampled_from(words)) for _ in range(2))
                    data = data.replace(old, new)
    return name, data


EXAMPLES = int(os.environ.get("MSS_FUZZ_EXAMPLES", "100"))  # more by hand, and in a nightly run


@pytest.mark.timeout(120 + EXAMPLES)
@settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(mutated())
def test_no_mutation_of_the_example_raises(mutation: tuple[str, bytes]) -> None:
    name, data = mutation
    policy = load_files(Files(contents={**EXAMPLE, name: data}), {})
    check_shape(policy)


@pytest.mark.timeout(120 + EXAMPLES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([*PIECES, b"rules:\n", b"channels:\n", b"  - id: r\n", b"  t: "])).map(
        b"".join
    )
)
def test_no_bytes_make_the_loader_raise(data: bytes) -> None:
    check_shape(load_bytes(data, "x.yaml", {}))


def check_shape(policy: Policy) -> None:
    """Every problem has a place and a known code, and they are in order."""
    assert all(p.place.line >= 1 and p.place.column >= 1 and p.code in CODES for p in policy.problems)
    assert [p.place for p in policy.problems] == sorted(p.place for p in policy.problems)
    assert policy.ok is not any(p.severity == "error" for p in policy.problems)
