"""What an Executor refuses before anything is started, and how it treats hooks."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest

from theorbo.executor import BinaryExecutor, Executor, MPIExecutor
from theorbo.executor.reported import Reported
from theorbo.schemas import events
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.frames import Header
from theorbo.schemas.names import Channel, Source, SourceKind


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "a task.py"
    path.write_text("from theorbo.task_runtime import Task\nclass Fine(Task):\n    def _run(self): pass\n")
    return f"{path}:Fine"


def problem(executor: Executor, **options) -> str:
    with pytest.raises(UsageError) as raised:
        executor.execute_task(**options)
    return str(raised.value)


def reported(event: events.EventBase) -> Reported:
    return Reported(Header(channel=Channel.LOG, source=Source(SourceKind.RANK, 2), first=7, position=9), event)


def test_an_unknown_event_is_an_error_with_near_matches():
    with pytest.raises(UsageError, match=r"no event 'TASK_DON'; did you mean TASK_DONE"):
        Executor("m:T").add_hook("TASK_DON", print)


def test_several_hooks_of_one_event_are_called_in_order_and_per_instance():
    called = []
    one, two = Executor("m:T"), Executor("m:T")
    one.add_hook("TASK_LOG", lambda executor, event: called.append(("first", executor is one, event.text, event.rank)))
    one.add_hook("TASK_LOG", lambda executor, event: called.append("second"))
    two.add_hook("TASK_LOG", lambda executor, event: called.append("other"))
    one._call_hooks(("ANY", "TASK_LOG"), reported(events.Log(time=1.0, text="hello")))
    assert called == [("first", True, "hello", 2), "second"]


def test_a_hook_that_raises_is_logged_with_its_traceback_and_the_next_is_called(caplog):
    called = []

    def broken(executor, event):
        raise RuntimeError("hook is broken")

    executor = Executor("m:T")
    executor.add_hook("TASK_LOG", broken)
    executor.add_hook("TASK_LOG", lambda *_: called.append(True))
    with caplog.at_level(logging.ERROR, "theorbo.executor"):
        executor._call_hooks(("TASK_LOG",), reported(events.Log(time=1.0, text="")))
    assert called == [True]
    assert "TASK_LOG failed; the Task goes on" in caplog.text
    assert "RuntimeError: hook is broken" in caplog.text


def test_what_was_reported_has_its_place_and_its_fields():
    event = reported(events.Progress(time=1.0, done=3, total=4))
    assert (event.rank, event.number, event.position, event.kind, event.done, event.total) == (
        2,
        7,
        9,
        "progress",
        3,
        4,
    )
    with pytest.raises(AttributeError):
        _ = event.no_such_field


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": 0}, "0 ranks"),
        ({"time_limit_s": 0}, "time limit of 0 s"),
        ({"time_limit_s": float("nan")}, "time limit of nan s"),
        ({"time_limit_s": float("inf")}, "time limit of inf s"),
        ({"grace_s": float("inf")}, "grace of inf s"),
        ({"grace_s": -1}, "grace of -1 s"),
        ({"experiment": "a\nb"}, r"experiment 'a\nb'"),
        ({"name": "x" * 300}, "task 'xxx"),
        ({"work_dir": "/no/such/place"}, "/no/such/place"),
        ({"python": "/no/such/python"}, "/no/such/python"),
        ({"python": "no-such-python"}, "no-such-python"),
        ({"parameters": {"good": 1, "bad": {1, 2}}}, "parameter 'bad' cannot be handed over as JSON"),
        ({"parameters": {"text": "x" * 100_000}}, "put the large ones into a file"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_and_nothing_is_started(task, options, words, tmp_path):
    assert words in problem(Executor(task, broker=str(tmp_path / "never read"), **options))


@pytest.mark.parametrize("spec", ["peaks", "peaks.py", ":Class", "peaks.py:", "a b:c d"])
def test_what_names_no_task_is_told_what_would(spec):
    assert "path/file.py:Class or package.module:Class" in problem(Executor(spec))


def test_a_program_that_is_named_as_a_task_is_told_where_programs_go(tmp_path):
    path = tmp_path / "reduce.sh"
    path.touch()
    assert problem(Executor(str(path))).endswith("package.module:Class")
    path.chmod(0o755)
    assert problem(Executor(str(path))).endswith(f"; a program comes after --, as in: theorbo run -- {path}")
    assert problem(Executor("ls")).endswith("theorbo run -- ls")


def test_a_directory_is_no_program(tmp_path):
    assert problem(BinaryExecutor([str(tmp_path)])) == f"{tmp_path} is a directory, and no program"


def test_a_file_alone_is_answered_with_the_tasks_in_it(tmp_path):
    path = tmp_path / "peaks.py"
    path.write_text(
        "import theorbo.task_runtime as runtime\nraise SystemExit\nclass Helper: pass\n"
        "class Base(runtime.Task): pass\nclass Find(Base): pass\n"
    )
    assert problem(Executor(str(path))).endswith("; it has: Base, Find")
    assert problem(Executor(f"{path}:")).endswith("; it has: Base, Find")
    path.write_text("class (")
    assert problem(Executor(str(path))).endswith("package.module:Class")


def test_a_program_in_the_place_of_a_task_is_told_whose_it_is():
    with pytest.raises(UsageError, match=r"\['ls', '-l'\].*a SPEC is wanted.*BinaryExecutor"):
        Executor(["ls", "-l"])


def test_a_file_that_is_not_there_is_answered_with_near_matches(tmp_path):
    (tmp_path / "peaks.py").touch()
    assert "did you mean peaks.py?" in problem(Executor(f"{tmp_path}/peeks.py:Find"))


def test_a_broker_that_is_not_there_is_named(task, tmp_path):
    assert "no connection file" in problem(Executor(task, broker=str(tmp_path / "gone.json")))


@pytest.mark.parametrize("command", [[], [""], "ls -l", ["ls", 3], ["ls", "a\0b"]])
def test_a_command_is_a_list_of_text(command):
    with pytest.raises(UsageError):
        BinaryExecutor(command)


def test_a_program_that_is_not_on_the_given_path_is_an_error_that_names_both(tmp_path):
    executor = BinaryExecutor(["ls"])
    executor.update_environment({"PATH": str(tmp_path)}, "overwrite")
    assert problem(executor) == f"there is no program 'ls' on PATH ({tmp_path})"


def test_a_program_in_the_working_directory_is_suggested(tmp_path):
    (tmp_path / "peaks-x").touch()
    assert "did you mean ./peaks-x?" in problem(BinaryExecutor(["peaks-x"], work_dir=str(tmp_path)))
    assert "cannot be executed; chmod +x" in problem(BinaryExecutor(["./peaks-x"], work_dir=str(tmp_path)))


def test_a_failing_script_stops_everything(task, tmp_path):
    script = tmp_path / "env.sh"
    script.write_text("echo broken >&2; false\n")
    executor = Executor(task)
    executor.shell_source(str(script))
    assert "broken" in problem(executor)


def test_nothing_can_be_cancelled_before_it_is_executed():
    with pytest.raises(UsageError, match="nothing is being executed"):
        Executor("m:T").cancel()


def test_mpi_without_a_starter_is_told_before_anything_starts(task, broker, tmp_path):
    executor = MPIExecutor([str(_program(tmp_path))], broker=str(broker.connection_file))
    executor.update_environment({"PATH": str(tmp_path)}, "overwrite")
    with pytest.raises(Unavailable, match="no mpiexec or mpirun on PATH"):
        executor.execute_task()


def _program(directory):
    path = directory / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_what_a_hook_is_given_may_be_copied_and_sent_to_another_process():
    reported = Reported(Header(channel=Channel.LOG, first=3), events.Log(time=1.0, text="hello"))
    for other in (copy.copy(reported), pickle.loads(pickle.dumps(reported))):
        assert (other.text, other.number) == ("hello", 3)
