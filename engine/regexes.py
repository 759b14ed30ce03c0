"""Regular expressions on RE2, whose time grows with the text and never with what there is to try."""

from __future__ import annotations

from collections.abc import Callable

import re2

MAX_REGEX_LENGTH = 1000  # characters of a pattern
MAX_REGEX_INSTRUCTIONS = (
    2000  # instructions it compiles to: in the worst case each is run for each character of a text
)


def regex(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Whether ``pattern`` matches a text in full; ValueError, in words for operators, where it is none."""
    if len(pattern) > MAX_REGEX_LENGTH:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {MAX_REGEX_LENGTH:,}")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # with groups to fill it would run a second, slower engine
    options.case_sensitive = not ignore_case
    try:
        compiled = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no character") from None
    except re2.error as error:
        raise ValueError(f"{pattern[:60]!r}: {_describe_error(error)}") from None
    if compiled.programsize > MAX_REGEX_INSTRUCTIONS:
        raise ValueError(
            f"{pattern[:60]!r} is too large: {compiled.programsize:,} instructions, "
            f"at most {MAX_REGEX_INSTRUCTIONS:,}; "
            r"repetitions such as {1,500} and classes such as \pL make it so"
        )

    def holds(text: str) -> bool:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which no pattern can stand for
            return False
        return compiled.fullmatch(encoded) is not None

    return holds


def _describe_error(error: Exception) -> str:
    """What RE2 says, with a way out where habits from other engines lead astray."""
    (raw,) = error.args
    complaint = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    if complaint.startswith("invalid perl operator"):
        return f"{complaint}; there is no looking ahead or behind: put another condition beside it"
    if complaint.startswith("invalid escape sequence"):
        return f"{complaint}; there are no back-references, and the whole value must match anyway"
    return complaint
