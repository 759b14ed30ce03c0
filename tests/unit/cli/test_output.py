"""The parts that all text output is made of: tables and counts."""

from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from engine.cli.output import count, show_table


def test_a_noun_has_the_form_of_its_number() -> None:
    assert [count(number, "rule") for number in (0, 1, 2)] == ["0 rules", "1 rule", "2 rules"]
    assert [count(number, "delivery", "deliveries") for number in (0, 1)] == ["0 deliveries", "1 delivery"]


def test_a_table_has_a_header_and_a_line_for_each_row() -> None:
    console = Console(file=io.StringIO(), width=20)
    rows = [("爱丽丝", 7, "first"), (Text("b\x1b[2J\n", "red"), 12, "much longer than the terminal is wide")]
    show_table(console, ("name", "number", "note"), rows, right=("number",))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "name    number  note",
        "爱丽丝       7  first",
        "b\ufffd[2J\ufffd      12  much longer than the terminal is wide",
    ]
