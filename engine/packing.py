"""The files of a policy as one piece of bytes, the same for the same files, and back."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff

import msgspec

from .errors import InvalidBucket

MAX_UNPACKED_BYTES = (
    512 * 1024 * 1024
)  # bytes of what comes out; a policy has 256 MB, and base64 makes more of it
_files_decoder = msgspec.json.Decoder(dict[str, bytes])


def pack(files: Mapping[str, bytes]) -> bytes:
    """``files`` by path as compressed JSON, contents in base64."""
    ordered = {name: files[name] for name in sorted(files)}
    return zlib.compress(msgspec.json.encode(ordered))


def unpack(packed: bytes) -> dict[str, bytes]:
    """What ``pack`` was given. Raises BadBucket."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, MAX_UNPACKED_BYTES)
        if not inflater.eof:
            raise InvalidBucket("the files of the policy are cut off, or too many")
        return _files_decoder.decode(data)
    except (zlib.error, msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidBucket(f"the files of the policy cannot be read: {error}") from error


def blob_name(packed: bytes) -> str:
    """Under what it lies: equal bytes have equal names, and no others."""
    return hashlib.sha256(packed).hexdigest()


def split(packed: bytes, size: int) -> list[bytes]:
    """Parts of at most ``size`` bytes."""
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def join_parts(parts: Sequence[bytes], name: str) -> bytes:
    """The parts as one again. Raises BadBucket where it is not what was split."""
    packed = b"".join(parts)
    if blob_name(packed) != name:
        raise InvalidBucket("the files of the policy are not those that were pushed")
    return packed


def policy_diff(
    before: Mapping[str, bytes], after: Mapping[str, bytes], names: tuple[str, str]
) -> Iterator[str]:
    """A unified diff, line by line; ``names`` are those of the two policies."""
    for path in sorted({*before, *after}):
        mine, its = before.get(path), after.get(path)
        if mine == its:
            continue
        olds, news = _lines(mine), _lines(its)
        if olds is None or news is None:
            yield f"binary file {path} {_how(mine, its)}"
            continue
        titles = (
            f"{names[0]}/{path}" if mine is not None else "/dev/null",
            f"{names[1]}/{path}" if its is not None else "/dev/null",
        )
        lines = list(unified_diff(olds, news, *titles, lineterm=""))
        yield from lines or (f"empty file {path} {_how(mine, its)}",)


def _how(mine: bytes | None, its: bytes | None) -> str:
    return "is new" if mine is None else "is gone" if its is None else "differs"


def _lines(data: bytes | None) -> list[str] | None:
    """None of what is no text."""
    if data is None:
        return []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], f"{lines[-1]}\\ (no newline at the end)"]
