"""`theorbo launch` with ranks and agents on several machines, which are namespaces of this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.task_runtime.launching import launch, with_limits
from tests.task_runtime.machine import Machine
from theorbo.schemas.launch_plan import NodeStart

SRUN = """
number=0
for init in here $NODES; do
    enter="nsenter --target $init --mount --uts --pid"
    [ $init = here ] && enter=
    for each in $(seq $RANKS_PER_NODE); do
        PMI_RANK=$number $enter "$@" &
        number=$((number + 1))
    done
done
wait
"""


@pytest.fixture
def machines(tmp_path):
    """Makes machines whose place for spools is that of the test's launches."""
    spools = tmp_path / "spools"
    spools.mkdir(mode=0o700)
    made = []

    def make(*names):
        made.extend(Machine(name, spools) for name in names)
        return made

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def launched(broker, tmp_path):
    """Launches one rank or more here and on each of the machines."""
    all_launched = []

    def start(machines, *command, ranks_per_node=1, **options):
        ranks = ranks_per_node * (1 + len(machines))
        inits = " ".join(machine.shell[2] for machine in machines)
        nodes = [NodeStart(machine.shell, number) for number, machine in enumerate(machines, 1)]
        environment = {"NODES": inits, "RANKS_PER_NODE": str(ranks_per_node), **options.pop("environment", {})}
        srun = options.pop("launcher", ["sh", "-c", SRUN, "srun"])
        all_launched.append(
            launch(
                broker.connection_file, tmp_path, *command, ranks=ranks, launcher=srun, environment=environment,
                nodes=options.pop("nodes", nodes), **options,
            )
        )  # fmt: skip
        return all_launched[-1]

    start.spools = tmp_path / "spools"
    yield start
    for each in all_launched:
        each.client.close()
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def ended(run):
    outcome = run.client.follow_to_end()
    status, stderr = run.end()
    assert run.left_behind() == []
    return outcome, status, stderr


def test_ranks_on_three_machines_are_delivered_by_three_agents(launched, machines):
    there = machines("node1", "node2")
    run = launched(there, "sh", "-c", "echo rank $THEORBO_RANK on $(hostname)", ranks_per_node=2)
    assert ended(run) == (("COMPLETED", ""), 0, "")
    texts = [run.client.texts(f"rank:{rank}", "stdout") for rank in range(6)]
    assert texts[2:] == [["rank 2 on node1"], ["rank 3 on node1"], ["rank 4 on node2"], ["rank 5 on node2"]]
    (started,) = run.client.events("launcher_started")
    assert started.agents == 3
    agents = {told.source: told.event for told in run.client.told if told.event.kind == "agent_started"}
    assert [agents[f"agent:{number}"].host for number in (1, 2)] == ["node1", "node2"]
    assert not run.spool.exists()
    assert [machine.exists(run.spool) for machine in there] == [False, False]


ALL_AT_ONCE = """
import subprocess, sys
inits = sys.argv[1].split(",")
tasks = [
    subprocess.Popen(
        ["env", f"SLURM_PROCID={n}", "nsenter", "--target", init, "--mount", "--uts", "--pid", *sys.argv[2:]],
        stdin=subprocess.PIPE,
    )
    for n, init in enumerate(inits)
]
for line in sys.stdin.buffer:
    for task in tasks:
        task.stdin.write(line)
        task.stdin.flush()
for task in tasks:
    task.stdin.close()
sys.exit(max(task.wait() for task in tasks))
"""


def test_one_command_may_start_all_nodes_as_srun_does(launched, machines):
    there = machines("node1", "node2")
    command = [sys.executable, "-c", ALL_AT_ONCE, ",".join(machine.shell[2] for machine in there)]
    run = launched(there, "sh", "-c", "echo rank $THEORBO_RANK on $(hostname)", nodes=[NodeStart(command, 1, 2)])
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert {event.host for number in (1, 2) for event in run.client.events("agent_started", f"agent:{number}")} == {
        "node1", "node2",
    }  # fmt: skip
    assert run.client.texts("rank:2", "stdout") == ["rank 2 on node2"]


def test_what_a_login_shell_prints_does_not_disturb(launched, machines):
    there = machines("node1")
    talkative = [
        *there[0].shell,
        "sh",
        "-c",
        """echo welcome; echo '{"node": 1, "host": "h", "says": "ending",
        "grace_s": {}}'; echo '{"node": 1, "host": "h", "says": "rank", "line": "started x"}'; exec "$@" """,
        "sh",
    ]
    run = launched(there, "sh", "-c", "echo out", nodes=[NodeStart(talkative, 1)])
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:1", "stdout") == ["out"]


COUNT = "for n in $(seq 40); do echo $n; sleep 0.05; done"
NUMBERS = [str(number) for number in range(1, 41)]


def lines(run, source, count=1):
    run.client.follow(lambda client: len(client.texts(source, "stdout")) >= count)


def pids(machine, module):
    return machine.processes(f"theorbo.task_runtime.{module}")


def kill(machine, module):
    for pid in pids(machine, module):
        os.kill(pid, signal.SIGKILL)


def test_an_agent_that_is_killed_on_another_machine_is_started_again_there(launched, machines):
    there = machines("node1")
    run = launched(there, "sh", "-c", COUNT)
    lines(run, "rank:1", 5)
    kill(there[0], "agent")
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:1", "stdout") == NUMBERS
    started = [
        told.event for told in run.client.told if told.event.kind == "agent_started" and told.source == "agent:1"
    ]
    assert [event.epoch for event in started] == [1, 2]


def test_when_keeper_and_agent_are_killed_the_node_is_lost_and_swept(launched, machines):
    there = machines("node1")
    run = launched(there, "sh", "-c", COUNT)
    lines(run, "rank:1", 5)
    kill(there[0], "node")
    kill(there[0], "agent")
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:1", "stdout") == NUMBERS
    (lost,) = run.client.events("node_lost")
    assert (lost.node, lost.host) == (1, "node1")
    assert lost.reason.endswith("was killed by signal 9")
    assert not there[0].exists(run.spool)


def test_a_sweep_ends_what_ranks_have_left_running(launched, machines):
    there = machines("node1")
    run = launched(there, "sh", "-c", "echo out; [ $THEORBO_RANK = 0 ] || setsid sleep 60 & sleep 1")
    lines(run, "rank:1")
    kill(there[0], "node")
    kill(there[0], "agent")
    assert ended(run)[0] == ("COMPLETED", "")
    assert there[0].processes("sleep") == []


def test_an_agent_whose_keeper_alone_is_killed_delivers_by_itself(launched, machines):
    there = machines("node1")
    run = launched(there, "sh", "-c", COUNT)
    lines(run, "rank:1", 5)
    kill(there[0], "node")
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:1", "stdout") == NUMBERS
    assert not there[0].exists(run.spool)


def test_when_the_head_is_killed_the_nodes_go_on_until_their_ranks_have_gone(launched, machines, wait_for):
    there = machines("node1")
    run = launched(there, "sh", "-c", COUNT)
    lines(run, "rank:1", 5)
    run.process.kill()
    run.client.follow(lambda client: len(client.events("agent_closed")) == 2)
    run.client.check_numbers()
    assert [run.client.texts(f"rank:{rank}", "stdout") for rank in range(2)] == [NUMBERS, NUMBERS]
    wait_for(lambda: not run.left_behind())
    wait_for(lambda: not there[0].exists(run.spool))


def test_a_machine_that_loses_its_power_is_named_with_what_it_may_still_have(launched, machines):
    there = machines("node1", "node2")
    run = launched(there, "sh", "-c", "[ $THEORBO_RANK = 2 ] && sleep 60; echo out; sleep 2")
    lines(run, "rank:1")
    there[1].cut_power()
    run.client.follow(lambda client: client.events("launcher_ended"))
    (lost,) = run.client.events("node_lost")
    assert (lost.node, lost.host) == (2, "node2")
    status, stderr = run.end()
    assert status == 6
    assert "node2: " in stderr
    assert f"theorbo agent --spool {run.spool}" in stderr
    assert stderr.rstrip().endswith("--node 2     # on node2")
    assert run.client.texts("rank:1", "stdout") == ["out"]


def test_a_launcher_that_does_not_notice_the_death_of_a_machine_is_ended(launched, machines):
    there = machines("node1")
    hanging = ["sh", "-c", SRUN.replace("wait", "sleep 600"), "mpiexec"]
    run = launched(there, "sh", "-c", "echo out; sleep 600", launcher=hanging, grace_s=1.0,
                   program=("-c", with_limits(SIBLINGS_S=0.2)))  # fmt: skip
    lines(run, "rank:1")
    there[0].cut_power()
    run.client.follow(lambda client: client.events("launcher_ended"))
    words = [event.text for event in run.client.events("log", "launcher")]
    assert "node1 was lost and does not answer, and the launcher did not end: the launcher is being ended" in words
    assert run.client.events("rank_ended", "rank:0")[0].signal == "SIGTERM"
    assert run.end()[0] == 6


def test_sigterm_to_everything_ends_ranks_everywhere_and_all_is_delivered(launched, machines):
    there = machines("node1")
    tidy = "trap 'echo tidied; sleep 0.5; echo bye; exit 1' TERM; echo ready; while :; do sleep 0.1; done"
    run = launched(there, "sh", "-c", tidy)
    lines(run, "rank:0")
    lines(run, "rank:1")
    for pid in [*run.agent_pids(), *pids(there[0], "node"), *pids(there[0], "agent"), run.process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    (state, reason), status, stderr = ended(run)
    assert (state, status, stderr) == ("FAILED", 1, "")
    assert reason.endswith("exit code 1")
    for rank in range(2):
        assert run.client.texts(f"rank:{rank}", "stdout") == ["ready", "tidied", "bye"]
    assert len(run.client.events("agent_closed")) == 2


def fake(tmp_path, name, script):
    """A program of this name, and the PATH on which it is found."""
    directory = tmp_path / "bin"
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


SCONTROL = """
echo "$@" >> "$0.asked"
[ "$1 $2" = "show config" ] && echo 'KillWait                = 2 sec' && exit
echo 'JobId=77 JobName=x UserId=ada(2000) JobState=COMPLETING Reason=TimeLimit Dependency=(null) Requeue=0'
"""


def test_in_a_slurm_job_the_grace_is_shorter_than_killwait_and_the_end_has_the_schedulers_word(
    launched, machines, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", fake(tmp_path, "scontrol", SCONTROL))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    there = machines("node1")
    run = launched(there, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", grace_s=60.0)
    lines(run, "rank:0")
    lines(run, "rank:1")
    begun = time.monotonic()
    for pid in [*pids(there[0], "node"), run.process.pid]:
        os.kill(pid, signal.SIGTERM)
    ended(run)
    assert time.monotonic() - begun < 40.0
    assert run.client.events("launcher_started")[0].job == "77"
    assert run.client.events("launcher_ended")[0].scheduler_state == "TIMEOUT"
    assert (tmp_path / "bin" / "scontrol.asked").read_text() == "show config\n-o show job 77\n"


def test_cancel_ends_the_ranks_of_all_machines(launched, machines):
    there = machines("node1")
    run = launched(there, "sh", "-c", "echo ready; exec sleep 60")
    lines(run, "rank:0")
    lines(run, "rank:1")
    run.client.report({"kind": "control_requested", "time": 0, "action": "cancel", "by": "tester", "grace_s": 5})
    assert ended(run)[:2] == (("CANCELLED", "by tester"), 1)
    assert len(run.client.events("control_done")) == 2


# --- what cannot begin ---------------------------------------------------------------------------


def refused(run):
    """Words of a launch that has started no rank; the other agents have closed, and nothing is left."""
    run.client.follow(lambda client: client.events("launcher_ended"))
    status, stderr = run.end()
    assert status == 6
    assert stderr.startswith("theorbo launch: nothing was started: ")
    assert stderr.count("\n") == 1, stderr
    (end,) = run.client.events("launcher_ended")
    assert end.problem in stderr
    (lost,) = run.client.events("node_lost")
    assert end.problem == f"{lost.host or 'node 1'}: {lost.reason}"
    assert run.client.events("rank_started") == []
    assert run.left_behind() == []
    assert not run.spool.exists()
    return stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["no-such-ssh", "node1"],
            "node 1: No such file or directory: no-such-ssh (no-such-ssh node1 ended with ",
        ),
        (
            ["sh", "-c", "echo 'ssh: Could not resolve hostname node1' >&2; exit 255"],
            "node 1: ssh: Could not resolve hostname node1 (sh -c ",
        ),
        (["sh", "-c", "echo 'No module named theorbo' >&2; exit 1"], "No module named theorbo"),
    ],
)
def test_a_machine_that_cannot_be_reached_is_named(launched, machines, command, words):
    run = launched(machines("node1"), "true", nodes=[NodeStart(command, 1)])
    assert words in refused(run)


def test_a_machine_that_does_not_get_ready_is_not_waited_for(launched, machines):
    slow = with_limits(NODES_READY_S=1.0)
    run = launched(machines("node1"), "true", nodes=[NodeStart(["sh", "-c", "sleep 60"], 1)], program=("-c", slow))
    assert "node 1: not ready within 1 s" in refused(run)


def test_a_machine_on_which_no_spool_can_be_made_is_named(launched, machines):
    there = machines("node1")
    read_only = [*there[0].shell, "sh", "-c", 'mount -o remount,ro "$0" && exec "$@"', str(launched.spools)]
    run = launched(there, "true", nodes=[NodeStart(read_only, 1)])
    words = refused(run)
    assert "node1: cannot make directory" in words
    assert "Read-only file system" in words


def test_machines_that_share_the_place_of_spools_are_refused(launched, machines):
    run = launched(machines("node1"), "true", nodes=[NodeStart(["env", "X=Y"], 1)])
    assert "shared between machines" in refused(run)


def test_a_machine_with_another_version_is_named(launched, machines):
    there = machines("node1")
    other = 'exec "$1" -c "import runpy, sys; from theorbo import schemas; schemas.__version__ = \'9.9\'; sys.argv[1:] '
    other += "= ['--number', '1']; runpy.run_module('theorbo.task_runtime.node', run_name='__main__')\""
    run = launched(there, "true", nodes=[NodeStart([*there[0].shell, "sh", "-c", other, "sh"], 1)])
    assert "node1: Theorbo 9.9 here, 0.1.0 at the launch" in refused(run)


# --- the connection file -------------------------------------------------------------------------


def hidden(machine, directory):
    """The machine does not see this directory."""
    subprocess.run([*machine.shell, "mount", "-t", "tmpfs", "tmpfs", str(directory)], check=True)


def test_a_machine_that_does_not_see_the_connection_file_uses_what_the_plan_says_of_it(launched, machines, broker):
    there = machines("node1")
    hidden(there[0], broker.connection_file.parent)
    run = launched(there, "sh", "-c", "echo out")
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:1", "stdout") == ["out"]


def test_a_machine_that_cannot_reach_the_broker_is_named(launched, machines, broker):
    there = machines("node1")
    hidden(there[0], broker.connection_file.parent)
    content = json.loads(broker.connection_file.read_text())
    content["router"] = ["tcp://127.0.0.1:1"]
    words = refused(launched(there, "true", connection=content))
    assert "node1: no answer from a broker within 10 s; tried tcp://127.0.0.1:1" in words
