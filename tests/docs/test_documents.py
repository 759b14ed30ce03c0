"""What the documents show is run: commands, files, code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.delivery_outcomes import mss
from support.doc_runner import appear, lines
from support.locations import MSS, ROOT
from support.waiting import LIMIT, until

from engine.broker.embedded import embedded_broker
from engine.channels import TYPES
from engine.cli import COMMANDS, cli
from engine.documents import schemas
from engine.documents.yaml import read
from engine.metrics import Metrics

README = (ROOT / "README.md").read_text()
OPERATING = (ROOT / "docs/operating.md").read_text()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what else its first line says, its text."""

    language: str
    info: str
    text: str


def blocks(document: str) -> Iterator[Block]:
    for found in re.finditer(r"^```(\w+)(.*?)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2].strip(), found[3])


@contextlib.asynccontextmanager
async def serving(command: str, folder: Path, environment: dict[str, str]) -> AsyncIterator[list[str]]:
    """Run a command that serves in the background; yields the lines it prints."""
    lines: list[str] = []
    process = await asyncio.create_subprocess_shell(
        f"exec {command}", cwd=folder, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    try:
        await until(lambda: any(" serving " in line for line in lines), what=f"{command} serves")
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0, lines
        await reading


async def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_shell(
        f"set -e\n{command}", cwd=folder, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_first_rule_of_the_readme(tmp_path: Path, unused_tcp_port: int) -> None:
    # The same commands on another port, so that several may run on one machine.
    (tmp_path / "mss.yaml").write_text(f"servers: nats://127.0.0.1:{unused_tcp_port}\nmetrics: false\n")
    environment = {**os.environ, "PATH": f"{MSS.parent}:{os.environ['PATH']}"}
    commands = []
    async with contextlib.AsyncExitStack() as stack:
        lines: list[str] = []
        for block in blocks(README):
            if block.info.startswith("file="):
                path = tmp_path / block.info.removeprefix("file=")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "sh" and block.info == "background":
                lines = await stack.enter_async_context(serving(block.text.strip(), tmp_path, environment))
            elif block.language == "sh":
                await run(block.text, tmp_path, environment)
                commands.append(block.text)
        await until(
            lambda: any("Ada made 3 cups of coffee." in line for line in lines),
            what="the words of the README",
        )
        await run(commands[-1].replace('"cups": 3', '"cups": 1'), tmp_path, environment)
        await run(commands[-1].replace("Ada", "Grace"), tmp_path, environment)
        await until(lambda: any("Grace made 3 cups" in line for line in lines), what="the third event")
        assert not any("1 cups" in line for line in lines)


async def test_what_people_choose(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mss(commands: str, *, code: int = 0) -> list[str]:
        """What each of the commands prints, without a process for each."""
        printed = []
        for line in commands.replace("|\n", "|").splitlines():
            given, _, command = line.rpartition("|")
            words = shlex.split(command)[1:]
            result = await asyncio.to_thread(CliRunner().invoke, cli, words, "".join(shlex.split(given)[1:]))
            assert result.exit_code == code, result.output
            printed.append(result.output)
        return printed

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mss.yaml").write_text(f"servers: nats://127.0.0.1:{unused_tcp_port}\nmetrics: false\n")
    environment = {**os.environ, "PATH": f"{MSS.parent}:{os.environ['PATH']}"}
    shown = list(blocks((ROOT / "docs/preferences.md").read_text()))
    for block in shown:
        if block.info.startswith("file="):
            path = tmp_path / block.info.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    (tests,) = [block.text for block in shown if (block.language, block.info) == ("sh", "")]
    (server,) = [block.text.strip() for block in shown if block.info == "background"]
    commands = {block.info: block.text for block in shown if block.language == "sh"}
    (options,) = [json.loads(block.text) for block in shown if block.language == "json"]
    (traced,) = [lines(block.text) for block in shown if block.language == "text"]

    assert "2 tests, 2 passed" in (await mss(tests))[0]
    async with serving(server, tmp_path, environment):
        assert json.loads((await mss(commands["name=options"]))[0]) == options
        chosen = {"security": ["email"], "tips": [], "locale": "de"}
        reply = json.loads((await mss(commands["name=set"]))[0])
        assert reply == {"userid": "u-1024", "preferences": chosen}
        got, after, listed = await mss(commands["name=get"])
        assert json.loads(got) == chosen
        assert json.loads(after) == {**chosen, "quiet_hours": "22:00-07:00", "time_zone": "Europe/Berlin"}
        assert listed.splitlines()[1].startswith("u-1024  {")
        changed = json.loads((await mss(commands["name=own"]))[0])
        assert changed["userid"] == "u-1024" and changed["preferences"]["quiet_hours"] == "21:00-08:00"
        (refused,) = await mss(commands["name=foreign"], code=1)
        assert "userid: this subject is for u-1024 only" in refused
        assert appear(traced, lines(await run(commands["name=trace"], tmp_path, environment)))


async def test_tracing_and_dead_letters_of_the_operating_page(tmp_path: Path, unused_tcp_port: int) -> None:
    (tmp_path / "mss.yaml").write_text(f"servers: nats://127.0.0.1:{unused_tcp_port}\nmetrics: false\n")
    environment = {**os.environ, "PATH": f"{MSS.parent}:{os.environ['PATH']}"}
    for block in blocks(README):
        if block.info.startswith("file=hello"):
            path = tmp_path / block.info.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    shown = {block.info: block.text for block in blocks(OPERATING) if block.language == "sh"}

    async def letter_is_there() -> bool:
        return "render-failed" in (await mss("dead", "list", "-c", str(tmp_path / "mss.yaml"))).output

    async with serving("mss serve --embedded --rules hello", tmp_path, environment):
        said = await run(shown["trace"], tmp_path, environment)
        assert "1 delivery: 1 sent" in said and "coffee  matched" in said
        await run(shown["dead"], tmp_path, environment)
        await until(letter_is_there, what="a letter")
        said = await run(shown["redrive"], tmp_path, environment)
        assert "'dict object' has no attribute 'who'" in said and "1 dead letter redriven" in said
        await until(letter_is_there, what="the same once more")
        assert "1 dead letter dropped" in await run(shown["dropped"], tmp_path, environment)
        assert "no dead letters" in await run("mss dead list", tmp_path, environment)


async def test_the_python_of_the_readme(tmp_path: Path) -> None:
    code = next(block.text for block in blocks(README) if block.language == "python")
    async with embedded_broker(tmp_path / "nats") as address:
        import nats

        client = await nats.connect(address)
        got = await client.subscribe("kiam.console.notice.login.abnormal")
        await client.flush()
        (tmp_path / "announce.py").write_text(code.replace("nats://127.0.0.1:4222", address))
        await run(f"{sys.executable} announce.py", tmp_path, dict(os.environ))
        message = await got.next_msg(timeout=LIMIT)
        assert b'"userid":"u1"' in message.data
        await client.close()


def test_the_settings_of_the_operating_page_are_valid() -> None:
    block = next(block for block in blocks(OPERATING) if block.info == "file=mss.yaml")
    document = read(block.text, "mss.yaml")
    assert document.problems == () and schemas.check(document, "mss") == []


def test_the_operating_page_names_every_metric() -> None:
    named = set(re.findall(r"`(mss_\w+?)(?:_total)?`", OPERATING))
    exposed = {family.name for family in Metrics().registry.collect()}
    assert {name.removesuffix("_info") for name in named} == {name.removesuffix("_info") for name in exposed}


def test_the_operating_page_names_every_command_that_exists() -> None:
    text = README + OPERATING + (ROOT / "CHANGELOG.md").read_text()
    shown = set(re.findall(r"`?mss ([a-z]+)", text)) - {"is"}
    assert shown - set(COMMANDS) <= {"mss"}
    for command in COMMANDS:
        assert f"`{command}`" in text or f"mss {command}" in text, command


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output and len(result.output.splitlines()) > 4


def test_registry_schema_and_documents_know_the_same_channel_types() -> None:
    types = schemas.load("policy")["$defs"]["channel_type"]["enum"]
    assert sorted(types) == sorted(TYPES)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "msc" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_yaml_of_the_documents_reads() -> None:
    for page in (README, OPERATING):
        for block in blocks(page):
            if block.language == "yaml":
                assert yaml.safe_load(block.text)
