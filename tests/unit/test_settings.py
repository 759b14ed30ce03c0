"""mss.yaml: defaults, references, and problems with their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.model.errors import SettingsError
from engine.model.messages import Kind
from engine.settings import Settings, load_settings


def test_without_a_file_every_setting_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(None) == Settings()


def test_every_setting_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mss.yaml"
    path.write_text(
        """
        prefix: acme.iam
        servers: [nats://a:4222, nats://b:4222]
        user: mss
        password: ${PW}
        tls: {ca: /etc/ca.pem}
        rules: policy
        services: {log: false, actions: {sendsms: false, iplocation: true}}
        action_deadline: 30s
        replicas: 3
        clock_tolerance: 1m
        retention: {dead: 90d, ledger: 2d}
        ack_wait: 500ms
        metrics: false
        log: {level: debug, format: json}
        """
    )
    settings = load_settings(path, {"PW": "s3cret"})
    assert settings == Settings(
        prefix="acme.iam",
        servers=("nats://a:4222", "nats://b:4222"),
        access={"user": "mss", "password": "s3cret", "tls": {"ca": "/etc/ca.pem"}},
        rules=tmp_path / "policy",
        kinds=(Kind.NOTICE, Kind.AUDIT),
        actions_off=frozenset({"sendsms"}),
        action_deadline=30.0,
        ledger_age=2 * 86400.0,
        replicas=3,
        clock_tolerance=60.0,
        dead_age=90 * 86400.0,
        ack_wait=0.5,
        metrics="",
        log_level="debug",
        log_format="json",
    )
    assert "s3cret" not in repr(settings)


def test_one_setting_switches_all_actions(tmp_path: Path) -> None:
    path = tmp_path / "mss.yaml"
    for written, served in (("false", False), ("true", True), ("{}", True)):
        path.write_text(f"services: {{actions: {written}}}")
        settings = load_settings(path, {})
        assert (settings.actions, settings.actions_off) == (served, frozenset())


def test_every_problem_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mss.yaml"
    path.write_text("prefx: a\nreplicas: many\npassword: ${NO_SUCH}\nack_wait: 10\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    found = {(p.place.line, p.place.column, p.code) for p in caught.value.problems}
    assert found == {
        (1, 1, "unknown-key"),
        (2, 11, "wrong-type"),
        (3, 11, "unset-variable"),
        (4, 11, "wrong-type"),
    }


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "mss.yaml", {})


def test_the_policy_is_in_a_folder_or_a_bucket(tmp_path: Path) -> None:
    path = tmp_path / "mss.yaml"
    path.write_text("rules: nats://MSS_POLICY\n")
    settings = load_settings(path, {})
    assert (settings.rules_bucket, settings.rules) == ("MSS_POLICY", tmp_path / "rules")
    path.write_text("rules: natsy\n")
    assert (load_settings(path, {}).rules_bucket, load_settings(path, {}).rules) == ("", tmp_path / "natsy")
    for wrong in ("nats://a.b", "nats://", "nats://host:4222/x"):
        path.write_text(f"rules: {wrong}\n")
        with pytest.raises(SettingsError, match="a folder, or a bucket such as nats://MSS_POLICY"):
            load_settings(path, {})
