from __future__ import annotations

import os

import pytest

from theorbo.executor import Executor
from theorbo.executor.environment import find_program, own_environment, sourced, updated
from theorbo.schemas.errors import UsageError


@pytest.mark.parametrize(
    ("update_path", "expected"), [("prepend", "/new:/old"), ("append", "/old:/new"), ("overwrite", "/new")]
)
def test_path_is_prepended_appended_or_overwritten(update_path, expected):
    assert updated({"PATH": "/old"}, {"PATH": "/new"}, update_path)["PATH"] == expected


def test_every_other_variable_is_replaced():
    assert updated({"A": "1", "B": "2"}, {"A": "3"}, "prepend") == {"A": "3", "B": "2"}


def test_an_unknown_way_to_update_path_is_an_error_that_names_the_others():
    with pytest.raises(UsageError, match=r"'front'.*prepend, append, overwrite"):
        Executor("m:T").update_environment({"PATH": "/x"}, "front")


@pytest.mark.parametrize("changes", [{"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "zero\0byte"}])
def test_what_can_be_no_environment_variable_is_an_error_at_once(changes):
    with pytest.raises(UsageError):
        Executor("m:T").update_environment(changes)


def test_changes_apply_in_the_order_in_which_they_were_asked_for(tmp_path):
    script = tmp_path / "a script.sh"
    script.write_text('export SEEN="$FIRST"\nexport FIRST=script\n')
    executor = Executor("m:T")
    executor.update_environment({"FIRST": "before"})
    executor.shell_source(str(script))
    executor.update_environment({"LAST": "after"})
    environment = executor.task_environment()
    assert (environment["SEEN"], environment["FIRST"], environment["LAST"]) == ("before", "script", "after")


def test_the_executors_own_environment_is_untouched(tmp_path):
    before = dict(os.environ)
    script = tmp_path / "env.sh"
    script.write_text("export THEORBO_TEST_VALUE=1\ncd /\n")
    executor = Executor("m:T")
    executor.shell_source(str(script))
    executor.update_environment({"PATH": "/elsewhere"}, "overwrite")
    assert executor.task_environment()["THEORBO_TEST_VALUE"] == "1"
    assert dict(os.environ) == before


def test_two_executors_have_environments_of_their_own():
    one, two = Executor("m:T"), Executor("m:T")
    one.update_environment({"WHOSE": "one"})
    two.update_environment({"WHOSE": "two"})
    assert (one.task_environment()["WHOSE"], two.task_environment()["WHOSE"]) == ("one", "two")


def test_values_of_any_bytes_and_lines_come_through_a_script_as_they_were(tmp_path):
    script = tmp_path / "env.sh"
    script.write_bytes(b"export LINES_='one\ntwo=2'\nexport BYTES=$'\\xff\\xfe'\nunset GONE\n")
    found = sourced({"PATH": os.environ["PATH"], "GONE": "1", "KEPT": "ü"}, script)
    assert found["LINES_"] == "one\ntwo=2"
    assert os.fsencode(found["BYTES"]) == b"\xff\xfe"
    assert found["KEPT"] == "ü"
    assert "GONE" not in found


def test_what_a_script_prints_does_not_become_a_variable(tmp_path):
    script = tmp_path / "env.sh"
    script.write_text("echo FAKE=1\nexport REAL=1\n")
    found = sourced({"PATH": os.environ["PATH"]}, script)
    assert found.get("REAL") == "1"
    assert not any("FAKE" in name for name in found)


def test_the_name_of_a_script_is_never_run_as_shell_text(tmp_path):
    script = tmp_path / "$(touch hacked); x.sh"
    script.write_text("export FINE=1\n")
    assert sourced({"PATH": os.environ["PATH"]}, script)["FINE"] == "1"
    assert not (tmp_path / "hacked").exists()


def test_a_script_may_break_path(tmp_path):
    script = tmp_path / "env.sh"
    script.write_text("export PATH=/nowhere\n")
    assert sourced({"PATH": os.environ["PATH"]}, script)["PATH"] == "/nowhere"


def test_a_failing_script_is_an_error_with_its_own_words(tmp_path):
    script = tmp_path / "env.sh"
    script.write_text("echo 'no such module: psana' >&2\nfalse\nexport NEVER=1\n")
    with pytest.raises(UsageError, match=r"env.sh failed with exit code 1: no such module: psana"):
        sourced({"PATH": os.environ["PATH"]}, script)


def test_a_script_may_leave_something_running(tmp_path, monkeypatch):
    monkeypatch.setattr("theorbo.executor.environment.SHELL_SOURCE_S", 3)
    script = tmp_path / "setup.sh"
    script.write_text("sleep 6 &\nexport DAEMON=runs\n")
    assert sourced(dict(os.environ), script)["DAEMON"] == "runs"


def test_a_script_that_exits_is_an_error(tmp_path):
    script = tmp_path / "env.sh"
    script.write_text("exit 0\n")
    with pytest.raises(UsageError, match="ended the shell"):
        sourced({"PATH": os.environ["PATH"]}, script)


def test_a_script_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.sh"):
        sourced({}, tmp_path / "nowhere.sh")


def test_a_task_does_not_inherit_what_would_make_it_another_one():
    outer = {"THEORBO_SPOOL": "/x", "THEORBO_RANK": "3", "PMI_RANK": "3", "OMPI_COMM_WORLD_RANK": "3", "HOME": "/h"}
    assert own_environment(outer) == {"HOME": "/h"}


def test_a_program_is_found_as_the_tasks_environment_would_find_it(tmp_path):
    program = tmp_path / "my tools" / "peaks"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    environment = {"PATH": f"/nowhere:{program.parent}"}
    assert find_program("peaks", environment) is None  # not executable yet
    program.chmod(0o755)
    assert find_program("peaks", environment) == str(program)
    assert find_program("./peaks", {}, str(program.parent)) == str(program)
    assert find_program("peaks", {"PATH": "/nowhere"}) is None
