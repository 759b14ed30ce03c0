"""docs/people.md: the diagram shows the stages of the code, and the example of each runs."""

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


def test_the_diagram_shows_every_stage_in_its_order() -> None:
    order = (stages.__doc__ or "").split("\n\n")[1].partition(".")[0]
    named = re.split(r",\s*|->", re.sub(r"\((draft|here)\)", "", order))
    drawn = re.findall(r'\w+\["([\w -]+)<br/>', PICTURE)
    assert drawn == [" ".join(name.split()) for name in named]
    sections = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    described = [name for section in sections for name in section.lower().split(", ")]
    assert (
        described
        == drawn[drawn.index("dedupe") - 2 : drawn.index("dedupe") - 1] + drawn[drawn.index("dedupe") :]
    )


def test_the_diagram_has_every_reason_and_no_other() -> None:
    for word, metric in (
        ("suppressed", "mss_deliveries_suppressed_total"),
        ("held", "mss_deliveries_held_total"),
    ):
        (counted,) = re.findall(rf"`{metric}` \| rule, reason: ([\w, ]*\w)", OPERATING)
        drawn = re.findall(rf"{word}: ([\w, ]+)", PICTURE)
        # The reason of a digest whose rule was removed belongs to no stage.
        assert set(", ".join(drawn).split(", ")) == set(counted.split(", ")) - {"removed"}
