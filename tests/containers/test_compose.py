"""compose.yaml: a standalone broker, a login host and an observer, each in a container of its own."""

import json
import subprocess
from pathlib import Path

import pytest
from testcontainers.compose import DockerCompose

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def _docker(*arguments):
    return subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


class Services:
    """The services of the running compose project, which the environment names."""

    def run(self, *arguments):
        """`docker compose ARGUMENTS`."""
        return _docker("compose", *arguments)

    def theorbo(self, service, *arguments):
        """Run a command of ours in a service's container."""
        done = self.run("exec", "--no-TTY", service, "theorbo", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def exit_status(self, service):
        """Wait for the end of a service, if it has not ended yet."""
        container = self.run("ps", "--all", "--quiet", service).stdout.strip()
        return int(_docker("wait", container).stdout)

    def log_until(self, service, text):
        """The log of a service, as soon as `text` is in it."""
        follow = ["docker", "compose", "logs", "--follow", "--no-log-prefix", "--no-color", service]
        lines = []
        with subprocess.Popen(follow, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                lines.append(line)
                if text in line:
                    process.terminate()
                    return "".join(lines)
        raise AssertionError(f"{service} has ended without {text!r}:\n{''.join(lines)}")


@pytest.fixture(scope="module")
def services(compose_project):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", compose_project)
        with DockerCompose(ROOT, build=True, wait=False):
            yield Services()


def test_a_task_runs_through_the_standalone_broker_and_its_outcome_is_the_exit_status(services):
    assert services.exit_status("login") == 0
    assert "2 file(s) checked" in services.run("logs", "login").stdout


def test_an_observer_sees_every_line_from_the_first_to_the_outcome(services):
    log = services.log_until("observer", "COMPLETED")
    for text in ("checksums of 2 file(s)", "/etc/os-release", "/etc/passwd", "2 file(s) checked"):
        assert text in log
    assert log.index("/etc/os-release") < log.index("/etc/passwd") < log.index("2 file(s) checked")


def test_afterwards_the_journal_answers(services):
    services.exit_status("login")
    [execution] = [json.loads(line) for line in services.theorbo("observer", "ps", "--all", "--json").splitlines()]
    assert (execution["state"], execution["lost"]) == ("COMPLETED", 0)
    assert "2 file(s) checked" in services.theorbo("observer", "result", execution["execution"])


def test_nobody_without_a_key_on_the_list_is_let_in(services):
    done = services.run("exec", "--no-TTY", "--env", "THEORBO_CONFIG=/tmp/stranger", "observer", "theorbo", "ps")
    assert done.returncode == 6
    assert "is your key on its list?" in done.stderr


def test_a_broker_that_is_told_to_end_does_so_in_good_order(services):
    services.exit_status("login")
    services.run("stop", "broker")
    assert services.exit_status("broker") == 0
