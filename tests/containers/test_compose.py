"""compose.yaml: a broker, a login node, two compute nodes and an observer, each in a container of its own."""

import json
import subprocess
from pathlib import Path

import pytest
from testcontainers.compose import DockerCompose

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]

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


def test_galaxies_are_counted_by_ranks_on_both_nodes_and_the_outcome_is_the_exit_status(services):
    assert services.exit_status("login") == 0, services.run("logs", "login").stdout
    assert "1268 galaxies" in services.run("logs", "login").stdout


def test_an_observer_sees_all_ranks_from_the_first_word_to_the_outcome(services):
    log = services.log_until("observer", "COMPLETED")
    assert "4 ranks progress 56/56 tiles (100 %)" in log
    assert log.index("progress") < log.index("result: 1268 galaxies") < log.index("COMPLETED")


def test_afterwards_the_journal_answers(services):
    services.exit_status("login")
    [execution] = [json.loads(line) for line in services.theorbo("observer", "ps", "--all", "--json").splitlines()]
    assert (execution["state"], execution["lost"]) == ("COMPLETED", 0)
    assert {"node1", "node2"} <= set(execution["hosts"])
    assert "1268 galaxies" in services.theorbo("observer", "result", execution["execution"])


def test_all_services_run_as_a_user_who_is_not_root_and_none_is_published(services):
    for service in ("broker", "observer", "node1", "node2"):
        uids = services.run("exec", "--no-TTY", service, "sh", "-c", "cat /proc/[0-9]*/status | grep ^Uid:").stdout
        assert "\t0" not in uids, f"{service}: {uids}"
    ports = services.run("ps", "--format", "{{.Publishers}}").stdout.split()
    assert set(ports) <= {"[]"}, ports


def test_no_key_lies_in_an_image(services):
    for image in ("theorbo:local", "theorbo-node:local"):
        search = "find / -xdev ( -name 'id_*' -o -name 'ssh_host_*' -o -name '*key*.json' ) -not -path '/proc/*'"
        found = _docker(
            "run", "--rm", "--user", "root", image, "sh", "-c", search.replace("(", "\\(").replace(")", "\\)")
        )
        assert (found.returncode, found.stdout) == (0, ""), found


def test_nobody_without_a_key_on_the_list_is_let_in(services):
    done = services.run("exec", "--no-TTY", "--env", "THEORBO_CONFIG=/tmp/stranger", "observer", "theorbo", "ps")
    assert done.returncode == 6
    assert "is your key on its list?" in done.stderr


def test_a_broker_that_is_told_to_end_does_so_in_good_order(services):
    services.exit_status("login")
    services.run("stop", "broker")
    assert services.exit_status("broker") == 0
