"""The broker's permissions as the operating page shows them."""

from __future__ import annotations

import re

from support import ROOT

PAGE = (ROOT / "docs/operating.md").read_text()


def permissions(heading: str) -> str:
    """What a section of the page says a user needs, as the broker's configuration."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    publish, subscribe = re.findall(
        r"^    (?:publish|subscribe): +(\[.*?\])", section, re.MULTILINE | re.DOTALL
    )
    return f"{{publish: {{allow: {publish}}}, subscribe: {{allow: {subscribe}}}}}"
