"""The project speaks the field's words: no private word stands in its documents, texts or docstrings."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("msc/*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("msc/*.md")])
POLICIES = sorted(
    [*ROOT.glob("rules/**/*.yaml"), *ROOT.glob("engine/**/*.yaml"), *ROOT.glob("schemas/**/*.json")]
)

# private word -> the field's
WORDS = {
    r"\b(tell|tells|telling|told|untold|retold)\b": "notify, say, report",
    r"\bwords\b": "template, text, content",
    r"(?<!dead )(?<!dead-)\bletters?\b(?! (or|and) digits?)(?!, digits)": "dead letter",
    r"\b(bring|brings|bringing|brought) (it |them |him )?back\b": "redrive",
    r"\bin hand\b": "in flight",
    r"\bat hand\b": "cached",
    r"\bin force\b": "active",
    r"\b(go|goes|going|went|gone) on\b": "continue",
    r"\b(have|has|had) left\b": "were sent",
    r"\bbeside\b": "next to, together with",
    r"\banew\b": "again",
    r"\b(mend|mends|mended|mending)\b": "fix",
    r"\b(put|puts|putting) (it |them )?off\b": "defer",
    r"\b(hold|holds|holding|held) (it |them )?back\b": "defer",
    r"\bgive[ns]? up\b": "dead-letter",
    r"\bwhoever\b": "the user, the program",
    r"\blets? go of\b": "free, release",
    r"\b(herald|passage|likeness|dismantl\w*|cabinet|drawer)\b": "the name of the thing",
    r"(?m)(^|[.:] |\"\"\")(What|Who|That|Whether) (?!(is|are|does|do|can|if|happens|to) )[a-z]+ [^?\n]*$": "start with the thing that acts",
}
ALLOWED = [  # text that may stand all the same, and why
    (r"[0-9]+ words", "a length"),
]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each comment and each string of a Python file with its line."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line


def lines(path: Path) -> Iterator[tuple[int, str]]:
    yield from texts(path) if path.suffix == ".py" else enumerate(path.read_text().splitlines(), 1)


@pytest.mark.parametrize("path", [*SOURCES, *PAGES, *POLICIES], ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_use_the_words_of_the_field(path: Path) -> None:
    found = []
    for line, text in lines(path):
        checked = text
        for allowed, _ in ALLOWED:
            checked = re.sub(allowed, "", checked)
        found += [
            f"{path.relative_to(ROOT)}:{line}: {match.group().strip()!r}: write {better}"
            for pattern, better in WORDS.items()
            for match in re.finditer(pattern, checked, re.IGNORECASE if "What" not in pattern else 0)
        ]
    assert not found, "\n".join(found)
