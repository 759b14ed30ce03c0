"""Language tags as people write them, and the order in which words are looked for."""

from __future__ import annotations

import re
from functools import lru_cache

_TAG = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")


def normal(tag: str) -> str:
    """``zh_CN.UTF-8`` and ``ZH-cn`` are both ``zh-cn``; what is no language tag is ``""``."""
    folded = tag.strip().split(".")[0].split("@")[0].replace("_", "-").lower()
    return folded if _TAG.fullmatch(folded) else ""


@lru_cache(maxsize=1024)
def chain(*tags: str) -> tuple[str, ...]:
    """Each tag and what it falls back to, most wanted first, ending in ``""``: words for everybody.

    ``zh-Hans-CN`` falls back to ``zh-CN``, then to ``zh``.
    """
    wanted: list[str] = []
    for tag in map(normal, tags):
        parts = tag.split("-")
        steps = [tag]
        if len(parts) > 2:  # language, script, region: the region says more
            steps.append(f"{parts[0]}-{parts[-1]}")
        steps.extend("-".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        wanted.extend(step for step in steps if step)
    return (*dict.fromkeys(wanted), "")
