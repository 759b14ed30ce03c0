"""The ways in which programs replace the files of a policy."""

from __future__ import annotations

import shutil
from pathlib import Path


def save_as_editors_do(path: Path, text: str) -> None:
    """Write a new file and rename it to ``path``, after the old one got a backup name."""
    other, swap = path.with_name(f".{path.name}.swp"), path.with_name("4913")
    swap.write_text("")
    swap.unlink()
    other.write_text(text)
    if path.exists():
        path.replace(path.with_name(f"{path.name}~"))
    other.replace(path)


def config_map(folder: Path, name: str, files: dict[str, str]) -> None:
    """Update a ConfigMap as the kubelet does: write a new folder, rename the link to it, remove the old one."""
    old = folder / (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    new = folder / f"..{name}"
    new.mkdir()
    for file, text in files.items():
        (new / file).write_text(text)
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for file in files:
        if not (folder / file).is_symlink():
            (folder / file).unlink(missing_ok=True)
            (folder / file).symlink_to(f"..data/{file}")
    if old is not None:
        shutil.rmtree(old)
