"""A host that has only one of the distributions works: built as wheels, installed with what they declare.

Needs uv (which `uv run` provides) and the package index.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from theorbo.schemas.command import COMMANDS

ROOT = Path(__file__).parents[2]

DISTRIBUTIONS = {
    "theorbo-schemas": [],
    "theorbo-broker": ["broker", "journal", "schema", "doctor"],
    "theorbo-executor": ["run", "attach", "launch", "node", "agent", "emit", "schema", "doctor"],
    "theorbo-task-runtime[agent]": ["launch", "node", "agent", "emit", "doctor"],
    "theorbo-observer": ["tail", "ps", "result", "replay", "cancel", "stop", "continue", "stacks", "schema", "doctor"],
}
"""What one installs, and which commands one then has."""


def uv(*arguments):
    program = os.environ.get("UV") or shutil.which("uv")
    assert program, "uv is not on PATH; run the tests by `uv run pytest`"
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheels")
    uv("build", "--quiet", "--all-packages", "--wheel", "--out-dir", str(directory))
    assert len(list(directory.glob("*.whl"))) == 5
    return directory


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """Makes a virtual environment with one distribution, and tells where its `theorbo` is."""
    made = {}

    def install(distribution):
        if distribution not in made:
            environment = tmp_path_factory.mktemp("host") / "venv"
            uv("venv", "--quiet", str(environment))
            python = environment / "bin" / "python"
            uv("pip", "install", "--quiet", "--python", str(python), "--find-links", str(wheels), distribution)
            made[distribution] = environment / "bin" / "theorbo"
        return made[distribution]

    return install


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_host_with_one_distribution_has_its_commands_and_tells_where_the_others_come_from(installed, name):
    theorbo = installed(name)
    overview = run(theorbo, "--help")
    assert (overview.returncode, overview.stderr) == (0, "")
    for command, (distribution, what) in COMMANDS.items():
        assert what in overview.stdout
        if command in DISTRIBUTIONS[name]:
            help_page = run(theorbo, command, "--help")
            assert (help_page.returncode, help_page.stderr) == (0, ""), command
            assert f"theorbo {command}" in help_page.stdout
        elif command in ("schema", "doctor"):  # come with the base of theorbo-schemas, without pydantic and pyzmq
            refused = run(theorbo, command)
            assert refused.returncode == 2
            assert refused.stderr.endswith(f"install {distribution} with all it depends on\n")
        else:
            refused = run(theorbo, command)
            assert refused.returncode == 2
            assert refused.stderr in (
                f"theorbo: the command {command!r} is not installed here; it comes with {distribution}\n",
                f"theorbo {command}: pydantic is not installed here, which this command needs; install {distribution} "
                "with all it depends on\n",
            )


def test_the_task_runtime_without_its_agent_reports_and_tells_what_is_missing(installed):
    theorbo = installed("theorbo-task-runtime")
    assert run(theorbo, "emit", "log", "hello").stderr.endswith("INFO hello\n")
    refused = run(theorbo, "agent", "--help")
    assert refused.returncode == 2
    assert "is not installed here, which this command needs; install theorbo-task-runtime[agent]" in refused.stderr


@pytest.mark.parametrize(
    ("name", "command"),
    [("theorbo-observer", ["ps"]), ("theorbo-executor", ["run", "--", "true"])],
)
def test_without_a_broker_to_start_the_way_out_is_named(installed, name, command):
    refused = run(installed(name), *command)
    assert (refused.returncode, refused.stdout) == (6, "")
    assert refused.stderr == (
        f"theorbo {command[0]}: no broker is named (--broker or THEORBO_BROKER), and there is none on this machine "
        "that could be started; name one, or install theorbo-broker\n"
    )
