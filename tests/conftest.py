"""What all tests share: a state directory of their own, a real broker on free ports, the real command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.front import Front
from tests.running_broker import DEADLINE_S, RunningBroker

_left_out: set[str] = set()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember which tests the marker expression has left out because they need containers."""
    _left_out.update(item.nodeid for item in items if item.get_closest_marker("containers"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several tells the others' common parent."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = sorted(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The parent hears what a worker has left out."""
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which they were."""
    if _left_out:
        terminalreporter.section("left for `pytest -n 0 -m containers`", sep="-")
        for nodeid in sorted(_left_out):
            terminalreporter.line(nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """In CI everything a test needs is there: one that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {call.excinfo.value if call.excinfo else ''}"
    return report


@pytest.fixture(autouse=True)
def isolation(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test sees the user's own broker, keys or spools. Returns the directory that holds them instead."""
    home = tmp_path_factory.mktemp("theorbo")
    for variable in list(os.environ):
        if variable.startswith("THEORBO_"):
            monkeypatch.delenv(variable)
    for variable, name in (("STATE", "state"), ("CONFIG", "config"), ("SPOOL_ROOT", "spool")):
        (home / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"THEORBO_{variable}", str(home / name))
    return home


@pytest.fixture
def broker(isolation: Path) -> Iterator[RunningBroker]:
    """A broker that the test may stop, kill and restart."""
    state = isolation / "broker"
    state.mkdir()
    running = RunningBroker(state)
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def front(broker: RunningBroker, isolation: Path) -> Iterator[Front]:
    """The same broker from behind a network that the test can spoil: `front.connection_file`, `front.half_open()`."""
    front = Front(broker.connection_file, isolation / "front.json")
    yield front
    front.close()


@pytest.fixture
def run_theorbo() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command: `run_theorbo("ps", "--all", timeout=5.0)`; keywords as of subprocess.run."""

    def run(*arguments: str | Path, **keywords: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 60.0, "stdin": subprocess.DEVNULL, **keywords}
        if "input" in options:
            del options["stdin"]
        return subprocess.run(
            [sys.executable, "-m", "theorbo.schemas.command", *map(str, arguments)], check=False, **options
        )

    return run


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Waits until a condition gives something true, and returns it: `wait_for(lambda: path.exists())`."""

    def wait(condition: Callable[[], Any], what: str = "", timeout_s: float = DEADLINE_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what or condition}"
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Open MPI and nothing of ours."""
    return _environment(tmp_path_factory.mktemp("openmpi") / "venv", "mpi4py", "openmpi")


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment as an analysis group might keep it: pydantic 1, nothing of ours, and Python 3.9
    where there is one.
    """
    return _environment(tmp_path_factory.mktemp("frozen") / "venv", "pydantic<2", python="3.9")


def _environment(place: Path, *packages: str, python: str | None = None) -> Path:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    wanted = ["--python", python] if python else []
    made = subprocess.run(
        ["uv", "venv", "-q", *wanted, str(place)], env=environment, capture_output=True, check=not python
    )
    if made.returncode != 0:
        subprocess.run(["uv", "venv", "-q", str(place)], env=environment, check=True)
    interpreter = place / "bin" / "python"
    install = ["uv", "pip", "install", "-q", "--python", str(interpreter), *packages]
    subprocess.run(install, env=environment, check=True)
    return interpreter
