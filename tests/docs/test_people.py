"""docs/people.md: the picture shows the gates that there are, and the example of each is true."""

from __future__ import annotations

import re
from pathlib import Path

from support.doc_runner import appear, blocks, lines, run
from support.locations import ROOT

from engine.planning.limits import stages

PAGE = (ROOT / "docs/people.md").read_text()
OPERATING = (ROOT / "docs/operating.md").read_text()
BLOCKS = blocks(PAGE)
((_, _, PICTURE),) = [block for block in BLOCKS if block[0] == "mermaid"]


def test_the_examples_are_true(tmp_path: Path) -> None:
    for _, info, text in BLOCKS:
        if info.startswith("file="):
            path = tmp_path / info.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    output, shown = "", 0
    for language, _, text in BLOCKS:
        if language == "sh":
            code, output = run(text, tmp_path)
            assert code == 0, f"{text}\n{output}"
        elif language == "text":
            assert appear(lines(text), lines(output)), f"expected\n{text}\nfound\n{output}"
            shown += 1
    assert shown == 8
    code, output = run("mss test people --require-coverage", tmp_path)
    assert code == 0, output


def test_the_picture_shows_every_gate_in_its_order() -> None:
    order = (stages.__doc__ or "").split("\n\n")[1].partition(".")[0]
    named = re.split(r",\s*|->", re.sub(r"\((draft|here)\)", "", order))
    drawn = re.findall(r'\w+\["([\w -]+)<br/>', PICTURE)
    assert drawn == [" ".join(name.split()) for name in named]
    sections = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    told = [name for section in sections for name in section.lower().split(", ")]
    assert (
        told == drawn[drawn.index("dedupe") - 2 : drawn.index("dedupe") - 1] + drawn[drawn.index("dedupe") :]
    )


def test_the_picture_has_every_reason_and_no_other() -> None:
    for word, metric in (
        ("suppressed", "mss_deliveries_suppressed_total"),
        ("held", "mss_deliveries_held_total"),
    ):
        (counted,) = re.findall(rf"`{metric}` \| rule, reason: ([\w, ]*\w)", OPERATING)
        drawn = re.findall(rf"{word}: ([\w, ]+)", PICTURE)
        # What is recorded of a digest whose rule is gone leaves at no gate.
        assert set(", ".join(drawn).split(", ")) == set(counted.split(", ")) - {"removed"}
