"""Whole executions: real broker, real launcher and agent, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading

import pytest

from theorbo.executor import BinaryExecutor, Executor
from theorbo.schemas.states import State

TASK = """\
import os, signal, sys, time
from theorbo.task_runtime import Task, log, metric, progress, result

class Fine(Task):
    class Parameters:
        def __init__(self, count: int = 3):
            self.count = count
    def _run(self):
        for number in range(self.parameters.count):
            log(f"line {number}")
            progress(number + 1, self.parameters.count)
        for number in range(300):
            metric("level", number)
        log("whose " + os.environ.get("WHOSE", "nobody's"))
        self.result = {"count": self.parameters.count, "blob": bytes(200_000)}

class Sleeps(Task):
    def _run(self):
        log("asleep")
        time.sleep(60)

class Stubborn(Task):
    def _run(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        log("asleep")
        time.sleep(60)

class Waits(Task):
    class Parameters:
        def __init__(self, until: str):
            self.until = until
    def _run(self):
        log("waiting")
        while not os.path.exists(self.parameters.until):
            time.sleep(0.02)
        log("done waiting")
"""


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "some tasks.py"
    path.write_text(TASK)
    return path


class Started:
    """A `theorbo run` under way, read line by line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "theorbo.schemas.command", "run", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def until(self, words: str) -> str:
        """The next line that has `words`."""
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"no {words!r} in {''.join(self.lines)}\n{self.process.stderr.read()}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=40)
        return self.process.returncode, "".join(self.lines) + out, err


@pytest.fixture
def start(broker):
    started = []

    def begin(*arguments) -> Started:
        started.append(Started("--broker", str(broker.connection_file), *map(str, arguments)))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def views(broker, run_theorbo):
    def listed() -> list[dict]:
        listed = run_theorbo("ps", "--all", "--json", "--broker", broker.connection_file)
        return [json.loads(line) for line in listed.stdout.splitlines()]

    return listed


def test_an_execution_returns_its_outcome_and_calls_its_hooks_in_order(tasks, broker):
    called = []
    executor = Executor(f"{tasks}:Fine", broker=str(broker.connection_file), experiment="mfx1", run="007")
    for name in ("TASK_STARTED", "TASK_LOG", "TASK_RESULT", "TASK_DONE"):
        executor.add_hook(name, lambda executor, event, name=name: called.append((name, event.rank)))
    outcome = executor.execute_task()
    assert (outcome.state, outcome.reason, outcome.exit_status) == (State.COMPLETED, "", 0)
    assert (outcome.task, outcome.experiment, outcome.run) == ("Fine", "mfx1", "007")
    assert outcome.execution == executor.execution
    assert called[0] == ("TASK_STARTED", None)
    assert called[-1] == ("TASK_DONE", None)
    assert called.count(("TASK_LOG", 0)) == 4
    assert called.count(("TASK_RESULT", 0)) == 1
    blob = next(part for part in outcome.results[0].parts if part.name == "blob")
    assert outcome.payload(blob) == bytes(200_000)


def test_an_executor_can_run_its_task_again(tasks, broker):
    executor = Executor(f"{tasks}:Fine", broker=str(broker.connection_file))
    first, second = executor.execute_task(), executor.execute_task()
    assert first.execution != second.execution
    assert len(second.results) == 1


def test_two_executors_in_threads_do_not_know_of_each_other(tasks, broker):
    heard: dict[str, list[str]] = {"one": [], "two": []}
    outcomes = {}

    def run(who: str) -> None:
        executor = Executor(f"{tasks}:Fine", broker=str(broker.connection_file), name=who)
        executor.update_environment({"WHOSE": who})
        executor.add_hook("TASK_LOG", lambda _, event: heard[who].append(event.text))
        outcomes[who] = executor.execute_task()

    threads = [threading.Thread(target=run, args=(who,)) for who in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for who, outcome in outcomes.items():
        assert (outcome.state, outcome.task) == (State.COMPLETED, who)
        assert heard[who] == ["line 0", "line 1", "line 2", f"whose {who}"]
    assert "WHOSE" not in os.environ


def test_a_hook_may_cancel_the_task(tasks, broker):
    executor = Executor(f"{tasks}:Sleeps", broker=str(broker.connection_file))
    executor.add_hook("TASK_LOG", lambda executor, event: executor.cancel("seen enough"))
    outcome = executor.execute_task()
    assert outcome.state is State.CANCELLED
    assert outcome.reason.endswith(": seen enough")


def test_a_program_runs_with_paths_that_have_blanks(broker, tmp_path):
    program = tmp_path / "my tools" / "count peaks"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"; echo; exit 3\n')
    program.chmod(0o755)
    lines = []
    executor = BinaryExecutor([str(program), "run 7", "$HOME", "*"], broker=str(broker.connection_file))
    executor.add_hook("OUTPUT", lambda _, event: lines.append(event.text))
    outcome = executor.execute_task()
    assert lines == ["run 7|$HOME|*|"]
    assert (outcome.state, outcome.reason, outcome.task) == (State.FAILED, "exit code 3", "count peaks")


def test_files_beside_it_named_like_python_modules_do_not_matter(broker, tmp_path):
    (tmp_path / "select.py").write_text("raise SystemExit('not the one of Python')")
    command = [sys.executable, "-P", "-m", "theorbo.schemas.command", "run", "--broker", str(broker.connection_file)]
    done = subprocess.run(
        [*command, "--", "true"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "COMPLETED" in done.stdout) == (0, True), done.stdout + done.stderr


def test_provenance_is_in_the_journal(tasks, broker, monkeypatch):
    monkeypatch.setenv("SLURM_API_TOKEN", "hush")
    submitted = []
    executor = Executor(f"{tasks}:Fine", broker=str(broker.connection_file), parameters={"count": 1})
    executor.add_hook("ANY", lambda _, event: submitted.append(event) if event.kind == "execution_submitted" else None)
    executor.execute_task()
    (event,) = submitted
    assert (event.parameters, event.ranks, event.command[1:3]) == ({"count": 1}, 1, ["-m", "theorbo.task_runtime.main"])
    assert "PATH" in event.environment
    assert "hush" not in repr(event.event)


def test_json_is_one_object_an_event_and_one_outcome(tasks, start):
    status, out, _ = start(f"{tasks}:Fine", "--json", "-p", "count=2", "--experiment", "e", "--run", "1").end()
    *objects, outcome = [json.loads(line) for line in out.splitlines()]
    assert (status, outcome["kind"], outcome["state"], outcome["exit_status"]) == (0, "outcome", "COMPLETED", 0)
    fields = {
        "execution",
        "task",
        "experiment",
        "run",
        "source",
        "rank",
        "channel",
        "number",
        "position",
        "kind",
        "time",
    }
    assert all(fields <= each.keys() for each in objects)
    assert {(each["task"], each["experiment"], each["run"]) for each in objects} == {("Fine", "e", "1")}
    assert [each["text"] for each in objects if each["kind"] == "log"][:2] == ["line 0", "line 1"]


def test_plain_lines_go_into_a_pipe(tasks, start):
    status, out, err = start(f"{tasks}:Fine").end()
    assert status == 0, err
    assert "rank 0 INFO line 0" in out
    assert 0 < out.count(" metric level = ") < 100
    assert out.index("metric level = 299") < out.index("COMPLETED")
    assert "rank 0 progress 3/3 (100 %)" in out
    assert "Fine COMPLETED" in out
    assert "theorbo result " in out
    assert "agent_closed" not in out


def test_on_a_terminal_every_rank_has_a_bar_and_lines_go_above(tasks, broker):
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "theorbo.schemas.command", "run", "--broker", str(broker.connection_file)]
    running = subprocess.Popen(
        [*command, f"{tasks}:Fine", "--ranks", "2"], stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert running.wait(40) == 0
    text = shown.decode()
    assert "━" in text
    assert "rank 1 INFO line 2" in text
    assert "3/3 (100 %)" in text
    assert "Fine COMPLETED" in text.splitlines()[-1]


@pytest.mark.parametrize(("job", "terminal_type"), [("& wait", "xterm"), ("", "dumb")])
def test_a_job_in_the_background_and_a_dumb_terminal_get_plain_lines(job, terminal_type, tasks, broker):
    command = [sys.executable, "-m", "theorbo.schemas.command", "run", "--broker", str(broker.connection_file)]
    script = f"set -m; {shlex.join([*command, f'{tasks}:Fine'])} {job}"  # -m: jobs are process groups
    shell, terminal = pty.fork()
    if shell == 0:
        os.execvpe("bash", ["bash", "-c", script], {**os.environ, "TERM": terminal_type})
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) == 0
    assert b"\x1b[" not in shown
    assert b"rank 0 progress 3/3 (100 %)" in shown
    assert b"Fine COMPLETED" in shown


def test_ctrl_c_cancels(tasks, start):
    running = start(f"{tasks}:Sleeps")
    running.until("asleep")
    running.signal(signal.SIGINT)
    status, out, err = running.end()
    assert (status, "CANCELLED: by " in out) == (3, True), out + err
    assert "Ctrl-C again kills" in err


def test_ctrl_c_twice_kills_at_once(tasks, start):
    running = start(f"{tasks}:Stubborn", "--grace", "30")
    running.until("asleep")
    running.signal(signal.SIGINT)
    running.until("cancel requested")
    running.signal(signal.SIGINT)
    status, out, err = running.end()
    assert (status, "CANCELLED" in out) == (3, True), out + err
    assert "kill requested" in out


def test_ctrl_c_three_times_lets_go_and_is_no_success(tasks, start, broker):
    running = start(f"{tasks}:Stubborn")
    running.until("asleep")
    broker.process.send_signal(signal.SIGSTOP)  # so that the kill does not come before the third
    for words in ("cancelling", "killing"):
        running.signal(signal.SIGINT)
        assert words in running.process.stderr.readline()
    running.signal(signal.SIGINT)
    status, out, err = running.end()
    broker.process.send_signal(signal.SIGCONT)
    assert (status, "goes on as execution" in out) == (130, True), out + err


def test_sigterm_cancels(tasks, start):
    running = start(f"{tasks}:Sleeps", "--json")
    running.until("asleep")
    running.signal(signal.SIGTERM)
    status, out, _ = running.end()
    outcome = json.loads(out.splitlines()[-1])
    assert (status, outcome["state"]) == (3, "CANCELLED")
    assert "SIGTERM" in outcome["reason"]


def test_a_time_limit_ends_also_a_task_that_does_not_listen(tasks, start):
    status, out, err = start(f"{tasks}:Stubborn", "--time-limit", "1.5", "--grace", "0.5").end()
    assert (status, "TIMEDOUT: time limit of 1.5 s reached" in out) == (4, True), out + err


@pytest.mark.parametrize("how", ["sighup", "detach"])
def test_let_go_the_task_goes_on_and_ends_by_itself(how, tasks, start, views, tmp_path, wait_for):
    gate = tmp_path / "gate"
    running = start(f"{tasks}:Waits", "-p", f"until={gate}", *(["--detach"] if how == "detach" else []))
    if how == "sighup":
        running.until("INFO waiting")
        running.signal(signal.SIGHUP)
    status, out, err = running.end()
    assert status == 0, err
    (view,) = views()
    assert f"execution {view['execution']} (RUNNING)" in out
    assert f"theorbo tail --execution {view['execution']}" in out
    gate.touch()
    wait_for(lambda: views()[0]["state"] == "COMPLETED")


def test_a_broker_that_is_killed_and_comes_back_costs_nothing(tasks, start, broker, tmp_path):
    gate = tmp_path / "gate"
    running = start(f"{tasks}:Waits", "--json", "-p", f"until={gate}")
    running.until('"waiting"')
    broker.kill()
    gate.touch()
    broker.restart()
    status, out, err = running.end()
    assert status == 0, out + err
    *objects, outcome = [json.loads(line) for line in out.splitlines()]
    assert outcome["state"] == "COMPLETED"
    assert [each["text"] for each in objects if each["kind"] == "log"] == ["waiting", "done waiting"]
    places = [(each["channel"], each["position"]) for each in objects]
    assert len(places) == len(set(places))


def test_without_a_broker_one_is_started_and_knows_it_all_afterwards(tasks, run_theorbo):
    completed = run_theorbo("run", f"{tasks}:Fine", "--json")
    assert completed.returncode == 0, completed.stderr
    execution = json.loads(completed.stdout.splitlines()[-1])["execution"]
    view = json.loads(run_theorbo("ps", "--all", "--json").stdout)
    assert (view["execution"], view["state"]) == (execution, "COMPLETED")


def test_an_executor_of_a_tasks_file_runs_with_a_configuration(tasks, start, tmp_path):
    (tmp_path / "all.py").write_text(
        f"from theorbo.executor import Executor\nfine = Executor({str(tasks) + ':Fine'!r}, name='Fine')\n"
        "fine.update_environment({'WHOSE': 'file'})\n"
    )
    config = tmp_path / "run.yaml"
    config.write_text("experiment: mfx1\nrun: 007\n---\nFine:\n  count: 1\n")
    running = start("fine", "--tasks", tmp_path / "all.py", "-c", config, "--json")
    status, out, err = running.end()
    assert status == 0, err
    *objects, outcome = [json.loads(line) for line in out.splitlines()]
    assert (outcome["experiment"], outcome["run"]) == ("mfx1", "007")
    assert [each["text"] for each in objects if each["kind"] == "log"] == ["line 0", "whose file"]


def test_copies_of_a_task_without_mpi_are_independent_and_noted(tasks, start):
    status, out, err = start(f"{tasks}:Fine", "--ranks", "3", "--json").end()
    assert status == 0, err
    objects = [json.loads(line) for line in out.splitlines()]
    assert {each["rank"] for each in objects if each["kind"] == "log"} == {0, 1, 2}
    assert "3 independent copies" in err


def test_the_reader_of_our_output_may_leave_and_the_task_goes_on(tasks, start, views, tmp_path, wait_for):
    gate = tmp_path / "gate"
    running = start(f"{tasks}:Waits", "-p", f"until={gate}")
    running.until("INFO waiting")
    running.process.stdout.close()
    gate.touch()
    assert running.process.wait(40) == 0
    assert views()[0]["state"] == "COMPLETED"


def test_nothing_is_left_of_an_execution(tasks, start, isolation):
    assert start(f"{tasks}:Fine").end()[0] == 0
    assert [path.name for path in (isolation / "spool").glob("theorbo-*/*")] == []


def test_a_task_that_is_let_go_at_once_runs_all_the_same(broker, tmp_path, wait_for, views):
    executor = BinaryExecutor(
        ["/bin/sh", "-c", "touch ran"], broker=str(broker.connection_file), work_dir=str(tmp_path)
    )
    executor.add_hook("ANY", lambda executor, _event: executor.let_go())
    assert not executor.execute_task().state.final
    wait_for((tmp_path / "ran").exists)
    wait_for(lambda: views()[0]["state"] == "COMPLETED")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_while_the_task_is_imported_nothing_of_it_goes_on(number, start, tmp_path, wait_for):
    (tmp_path / "python").symlink_to(sys.executable)  # another one, hence a child of a child
    said = tmp_path / "said"
    (tmp_path / "slow.py").write_text(
        f"import os, time; open({str(said)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    running = start("--python", tmp_path / "python", f"{tmp_path}/slow.py:Slow")
    pid = int(wait_for(lambda: said.exists() and said.read_text()))
    running.signal(number)
    status, _, err = running.end()
    assert (status, err) == (130, "theorbo run: interrupted before anything was launched\n")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize(
    ("code", "how"),
    [("os._exit(0)", "ended with exit code 0"), ("os.kill(os.getpid(), 11)", "was killed by signal 11")],
)
def test_a_task_that_ends_its_python_at_import_is_refused_in_a_sentence(code, how, start, tmp_path):
    (tmp_path / "crash.py").write_text(f"import os; {code}")
    status, _, err = start(f"{tmp_path}/crash.py:Crash").end()
    assert (status, err) == (2, f"theorbo run: {tmp_path}/crash.py:Crash: Python {how} while it was imported\n")


def test_a_secret_parameter_reaches_the_task_and_not_the_journal(start, tmp_path):
    (tmp_path / "door.py").write_text("""
import pydantic
from theorbo.task_runtime import Task
class Door(Task):
    class Parameters(pydantic.BaseModel):
        password: pydantic.SecretStr
    def _run(self):
        self.result = {"opens": self.parameters.password.get_secret_value() == "hunter2"}
""")
    status, out, err = start("--json", "-p", "password=hunter2", f"{tmp_path}/door.py:Door").end()
    assert (status, err) == (0, "")
    assert "hunter2" not in out
    assert '"opens":true' in out
    assert '"parameters":{"password":"**********"}' in out
