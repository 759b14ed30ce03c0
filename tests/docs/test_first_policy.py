"""docs/first-policy.md, as a new operator would follow it: its commands run, its output is true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import BashComplete
from support.doc_runner import appear, blocks, in_process, in_shell, lines, run
from support.locations import ROOT

from engine.cli import COMMANDS, cli
from engine.documents import schemas
from engine.documents.yaml import read

PAGE = (ROOT / "docs/first-policy.md").read_text()
BLOCKS = blocks(PAGE)
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())


def test_the_page_is_true(tmp_path: Path) -> None:
    output, ran, failed = "", 0, False
    for language, info, text in BLOCKS:
        if info.startswith("file="):
            path = tmp_path / info.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language in ("sh", "bash") and shutil.which(language):
            failed = info == "fails"
            code, output = run(text, tmp_path, language)
            assert code == (1 if failed else 0), f"{text}\n{output}"
            ran += 1
        elif language == "text":
            assert appear(lines(text), lines(output)), f"expected\n{text}\nfound\n{output}"
            # A failure is shown whole, and not some lines of it.
            assert not failed or lines(text) == lines(output)
    assert ran >= 8
    assert (tmp_path / "shop.mmd").read_text().startswith("flowchart LR")
    for name in ("policy.schema.json", "big-orders.yaml"):
        assert (tmp_path / "shop" / name).is_file()


def test_every_key_of_a_test_is_explained() -> None:
    definitions = schemas.load("policy")["$defs"]
    keys = set(definitions["test"]["properties"]) - {"name", "expect"}
    keys |= {f"expect.{key}" for key in definitions["expect"]["properties"]}
    assert keys == set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))


def test_the_commands_of_the_workflow_exist() -> None:
    workflow = next(text for _, info, text in BLOCKS if "workflows" in info)
    steps = [step["run"] for step in yaml.safe_load(workflow)["jobs"]["policy"]["steps"] if "run" in step]
    called = [step.split()[1:] for step in steps if step.startswith("mss ")]
    assert len(called) == 2
    for name, folder, *options in called:
        assert folder == "shop" and name in COMMANDS
        # Against the example: a wrong option would be 2.
        code, output = in_process([name, "rules", *options], ROOT)
        assert code == 0, output


def test_the_hooks_are_those_of_the_page() -> None:
    config = yaml.safe_load(next(text for _, info, text in BLOCKS if "pre-commit-config" in info))
    (repository,) = config["repos"]
    assert [hook["id"] for hook in repository["hooks"]] == [hook["id"] for hook in HOOKS]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs(hook: dict[str, Any]) -> None:
    assert hook["language"] == "python" and hook["pass_filenames"] is False
    program, *arguments = hook["entry"].split()
    code, output = in_process([*arguments, *hook["args"]], ROOT)
    assert program == "mss" and code == 0, output


def test_the_yaml_of_the_page_is_a_policy() -> None:
    for language, info, text in BLOCKS:
        if language == "yaml" and info.startswith("file=shop/"):
            assert schemas.check(read(text, info), "policy") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(shell: str, tmp_path: Path) -> None:
    code, script = in_shell(f"_MSS_COMPLETE={shell}_source mss", tmp_path, "sh")
    assert code == 0 and "mss" in script and f"{shell}_complete" in script


def test_commands_and_options_are_completed() -> None:
    words = {"te": "test", "expl": "explain", "test --req": "--require-coverage", "graph --format s": "svg"}
    for typed, expected in words.items():
        *before, unfinished = typed.split()
        offered = BashComplete(cli, {}, "mss", "_MSS_COMPLETE").get_completions(before, unfinished)
        assert expected in [each.value for each in offered]
