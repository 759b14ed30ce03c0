"""What PyYAML's parser complains of, said to the person who wrote the file."""

from __future__ import annotations

from bisect import bisect_right

import yaml

from .composer import MAX_DEPTH
from .spots import DocumentDiagnostic


def tab_fault(offset: int) -> DocumentDiagnostic:
    """What is wrong with a tab among the indentation."""
    return DocumentDiagnostic(
        offset=offset,
        code="yaml-tab",
        message="a tab; YAML indents with spaces",
        hint="write spaces instead",
    )


def error_offset(error: yaml.YAMLError, end: int) -> int:
    """Where the parser stopped, at most at the ``end`` of the text."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return min(mark.index, end) if mark is not None else 0


def is_tab(error: yaml.YAMLError, text: str, offset: int) -> bool:
    """Whether the parser stumbled over the tab itself, and not over what happens to be one."""
    words = getattr(error, "problem", "") or ""
    return text[offset : offset + 1] == "\t" and ("tab" in words or "cannot start any token" in words)


def syntax_fault(error: yaml.YAMLError, text: str, lines: tuple[int, ...], offset: int) -> DocumentDiagnostic:
    """What is wrong at ``offset``, where the parser stopped; ``lines`` are the offsets of line starts."""
    words = getattr(error, "problem", "") or "this is no YAML"
    context = getattr(error, "context", "") or ""
    since = getattr(error, "context_mark", None)
    first = bisect_right(lines, since.index) if since is not None else 0
    if "nesting depth" in words:  # the parser's own bound; it looks ahead, and may meet it first
        message = f"mappings and lists more than {MAX_DEPTH} deep"
        return DocumentDiagnostic(offset=offset, code="yaml-too-deep", message=message)
    if since is not None and "scanning an a" in context:  # an alias, an anchor: its sign is what is wrong
        offset = since.index
    message, hint = _describe(words, context, first, text[offset : offset + 1])
    return DocumentDiagnostic(offset=offset, code="yaml-syntax", message=message, hint=hint)


def _describe(words: str, context: str, first: int, char: str) -> tuple[str, str]:  # noqa: PLR0911
    """What the parser found, said to the person who wrote it: message and hint."""
    if "mapping values are not allowed" in words:
        hint = "quote text that has ': ' in it, and check the indentation of this line and the one above"
        return "a ':' where no key can be", hint
    if "cannot start any token" in words or "scanning an a" in context:
        return f"a value cannot start with '{char}' unless it is in quotes", "put it in quotes"
    if "could not find expected ':'" in words:
        hint = "write 'key: value', with a space after the colon"
        return f"line {first} starts like a key and has no ': '", hint
    if "block mapping" in context and ("expected key" in words or "<block end>" in words):
        message = f"this does not continue the mapping that starts in line {first}"
        return message, "check the indentation, and quotes that end too early"
    if "block collection" in context:
        message = f"this does not continue the list that starts in line {first}"
        return message, "check the indentation; each entry starts with '- '"
    if "flow sequence" in context:
        return f"the '[' in line {first} is not closed with ']', or a ',' is missing", ""
    if "flow mapping" in context:
        return f"the '{{' in line {first} is not closed with '}}', or a ',' is missing", ""
    if "quoted scalar" in context and "unexpected end" in words:
        return f"the quote opened in line {first} is not closed", ""
    if "escape" in words:
        hint = "write \\\\ for a backslash, or use single quotes"
        return "an escape that double quotes do not know", hint
    where = f" ({context}, from line {first})" if context and first else f" ({context})" if context else ""
    return f"not valid YAML: {words}{where}", ""
