"""``mss push``, ``diff`` and ``replay`` before they need a broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.policy_builders import write

from engine.cli import cli
from engine.cli.push import bucket_name
from engine.settings import Settings

GOOD = {
    "policy.yaml": "channels: {t: {type: console}}\nrules: [{id: r, event: notice.login.abnormal, notify: [t]}]\n",
    "templates/r/default.txt": "hello\n",
}
BAD = {"policy.yaml": "rules: [{id: r, event: notice.login.abnormal, notify: [nowhere]}]\n"}
FAILING = {
    **GOOD,
    "tests.yaml": "tests: [{name: wrong, given: {event: notice.login.abnormal}, expect: {rules: []}}]\n",
}
NOWHERE = "nats://127.0.0.1:1"  # no broker listens there


def mss(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [("push",), ("push", "rules", "--rollback", "2"), ("push", "rules", "--rollback"), ("diff", "1"), ("replay",),
     ("replay", "--rules", "rules", "--since", "yesterday")],
)  # fmt: skip
def test_wrong_usage_has_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert mss(*arguments).exit_code == 2


def test_a_policy_that_cannot_be_served_is_refused_before_connecting(tmp_path: Path) -> None:
    bad, failing = str(write(tmp_path / "bad", BAD)), str(write(tmp_path / "failing", FAILING))
    for command in (("push", bad), ("replay", "--rules", bad, "--live", bad)):
        refused = mss(*command, "--server", NOWHERE)
        assert refused.exit_code == 1 and "[unknown-channel]" in refused.output, refused.output
    refused = mss("push", failing, "--server", NOWHERE)
    assert refused.exit_code == 1 and "1 failed" in refused.output, refused.output


def test_two_folders_are_compared_without_a_broker(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", GOOD), write(tmp_path / "new", FAILING)
    result = mss("diff", str(old), str(new), "--server", NOWHERE)
    assert result.exit_code == 0 and f"+++ {new}/tests.yaml" in result.output
    assert mss("diff", str(old), str(old)).output == ""


def test_the_bucket_is_in_the_settings_or_has_the_prefix_of_the_streams() -> None:
    assert bucket_name(Settings(rules_bucket="HOUSE")) == "HOUSE"
    assert bucket_name(Settings(stream_prefix="ACME")) == "ACME_POLICY"
