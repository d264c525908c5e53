from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from theorbo.broker import settings
from theorbo.schemas.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"


def config(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    return file


def test_the_defaults_are_for_one_user_on_this_machine(isolation):
    found = settings.load(None, {})
    assert found.bind == "tcp://127.0.0.1:5580"
    assert found.state == isolation / "state"
    assert found.connection_file == isolation / "state" / "connection.json"


def test_flags_go_before_environment_before_file_before_defaults(tmp_path, monkeypatch):
    file = config(tmp_path, 'bind = "tcp://127.0.0.1:1"\nretention_days = 1\nlog_level = "error"\n')
    monkeypatch.setenv("THEORBO_BROKER__BIND", "tcp://127.0.0.1:2")
    monkeypatch.setenv("THEORBO_BROKER__RETENTION_DAYS", "2")
    found = settings.load(file, {"bind": "tcp://127.0.0.1:3"})
    assert (found.bind, found.retention_days, found.log_level) == ("tcp://127.0.0.1:3", 2.0, "error")
    assert found.retention_bytes == settings.BrokerSettings.model_fields["retention_bytes"].default


def test_the_variable_that_names_a_connection_file_is_no_setting(monkeypatch):
    monkeypatch.setenv("THEORBO_BROKER", "/some/connection.json")
    settings.load(None, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('bnd = "tcp://127.0.0.1:1"', ["broker.toml", "'bnd'", "did you mean bind"]),
        ("x = 1", ["broker.toml", "'x'", "known are bind, publisher"]),
        ('bind = "127.0.0.1:1"', ["broker.toml", "bind = '127.0.0.1:1'", "tcp://ADDRESS:PORT"]),
        ('bind = ""', ["broker.toml", "bind = ''", "needed"]),
        ('bind = "tcp://127.0.0.1:99999"', ["broker.toml", "99999"]),
        ("retention_days = -1", ["broker.toml", "retention_days = -1", "greater than 0"]),
        ('log_level = "loud"', ["broker.toml", "log_level = 'loud'", "debug"]),
        ("bind = \n", ["broker.toml", "no TOML", "line 1"]),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place_and_value(tmp_path, text, words):
    with pytest.raises(UsageError) as error:
        settings.load(config(tmp_path, text), {})
    for word in words:
        assert word in str(error.value)


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("THEORBO_BROKER__RETENTION_BYTES", "lots")
    with pytest.raises(UsageError, match=r"THEORBO_BROKER__RETENTION_BYTES.*'lots'"):
        settings.load(None, {})


def test_an_unknown_variable_is_told_with_what_is_near(monkeypatch):
    monkeypatch.setenv("THEORBO_BROKER__STAT", "/tmp")
    with pytest.raises(UsageError, match=r"THEORBO_BROKER__STAT.*did you mean state"):
        settings.load(None, {})


def test_a_mistake_in_a_flag_names_the_flag():
    with pytest.raises(UsageError, match=r"--retention-days.*'soon'"):
        settings.load(None, {"retention_days": "soon"})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml.*No such file"):
        settings.load(tmp_path / "nowhere.toml", {})


def test_check_config_prints_settings_that_can_be_read_back(tmp_path, run_theorbo):
    file = config(tmp_path, 'bind = "tcp://127.0.0.1:7777"\n')
    checked = run_theorbo("broker", "--config", file, "--check-config", "--state", tmp_path / 'a "quoted" place')
    assert checked.returncode == 0
    values = tomllib.loads(checked.stdout)
    assert values["bind"] == "tcp://127.0.0.1:7777"
    assert values["state"] == f'{tmp_path}/a "quoted" place'
    assert settings.load(config(tmp_path, checked.stdout), {}).bind == "tcp://127.0.0.1:7777"
    assert not (tmp_path / 'a "quoted" place').exists()


def test_check_config_says_what_is_wrong_in_one_line(tmp_path, run_theorbo):
    checked = run_theorbo("broker", "--config", config(tmp_path, "retention_days = 0"), "--check-config")
    assert checked.returncode == 2
    assert checked.stdout == ""
    assert checked.stderr.count("\n") == 1
    assert "broker.toml: retention_days = 0" in checked.stderr


def test_the_page_of_the_settings_is_current():
    assert (DOCS / "configuration.md").read_text() == settings.page(), (
        "run: uv run python -m theorbo.broker.settings > docs/configuration.md"
    )


def test_every_setting_is_described_and_can_be_given_as_a_flag(run_theorbo):
    usage = run_theorbo("broker", "--help").stdout
    for name, field in settings.BrokerSettings.model_fields.items():
        assert field.description
        assert f"--{name.replace('_', '-')} " in usage
