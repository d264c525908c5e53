"""Tasks, run as the bus runs them, and by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.task_runtime.inprocess import MAIN, Rank, run, run_without_bus

ORDER = """
class Mine(Task):
    def _pre_run(self): log("pre")
    def _run(self):
        log("run"); self.result = {"n": 1}
    def _post_run(self):
        log("post"); self.result["n"] += 1
"""


def test_a_task_runs_in_three_steps_and_reports_its_result(rank):
    assert rank.task(ORDER).returncode == 0
    assert rank.texts() == ["pre", "run", "post"]
    assert rank.only("result").parts[0].value == {"n": 2}


def test_a_task_started_by_hand_prints_what_it_reports(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import logging\n"
        "from theorbo.task_runtime import *\n"
        "class Mine(Task):\n"
        "    def _run(self):\n"
        "        log('text', 'WARNING'); progress(3, 10, unit='files'); metric('rate', 12.5, 'Hz')\n"
        "        logging.getLogger('lib').info('from logging')\n"
        "        data('image', b'abc'); result({'n': 3}, summary='three files'); print('own output')\n"
        "if __name__ == '__main__':\n"
        "    install(); Mine().run()\n"
    )
    for arguments in ((str(path),), (*MAIN, f"{path}:Mine")):
        done = run_without_bus(*arguments)
        lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
        assert lines == [
            "WARNING text",
            "progress 3/10 files (30 %)",
            "metric rate = 12.5 Hz",
            "INFO from logging",
            "data image: (application/octet-stream, 3 bytes)",
            "result: three files; {'n': 3}",
        ]
        assert done.stdout == "own output\n"


def test_an_uncaught_exception_is_reported_with_the_tasks_own_traceback(rank):
    done = rank.task("""
        class Mine(Task):
            def _run(self): raise ValueError("no beam in shot 17")
    """)
    failed = rank.only("task_failed")
    assert (done.returncode, done.stderr, failed.error) == (1, "", "ValueError: no beam in shot 17")
    assert "mine.py" in failed.traceback
    assert "task_runtime" not in failed.traceback


def test_an_enormous_error_fits_into_a_signal(rank):
    rank.task("""
        class Mine(Task):
            def _run(self): raise ValueError("\\0" * 1_000_000)
    """)
    assert rank.only("task_failed").error.startswith("ValueError: \0")


@pytest.mark.parametrize(
    ("call", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit(0)", 0), ("os._exit(4)", 4)]
)
def test_exit_codes_are_kept(rank, call, code):
    done = rank.task(f"""
        import os, sys
        class Mine(Task):
            def _run(self): {call}
    """)
    assert done.returncode == code
    assert rank.events() == []


def test_a_very_long_text_of_sys_exit_is_cut(rank):
    rank.task("class Mine(Task):\n    def _run(self): raise SystemExit('x' * 300_000)")
    assert rank.only("task_failed").error.startswith("xxxx")


def test_the_text_of_sys_exit_is_the_error(rank):
    done = rank.task("class Mine(Task):\n    def _run(self): raise SystemExit('no peaks')")
    assert (done.returncode, rank.only("task_failed").error) == (1, "no peaks")


def test_an_unsendable_part_fails_the_task_and_the_rest_is_kept(rank):
    done = rank.task("""
        import threading
        class Mine(Task):
            def _run(self): self.result = {"good": [1, 2], "bad": threading.Lock()}
    """)
    assert done.returncode == 1
    good, bad = rank.only("result").parts
    assert (good.name, good.value) == ("good", [1, 2])
    assert "lock" in (bad.problem or "")
    assert rank.only("task_failed").error.startswith("result 'result': part 'bad': a value of type _thread.lock")
    assert rank.texts("ERROR") == [rank.only("task_failed").error]


def test_printed_lines_reach_stdout_at_once(rank):
    done = rank.task("""
        import os
        class Mine(Task):
            def _run(self): print("line"); os._exit(0)
    """)
    assert done.stdout == "line\n"


def test_logging_warnings_and_threads_are_reported_once_and_not_printed(rank):
    done = rank.task("""
        import logging, sys, threading, warnings
        logging.basicConfig(level=logging.INFO)
        def fail(): raise KeyError("shot")
        class Mine(Task):
            def _run(self):
                logging.getLogger("analysis").info("%d frames", 3)
                logging.getLogger().addHandler(logging.StreamHandler())
                logging.warning("root")
                logging.debug("too fine")
                try: 1 / 0
                except ZeroDivisionError: logging.getLogger("analysis").exception("bad frame")
                warnings.warn("old interface")
                thread = threading.Thread(target=fail); thread.start(); thread.join()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    info, root, exception, warning, thread = rank.events("log")
    assert (info.level, info.logger, info.text) == ("INFO", "analysis", "3 frames")
    assert (root.level, root.logger, root.text) == ("WARNING", "", "root")
    assert exception.level == "ERROR"
    assert exception.text.startswith("bad frame\nTraceback")
    assert (warning.level, warning.logger) == ("WARNING", "py.warnings")
    assert "UserWarning: old interface" in warning.text
    assert "KeyError: 'shot'" in thread.text


def test_a_script_that_installs_the_reporting_is_treated_alike(rank):
    done = rank.script("import logging; install(); install(); logging.info('line'); 1 / 0", check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert rank.texts() == ["line"]
    assert rank.only("task_failed").error == "ZeroDivisionError: division by zero"


def test_spawned_children_find_the_file_of_the_task_and_report_their_logging(rank):
    done = rank.task("""
        import logging, multiprocessing
        def work(n):
            logging.getLogger("child").info("logged %d", n)
            log(f"child {n}")
            return n * n
        class Mine(Task):
            def _run(self):
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    self.result = pool.map(work, range(4))
                    pool.close(); pool.join()
    """)
    assert done.returncode == 0, done.stderr
    assert rank.only("result").parts[0].value == [0, 1, 4, 9]
    assert sorted(rank.texts()) == [f"child {n}" for n in range(4)] + [f"logged {n}" for n in range(4)]


def test_a_forked_child_that_fails_does_not_fail_the_task(rank):
    done = rank.task("""
        import os
        class Mine(Task):
            def _run(self):
                child = os.fork()
                if child == 0: raise RuntimeError("in the child")
                self.result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    """)
    assert done.returncode == 0
    assert rank.only("result").parts[0].value == 1
    assert "RuntimeError: in the child" in rank.texts("ERROR")[0]
    assert rank.events("task_failed") == []


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("@dataclasses.dataclass\nclass Model:\n    n: int\n    x: float = 1.0", {}, ["'n' is missing"]),
        ("@dataclasses.dataclass\nclass Model:\n    number: int = 1", {"nubmer": 3}, ["'nubmer'", "3", "number?"]),
        (
            "class Model:\n    def __init__(self, n, *, x=1): raise ValueError(f'{n} is odd')",
            {"n": 3},
            ["n = 3", "3 is odd"],
        ),
        ("class Model(pydantic.BaseModel):\n    n: int", {"n": "many"}, ["'n'", "'many'", "integer"]),
        ("class Model(pydantic.BaseModel):\n    n: int", {}, ["'n' is missing"]),
        ("class Model(pydantic.BaseModel):\n    number: int = 1", {"nubmer": 3}, ["'nubmer'", "number?"]),
        ("class Model(pydantic.v1.BaseModel):\n    n: int", {"n": "many"}, ["'n'", "'many'", "integer"]),
        ("class Model(pydantic.v1.BaseModel):\n    n: int", {"n": 1, "m": 2}, ["'m'", "2", "it has n"]),
    ],
)
def test_wrong_parameters_fail_the_task_with_name_and_value(rank, model, parameters, words):
    code = f"import dataclasses, pydantic, pydantic.v1\n{model}\nclass Mine(Task):\n    Parameters = Model\n"
    done = rank.task(code, THEORBO_PARAMETERS=json.dumps(parameters))
    failed = rank.only("task_failed")
    assert done.returncode == 1
    assert failed.traceback == ""
    for word in words:
        assert word in failed.error


def test_parameters_without_a_model_are_a_namespace_of_what_was_given(rank):
    code = "class Mine(Task):\n    def _run(self): self.result = vars(self.parameters)"
    assert rank.task(code, THEORBO_PARAMETERS='{"a": [1, {"b": null}]}').returncode == 0
    assert rank.only("result").parts[0].value == {"a": [1, {"b": None}]}
    for text in ("{", "[1]"):
        assert rank.task(code, THEORBO_PARAMETERS=text).returncode == 1
    assert all("THEORBO_PARAMETERS is no JSON" in event.error for event in rank.events("task_failed"))


def test_a_task_runs_in_an_old_environment_that_has_nothing_of_ours(rank, frozen, inprocess):
    (rank.directory / "old.py").write_text("""
import logging, multiprocessing, pydantic
from theorbo.task_runtime import Task, data, install, log, metric, progress, result
def work(n): log(f"child {n}")
class Old(Task):
    class Parameters(pydantic.BaseModel):
        threshold: float = 0.5
    def _run(self):
        assert pydantic.VERSION.startswith("1.")
        logging.info("logged"); progress(1, 2); metric("x", float("nan")); data("raw", b"abc"); log("x" * 100_000)
        with multiprocessing.get_context("spawn").Pool(1) as pool: pool.map(work, [1])
        self.result = {"threshold": self.parameters.threshold}
""")
    spec = f"{rank.directory}/old.py:Old"
    environment = inprocess({**rank.environment, "THEORBO_PARAMETERS": '{"threshold": "0.25"}'})
    done = run(frozen, *MAIN, spec, environment=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert rank.only("result").parts[0].value == {"threshold": 0.25}
    assert {event.kind for event in rank.events()} == {"log", "progress", "metric", "data", "result"}
    wrong = run(
        frozen, *MAIN, spec, environment={**environment, "THEORBO_PARAMETERS": '{"threshold": "high"}'}, check=False
    )
    assert wrong.returncode == 1
    assert "parameter 'threshold' = 'high'" in rank.only("task_failed").error


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("raise RuntimeError('off')", "RuntimeError: off"),
        ("sys.exit(3)", "exit code 3"),
        ("sys.stdout.close(); sys.exit(3)", "exit code 3"),
    ],
)
def test_a_failing_rank_ends_the_others_that_wait_for_it(tmp_path, end, error):
    path = tmp_path / "mine.py"
    path.write_text(f"""
import sys
from theorbo.task_runtime import Task, log
class Mine(Task):
    use_mpi = True
    def _run(self):
        from mpi4py import MPI
        log(f"rank {{MPI.COMM_WORLD.rank}}")
        MPI.COMM_WORLD.Barrier()  # else the abort may come before the other rank's log
        if MPI.COMM_WORLD.rank == 1: {end}
        MPI.COMM_WORLD.Barrier()
""")
    ranks = [Rank(tmp_path, number) for number in range(2)]
    environment = {name: value for name, value in ranks[0].environment.items() if name != "THEORBO_RANK"}
    program = 'THEORBO_RANK=$PMI_RANK exec "$@"'
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    command = [mpiexec, "-n", "2", "sh", "-c", program, "sh", sys.executable, *MAIN, f"{path}:Mine"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert ranks[0].texts() == ["rank 0"]
    assert ranks[1].texts() == ["rank 1"]
    assert ranks[1].only("task_failed").error == error
