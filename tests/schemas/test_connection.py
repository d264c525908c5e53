"""The connection file, the key file, and where things lie."""

import json
import os
import stat

import pytest

from theorbo.schemas.connection import (
    Connection,
    KeyPair,
    config_directory,
    default_connection_file,
    key_file,
    state_directory,
    write_whole,
)
from theorbo.schemas.errors import Unavailable, UsageError

CONNECTION = Connection(
    router=("tcp://10.0.0.1:5555", "tcp://login:5555"),
    publisher=("tcp://10.0.0.1:5556", "tcp://login:5556"),
    public_key="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
    broker="b1",
    pid=17,
    host="facility",
    version="0.1.0",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "connection.json"


def write(path, **changes):
    CONNECTION.save(path)
    fields = json.loads(path.read_text())
    fields.update(changes)
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))


def test_a_connection_file_is_read_back_as_it_was_written_and_all_may_read_it(path):
    CONNECTION.save(path)
    assert Connection.load(path) == CONNECTION
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_fields_of_a_later_version_are_ignored(path):
    write(path, colour="green")
    assert Connection.load(path) == CONNECTION


def test_no_connection_file_is_the_callers_fault_and_the_way_out_is_named(path):
    with pytest.raises(UsageError, match=r"no connection file .*connection.json: is the broker running\?"):
        Connection.load(path)


def test_a_directory_is_no_connection_file(tmp_path):
    with pytest.raises(UsageError, match="cannot read connection file"):
        Connection.load(tmp_path)


@pytest.mark.parametrize("text", ["", "router = tcp", "[]", "{}", "3", '{"protocol": "one"}', '{"protocol": null}'])
def test_any_other_file_is_no_connection_file(path, text):
    path.write_text(text)
    with pytest.raises(UsageError, match="is no connection file"):
        Connection.load(path)


def test_bytes_that_are_no_text_are_no_connection_file(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no connection file"):
        Connection.load(path)


@pytest.mark.parametrize("missing", ["router", "publisher", "public_key", "broker"])
def test_an_incomplete_connection_file_says_what_is_missing(path, missing):
    write(path, **{missing: ...})
    with pytest.raises(UsageError, match=f"no complete connection file: '{missing}'"):
        Connection.load(path)


def test_a_broker_of_another_protocol_version_is_recognised_and_both_versions_are_said(path):
    write(path, protocol=2, version="7.0", router=...)  # whatever else that version writes
    with pytest.raises(Unavailable, match=r"version 7\.0\) speaks protocol version 2, this side version 1"):
        Connection.load(path)


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_is_left_behind(path):
    write_whole(path, "old", 0o600)
    with path.open() as reader:
        write_whole(path, "new", 0o600)
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(Unavailable, match=r"cannot write .*absent/file: No such file"):
        write_whole(tmp_path / "absent" / "file", "text", 0o600)


def test_a_key_pair_lies_in_a_file_of_its_owner_alone_and_its_secret_is_never_shown(tmp_path):
    path = tmp_path / "config" / "key.json"
    KeyPair("public", "secret").save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert KeyPair.load(path) == KeyPair("public", "secret")
    assert "secret" not in repr(KeyPair.load(path)).replace("secret=", "")


def test_a_key_file_that_others_may_read_is_refused(path):
    KeyPair("public", "secret").save(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="may be read by others; chmod 600"):
        KeyPair.load(path)


def test_what_is_no_key_file_is_refused(path):
    with pytest.raises(UsageError, match="cannot read key file"):
        KeyPair.load(path)
    write_whole(path, "{}", 0o600)
    with pytest.raises(UsageError, match="is no key file"):
        KeyPair.load(path)


@pytest.mark.parametrize(
    ("environment", "state", "config"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.local/state/theorbo", "/home/ada/.config/theorbo"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"}, "/s/theorbo", "/c/theorbo"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s", "THEORBO_STATE": "/t", "THEORBO_CONFIG": "/k"}, "/t", "/k"),
        ({"HOME": "/h", "THEORBO_STATE": "", "THEORBO_CONFIG": ""}, "/h/.local/state/theorbo", "/h/.config/theorbo"),
    ],
)
def test_our_variables_go_before_those_of_the_xdg_specification(environment, state, config):
    assert str(state_directory(environment)) == state
    assert str(config_directory(environment)) == config


def test_the_files_of_the_users_own_broker_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("THEORBO_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("THEORBO_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("THEORBO_KEY_FILE", raising=False)
    assert default_connection_file() == tmp_path / "state" / "connection.json"
    assert key_file() == tmp_path / "config" / "key.json"
    monkeypatch.setenv("THEORBO_KEY_FILE", "/else/where.json")
    assert str(key_file()) == "/else/where.json"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(Unavailable, match="No space left"):
        write_whole(tmp_path / "file", "text", 0o600)
    assert list(tmp_path.iterdir()) == []
