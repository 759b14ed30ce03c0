"""``mss graph``: events, rules and channels for Mermaid and for Graphviz."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from click.testing import CliRunner, Result
from support.policy_builders import policy

from engine.cli import cli
from engine.cli import graph as graph_module
from engine.cli.graph import Graph, as_dot, as_mermaid, graph_of

RULES = """
people: {ops: {email: ops@example.com}}
rules:
  - {id: a, event: [notice.login.abnormal, 'audit.>'], template: t, when: {x: 1}, to: ops, notify: [email]}
  - {id: b, event: 'audit.>', template: t, notify: [{channel: terminal, when: {y: 1}}, terminal], enabled: shadow}
  - {id: c, event: 'audit.>', template: t, notify: [terminal]}
  - {id: off, event: log, template: t, notify: [terminal], enabled: false}
"""


def mss(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["graph", str(folder), *arguments])


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return graph_of(policy(tmp_path, RULES).require())


def test_arrows_lead_from_events_through_rules_to_channels(graph: Graph) -> None:
    assert graph.events == ("notice.login.abnormal", "audit.>")
    assert graph.rules == ("a", "b", "c")
    assert graph.channels == ("email", "terminal")
    assert [(arrow.source, arrow.target, arrow.dashed) for arrow in graph.inputs] == [
        ("notice.login.abnormal", "a", True),
        ("audit.>", "a", True),
        ("audit.>", "b", False),
        ("audit.>", "c", False),
    ]
    assert [(arrow.source, arrow.target, arrow.label, arrow.dashed) for arrow in graph.outputs] == [
        ("a", "email", "ops", False),
        ("b", "terminal", "shadow", True),
        ("c", "terminal", "", False),
    ]


def test_mermaid_gets_a_flowchart(graph: Graph) -> None:
    lines = as_mermaid(graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  e1(["audit.#62;"])' in lines  # an entity, as Mermaid has no backslash
    assert '  r0["a"]' in lines and '  c1[["terminal"]]' in lines
    assert "  e0 -.-> r0" in lines and "  e1 --> r2" in lines
    assert '  r0 -->|"ops"| c0' in lines and '  r1 -.->|"shadow"| c1' in lines
    form = re.compile(
        r'  (\w\d+(\(\["[^"]+"\]\)|\["[^"]+"\]|\[\["[^"]+"\]\])|\w\d+ (-->|-\.->)(\|"[^"]+"\|)? \w\d+)'
    )
    assert all(form.fullmatch(line) for line in lines[1:])


def test_graphviz_gets_a_digraph(graph: Graph) -> None:
    text = as_dot(graph)
    assert text.startswith("digraph policy {") and text.endswith("}")
    assert '  "e notice.login.abnormal" -> "r a" [style=dashed];' in text
    assert '  "r a" -> "c email" [label="ops"];' in text
    assert '  "r c" -> "c terminal";' in text
    assert text.count("{") == text.count("}")


def test_special_characters_in_names_are_escaped() -> None:
    odd = Graph(events=('notice.a"b\\c',), rules=(), channels=(), inputs=(), outputs=())
    assert '"e notice.a\\"b\\\\c"' in as_dot(odd)
    assert '"notice.a#34;b\\c"' in as_mermaid(odd)


def program(folder: Path, text: str) -> None:
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_graphviz_draws_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path / "p", RULES)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, 'test "$1" = -Tsvg && echo "<svg>" && cat && echo "</svg>"')
    result = mss(tmp_path / "p", "--format", "svg")
    assert result.exit_code == 0
    assert result.output.startswith("<svg>\ndigraph policy {")
    program(tmp_path, "cat >/dev/null; echo 'syntax error near line 1' >&2; exit 1")
    result = mss(tmp_path / "p", "--format", "svg")
    assert result.exit_code == 1 and "syntax error near line 1" in result.output


def test_the_library_draws_svg_if_the_program_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygraphviz", reason="it has no wheel for this platform")
    policy(tmp_path, RULES)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = mss(tmp_path, "--format", "svg")
    assert result.exit_code == 0, result.output
    words = {text.text for text in Xml.fromstring(result.stdout).iter("{http://www.w3.org/2000/svg}text")}
    assert {"notice.login.abnormal", "a", "c", "email", "terminal", "ops"} <= words


def test_svg_without_graphviz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path, RULES)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(graph_module, "find_spec", lambda _: None)
    result = mss(tmp_path, "--format", "svg")
    assert result.exit_code == 1 and "needs Graphviz" in result.output
    assert mss(tmp_path, "--format", "dot").output.startswith("digraph")
    assert mss(tmp_path).output.startswith("flowchart LR")
    assert mss(tmp_path, "--format", "png").exit_code == 2


def test_a_policy_with_errors_is_refused(tmp_path: Path) -> None:
    policy(tmp_path, RULES.replace("notify: [email]", "notify: [emial]"))
    result = mss(tmp_path)
    assert result.exit_code == 1 and "unknown channel 'emial'" in result.stderr
    assert result.stdout == ""  # standard output often goes into a file
