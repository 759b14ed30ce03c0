"""``mss demo`` from its start to its end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from pathlib import Path

from support import fork_server
from support.locations import MSS, ROOT
from support.waiting import LIMIT, until


async def demo(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    process = await fork_server.start(
        "demo", *arguments, folder=cwd, environment={**os.environ, "COLUMNS": "100"}, listen=True
    )
    async with asyncio.timeout(LIMIT):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def installed_demo(cwd: Path) -> tuple[int, str, str]:
    """Run the installed program."""
    process = await asyncio.create_subprocess_exec(
        str(MSS), "demo", cwd=cwd, env={**os.environ, "COLUMNS": "100"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_demo_shows_the_mail_and_the_sms(tmp_path: Path) -> None:
    code, shown, errors = await installed_demo(tmp_path)  # without a policy: the example
    assert (code, errors) == (0, "")
    assert re.search(r"mail after \d+ ms", shown) and re.search(r"SMS after \d+ ms", shown)
    for words in (
        "From: KrossIAM <noreply@example.com>",
        "To: alice@example.com",
        "Subject: [KrossIAM] New sign-in from Singapore",
        "Address: 203.0.113.9",
        "To: +8613800000000",
    ):
        assert words in shown


async def test_the_demo_speaks_chinese(tmp_path: Path) -> None:
    code, shown, _ = await demo("--locale", "zh-CN", cwd=tmp_path)
    assert code == 0
    assert "异常登录提醒：新加坡" in shown and "您的账号在新加坡异常登录" in shown


async def test_an_edited_rule_sends_only_the_sms(tmp_path: Path) -> None:
    rules = shutil.copytree(ROOT / "rules", tmp_path / "rules")
    file = rules / "abnormal-login.yaml"
    text = file.read_text()
    assert "notify: [email, sms]" in text
    file.write_text(text.replace("notify: [email, sms]", "notify: [sms]"))
    code, shown, _ = await demo(cwd=tmp_path)
    assert code == 0
    assert "SMS after" in shown and "mail after" not in shown


async def test_a_policy_with_errors_is_not_served(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "a.yaml").write_text("rules:\n  - id: r\n    event: notice.x\n    notify: [nobody]\n")
    code, _, errors = await demo(cwd=tmp_path)
    assert code == 1
    assert "rules/a.yaml:4:14: error: unknown channel 'nobody'" in errors


async def test_ctrl_c_ends_the_demo_and_its_broker(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        str(MSS), "demo", "--stay", cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    await until(lambda: any("Everything keeps running" in line for line in lines), what="it stays up")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == 0
    await reading
    found = re.search(r"nats://127\.0\.0\.1:(\d+)", lines[0])
    assert found
    try:
        await asyncio.open_connection("127.0.0.1", int(found[1]))
    except OSError:
        return
    raise AssertionError("the broker is still there")
