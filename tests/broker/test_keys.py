from __future__ import annotations

import os

import pytest

from theorbo.broker.keys import AUTHORIZED_KEYS, AuthorizedKeys, broker_key
from theorbo.schemas.errors import UsageError
from theorbo.schemas.link import user_key

OTHER = "x" * 40


def test_the_brokers_key_is_made_once_and_is_its_own_secret(tmp_path):
    first = broker_key(tmp_path)
    assert broker_key(tmp_path) == first
    assert (tmp_path / "broker-key.json").stat().st_mode & 0o777 == 0o600
    assert first.secret not in repr(first)


def test_at_first_the_user_who_started_the_broker_is_on_the_list(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "alice")
    keys = AuthorizedKeys(tmp_path)
    assert keys.name_of(user_key().public.encode()) == "alice"
    assert keys.name_of(OTHER.encode()) is None


def test_a_key_that_is_added_is_let_in_without_a_restart_and_a_removed_one_is_not(tmp_path):
    keys = AuthorizedKeys(tmp_path)
    (tmp_path / "authorized_keys").write_text(f"# the beamline\nbob {OTHER}\n\n")
    assert keys.name_of(OTHER.encode()) == "bob"
    assert keys.name_of(user_key().public.encode()) is None


def test_a_mistake_in_the_list_is_told_at_the_start_with_its_line(tmp_path):
    (tmp_path / "authorized_keys").write_text(f"bob {OTHER}\ncarol\n")
    with pytest.raises(UsageError, match=r"authorized_keys, line 2.*carol"):
        AuthorizedKeys(tmp_path)


def test_a_mistake_that_is_made_later_leaves_the_former_list_in_force(tmp_path):
    keys = AuthorizedKeys(tmp_path)
    (tmp_path / "authorized_keys").write_text("half a li")
    os.utime(tmp_path / "authorized_keys", (1, 1))
    assert keys.name_of(user_key().public.encode())


def test_a_list_that_is_no_text_changes_nothing(tmp_path):
    """In the thread that answers libzmq an exception would lock everybody out, until the next start."""
    keys = AuthorizedKeys(tmp_path)
    path = tmp_path / AUTHORIZED_KEYS
    (mine,) = (line.split()[1] for line in path.read_text().splitlines() if not line.startswith("#"))
    path.write_bytes(path.read_bytes() + b"caf\xe9 " + b"k" * 40)
    os.utime(path, (1, 1))
    assert keys.name_of(mine.encode()) is not None
    with pytest.raises(UsageError, match="UTF-8"):
        AuthorizedKeys(tmp_path)
