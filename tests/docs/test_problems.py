"""The page of problems: a section for each code, whose examples are wrong and right as they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.locations import ROOT
from support.policy_builders import write

from engine.model.problems import CODES
from engine.policy.loader import load_policy

PAGE = (ROOT / "docs/problems.md").read_text()

# What the examples build on.
BASE = {
    "base.yaml": """
        channels:
          email: {type: email, from: noreply@example.com, mtas: [{host: 127.0.0.1}]}
          sms: {type: apprise, url: "json://127.0.0.1:8080/{to}", address: phone}
          terminal: {type: console}
        people:
          secops: {email: secops@example.com}
        rules:
          - id: base  # uses all of it
            event: audit.accountaddemail
            to: secops
            template: news
            notify: [email, terminal, {channel: sms, to: {phone: userid}}]
        tests:
          - name: base
            given: {event: audit.accountaddemail, payload: {}}
            expect: {rules: [base]}
        """,
    "templates/example/default.txt": "Hello\n",
    "templates/example/email.txt": "---\nsubject: News\n---\nHello\n",
    "templates/news/default.txt": "Hello\n",
    "templates/news/email.txt": "---\nsubject: News\n---\nHello\n",
}
MAIL = "rules: [{id: example, event: notice.login.abnormal, notify: [email]}]\n"


@dataclass(frozen=True)
class Section:
    """What the page says of one code."""

    text: str
    examples: dict[str, tuple[str, str]]  # wrong, right -> language, text


def sections() -> dict[str, Section]:
    found = {}
    for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        code = re.match(r"`([a-z0-9-]+)`$", part, re.MULTILINE)
        assert code is not None, part[:40]
        blocks = re.findall(r"^```(\w+) (wrong|right)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        examples = {sort: (language, text) for language, sort, text in blocks}
        assert code[1] not in found
        found[code[1]] = Section(part.split("```")[0].partition("\n")[2].strip(), examples)
    return found


def codes(folder: Path, language: str, text: str) -> set[str]:
    """What is found in the policy that an example makes of the base."""
    added = {
        "jinja": {"example.yaml": MAIL, "templates/example/email.txt": text.encode()},
        "json": {"events/notice/example.schema.json": text.encode()},
        "yaml": {"example.yaml": text.encode()},
    }[language]
    environment = {"SMTP_PASSWORD": "s3cret"}
    return {problem.code for problem in load_policy(write(folder, {**BASE, **added}), environment).problems}


def test_every_code_has_its_section_in_order() -> None:
    assert list(sections()) == list(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_section_says_what_it_means_and_shows_both(code: str) -> None:
    section = sections()[code]
    assert len(section.text) > 30
    assert set(section.examples) == {"wrong", "right"}
    if CODES[code].severity == "warning" and not code.startswith(("unused-", "untested-")):
        assert section.text.startswith("A warning")


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_examples_are_wrong_and_right(tmp_path: Path, code: str) -> None:
    for sort, (language, text) in sections()[code].examples.items():
        if language == "text":
            continue  # no file that could be shown
        found = codes(tmp_path / sort, language, text)
        assert (code in found) is (sort == "wrong"), (sort, found)
        if sort == "right":  # what an example defines it need not use
            assert {each for each in found if not each.startswith(("unused-", "untested-"))} == set(), found
