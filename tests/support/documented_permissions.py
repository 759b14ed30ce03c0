"""The permissions on the broker in the operating page."""

from __future__ import annotations

import re

from support.locations import ROOT

PAGE = (ROOT / "docs/operating.md").read_text()


def permissions(heading: str) -> str:
    """Return the permissions in a section of the page, as configuration of the broker."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    publish, subscribe = re.findall(
        r"^    (?:publish|subscribe): +(\[.*?\])", section, re.MULTILINE | re.DOTALL
    )
    return f"{{publish: {{allow: {publish}}}, subscribe: {{allow: {subscribe}}}}}"


def user(heading: str, name: str) -> str:
    """Return a user in a section of the page, as an entry of the broker's configuration."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(
        rf"^    users: \[(\{{user: {name}, .*?\]\}}\}})\]$", section, re.MULTILINE | re.DOTALL
    )
    return str(found)
