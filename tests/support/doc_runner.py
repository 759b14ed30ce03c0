"""The code blocks of documents, and the output of their commands."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

from click.testing import CliRunner
from support.locations import MSS
from support.waiting import LIMIT

from engine.cli import cli

ENVIRONMENT = {**os.environ, "PATH": f"{MSS.parent}:{os.environ['PATH']}", "COLUMNS": "80", "PYTHONUTF8": "1"}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return every fenced block: its language, the rest of its first line, its text."""
    found = re.findall(r"^```(\w+)(.*?)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [(language, info.strip(), text) for language, info, text in found]


def run(text: str, folder: Path, shell: str = "sh") -> tuple[int, str]:
    """Run the lines as a shell does. Lines that only call ``mss`` run in this process."""
    output = ""
    for line in text.replace("\\\n", " ").splitlines():
        call = re.fullmatch(r"mss ([^|&;<>$'\"]+?)(?: > (\S+))?", line.strip())
        code, printed = in_process(call[1].split(), folder) if call else in_shell(line, folder, shell)
        if call and call[2]:
            (folder / call[2]).write_text(printed)
        else:
            output += printed
        if code:
            return code, output
    return 0, output


def in_process(arguments: list[str], folder: Path) -> tuple[int, str]:
    with contextlib.chdir(folder):
        result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "80"}, prog_name="mss")
    return result.exit_code, result.output


def in_shell(command: str, folder: Path, shell: str) -> tuple[int, str]:
    done = subprocess.run(
        [shell, "-ec", command], check=False, cwd=folder, env=ENVIRONMENT, timeout=LIMIT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def appear(wanted: list[str], output: list[str]) -> bool:
    """Return whether lines that begin with those of a page are in the output, in order."""
    following = iter(output)
    return all(any(line.startswith(want) for line in following) for want in wanted)
