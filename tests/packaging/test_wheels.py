"""Both distributions are built as they would be published, and work where nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support.locations import ROOT

pytestmark = pytest.mark.timeout(280)
UV = Path(sys.executable).parent / "uv"


def build(source: Path, target: Path) -> Path:
    """The wheel of ``source``, made from its sdist, as a package index would get it."""
    subprocess.run([UV, "build", "--quiet", "--out-dir", target, source], check=True, timeout=250)
    return next(target.glob("*.whl"))


def sources(tmp_path: Path) -> Path:
    """A copy without what git ignores, so that nothing of this checkout leaks in."""
    copy = tmp_path / "source"
    ignore = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", "dist", "build", "mss-data")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def bare(folder: Path, wheel: Path) -> Path:
    """A new virtual environment with nothing but ``wheel`` and what it depends on; its bin folder."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True, timeout=250)
    return folder / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    return subprocess.run(
        command, check=True, cwd=cwd, env=environment, timeout=120, capture_output=True, text=True
    ).stdout


def test_the_server_alone(tmp_path: Path) -> None:
    wheel = build(sources(tmp_path), tmp_path / "dist")
    names = zipfile.ZipFile(wheel).namelist()
    assert "engine/_data/schemas/policy.schema.json" in names
    assert "engine/_data/rules/abnormal-login.yaml" in names
    assert not [name for name in names if name.startswith("tests") or name.endswith("pyproject.toml")]
    place = bare(tmp_path / "venv", wheel)
    assert json.loads(run(place / "mss", "schema", "policy", cwd=tmp_path))["$id"] == "urn:mss:policy"
    code = "import msc; msc.__version__; import engine.documents.schemas; print(engine.documents.schemas.DATA / 'rules')"
    example = run(place / "python", "-c", code, cwd=tmp_path).strip()
    assert str(tmp_path / "venv") in example
    checked = json.loads(run(place / "mss", "check", example, "--format", "json", cwd=tmp_path))
    assert checked["ok"] and checked["rules"] == 3
    # What depends on the machine, a database that is not on it, is a note.
    assert {problem["severity"] for problem in checked["problems"]} <= {"info"}
    run(place / "mss", "init", "first", cwd=tmp_path)
    assert "2 passed" in run(place / "mss", "test", "first", "--require-coverage", cwd=tmp_path)


def test_the_client_alone(tmp_path: Path) -> None:
    wheel = build(sources(tmp_path) / "msc", tmp_path / "dist")
    names = zipfile.ZipFile(wheel).namelist()
    assert "msc/wire.py" in names and "msc/py.typed" in names
    assert not [name for name in names if not name.startswith(("msc/", "mss_client-"))]
    place = bare(tmp_path / "venv", wheel)
    code = "import msc, msc.blocking, msc.wire, importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    assert run(place / "python", "-c", code, cwd=tmp_path).split() == ["mss-client", "nats-py"]
