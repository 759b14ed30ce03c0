"""The broker's permissions as the operating page shows them."""

from __future__ import annotations

import re

from support.locations import ROOT

PAGE = (ROOT / "docs/operating.md").read_text()


def permissions(heading: str) -> str:
    """What a section of the page says a user needs, as the broker's configuration."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    publish, subscribe = re.findall(
        r"^    (?:publish|subscribe): +(\[.*?\])", section, re.MULTILINE | re.DOTALL
    )
    return f"{{publish: {{allow: {publish}}}, subscribe: {{allow: {subscribe}}}}}"


def user(heading: str, name: str) -> str:
    """A user that a section of the page writes out, for a list of the broker's configuration."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(
        rf"^    users: \[(\{{user: {name}, .*?\]\}}\}})\]$", section, re.MULTILINE | re.DOTALL
    )
    return str(found)
