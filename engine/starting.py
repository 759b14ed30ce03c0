"""A first policy to edit, as ``mss init`` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from . import schemas
from .errors import MssError

_STARTER = Path(__file__).parent / "starter"
_SCHEMA_FILE = (
    "policy.schema.json"  # beside the files whose first line names it, so that no network is needed
)


def write_starter(folder: Path) -> list[str]:
    """Write the first policy into ``folder``, which must be empty or new; returns the files' names."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MssError(f"{folder} is there already and not empty; nothing was written")
    sources = {p.relative_to(_STARTER).as_posix(): p.read_bytes() for p in _STARTER.rglob("*") if p.is_file()}
    sources[_SCHEMA_FILE] = (json.dumps(schemas.load("policy"), ensure_ascii=False, indent=2) + "\n").encode()
    for name, content in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return sorted(sources)
