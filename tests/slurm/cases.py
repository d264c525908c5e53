"""What may happen to an execution on two nodes, and what the bus says of it: one function a case.

Each makes it happen, asserts what must hold, and tells how long it took until the bus knew. All machines are
containers of one machine, so that their clocks are one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.slurm.cluster import NODES, Cluster, wait_for
from tests.slurm.executions import Event, Execution, Lines, Observer

RANKS = 4


class Noticed(NamedTuple):
    """What a case gives."""

    execution: Execution
    over: Event
    """The change to the final state."""
    seconds: float
    """From what happened to when the bus knew."""


class Row(NamedTuple):
    """A line of the table."""

    case: str
    outcome: str
    reason: str
    noticed_s: float
    jobs: int
    processes: int


class Machines(NamedTuple):
    """What a case has to do with."""

    cluster: Cluster
    observer: Observer

    def execute(self, *options: str, steps: int = 20) -> Execution:
        """Submit four ranks on two nodes."""
        return Execution(self.cluster, self.observer, *options, steps=steps)

    def request(self, action: str, execution: Execution, *options: str) -> float:
        """`theorbo ACTION EXECUTION`, which must end well; when it was called."""
        at = time.time()
        self.cluster.ada("theorbo", action, execution.id, *options)
        return at

    def left(self) -> list[str]:
        """Processes of Ada's on the nodes and the login node, without those of the observer."""
        return [line for line in self.cluster.left() if not self.observer.is_of(line)]

    def clean(self) -> None:
        """After a case that has failed: no job, no process, and all machines up."""
        self.cluster.clean()
        for pid, command in self.cluster.processes("login").items():
            if not self.observer.is_of(command):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def process(self, machine: str, *words: str) -> int:
        """The one process of Ada's that has all these words in its command; its id on this machine."""
        found = {
            pid: command
            for pid, command in self.cluster.processes(machine).items()
            if all(word in command for word in words)
        }
        assert len(found) == 1, f"{machine}: one process with {words} was expected: {found}"
        return next(iter(found))


def complete(execution: Execution, machines: Machines, steps: int) -> None:
    """Every rank's log is in the journal, each line once and in order, and nothing was lost."""
    said = machines.cluster.ada("theorbo", "replay", execution.id, "--json").stdout
    logs: dict[int, list[str]] = {rank: [] for rank in range(RANKS)}
    for line in Lines.parsed(said):
        if line["kind"] == "log" and line.get("rank") is not None:
            logs[line["rank"]].append(line["text"])
        assert line["kind"] != "loss", line
    wanted = [f"step {number}" for number in range(1, steps + 1)]
    assert logs == dict.fromkeys(range(RANKS), wanted), {rank: len(lines) for rank, lines in logs.items()}


def ended(execution: Execution, state: str, *words: str, timeout_s: float = 60.0) -> Event:
    """Wait for the outcome, which must be this, with these words in its reason."""
    over = execution.over(timeout_s)
    assert over["state"] == state, over
    for word in words:
        assert word.lower() in over["reason"].lower(), over
    return over


# --- it goes well ---------------------------------------------------------------------------------


def run(machines: Machines) -> Noticed:
    """Four ranks on two nodes; noticed: when all were up, after the submission."""
    execution = machines.execute()
    running = execution.wait_state("RUNNING")
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 20)
    assert {event["host"] for event in execution.events("rank_started")} == set(NODES)
    return Noticed(execution, over, running["time"] - execution.began)


# --- somebody wants it to end ---------------------------------------------------------------------


def cancelled_while_pending(machines: Machines) -> Noticed:
    """The nodes are busy, and the job is cancelled in the queue."""
    cluster = machines.cluster
    with busy(cluster):
        execution = machines.execute()
        execution.wait("job_submitted")
        at = machines.request("cancel", execution, "--reason", "not needed")
        over = ended(execution, "CANCELLED", "ada", "not needed")
    assert not list(execution.events("rank_started"))
    return Noticed(execution, over, over["time"] - at)


def cancelled_while_running(machines: Machines) -> Noticed:
    """All ranks on both nodes are told to end."""
    execution = machines.execute(steps=3000)
    execution.wait_steps(1)
    at = machines.request("cancel", execution, "--reason", "wrong run")
    over = ended(execution, "CANCELLED", "ada", "wrong run")
    return Noticed(execution, over, over["time"] - at)


def cancelled_in_the_queue(machines: Machines) -> Noticed:
    """Somebody uses scancel, not our command: what has ended it is named all the same."""
    execution = machines.execute(steps=3000)
    execution.wait_steps(1)
    job = execution.wait("job_submitted")["job"]
    at = time.time()
    machines.cluster.ada("scancel", str(job))
    over = ended(execution, "CANCELLED", "slurm")
    return Noticed(execution, over, over["time"] - at)


LAST_WORDS = """trap 'echo last words; exit 3' TERM; echo ready; while :; do sleep 0.1; done"""


def one_process_cancelled_in_the_queue(machines: Machines) -> Noticed:
    """What is no MPI program is told to end by scancel as well, and what it says then arrives."""
    program = ("sh", "-c", LAST_WORDS)
    execution = Execution(machines.cluster, machines.observer, "--nodes", "1", "--ranks", "1", program=program)
    execution.wait("output", text="ready")
    at = time.time()
    machines.cluster.ada("scancel", str(execution.wait("job_submitted")["job"]))
    over = ended(execution, "CANCELLED", "slurm")
    assert list(execution.events("output", text="last words"))
    return Noticed(execution, over, over["time"] - at)


def stopped_and_continued(machines: Machines) -> Noticed:
    """No rank works while it is STOPPED; noticed: from the request to STOPPED."""
    execution = machines.execute(steps=60)
    execution.wait_steps(3)
    at = machines.request("stop", execution)
    stopped = execution.wait_state("STOPPED")
    before = at_work(machines)
    time.sleep(1.0)  # nothing can be waited for where nothing happens
    assert at_work(machines) == before
    machines.request("continue", execution)
    execution.wait("state_changed", state="RUNNING", previous="STOPPED")
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 60)
    return Noticed(execution, over, stopped["time"] - at)


# --- it may not go on -----------------------------------------------------------------------------


def time_limit(machines: Machines) -> Noticed:
    """The Executor's limit; noticed: how long after it."""
    execution = machines.execute("--time-limit", "4", steps=3000)
    execution.wait_state("RUNNING")
    over = ended(execution, "TIMEDOUT")
    asked = next(execution.events("control_requested"))
    return Noticed(execution, over, over["time"] - asked["time"])


def time_limit_of_the_partition(machines: Machines) -> Noticed:
    """Slurm's limit of a minute; noticed: how long after it."""
    execution = machines.execute("--partition", "short", steps=3000)
    started = execution.wait("launcher_started")
    over = ended(execution, "TIMEDOUT", "slurm", timeout_s=120.0)
    return Noticed(execution, over, over["time"] - started["time"] - 60.0)


def out_of_memory(machines: Machines) -> Noticed:
    """One rank takes more memory than its node (or its job) has; noticed: after the rank's end."""
    execution = machines.execute("/opt/programs/steps.py:Hungry")
    over = ended(execution, "FAILED", "memory")
    first = min(event["time"] for event in execution.events("rank_ended"))
    return Noticed(execution, over, over["time"] - first)


def preempted(machines: Machines) -> Noticed:
    """A job of a partition with higher priority takes the nodes."""
    execution = machines.execute(steps=3000)
    execution.wait_steps(1)
    at = time.time()
    machines.cluster.ada("srun", "--partition", "urgent", "--nodes", "2", "--exclusive", "true")
    over = ended(execution, "FAILED", "preempt")
    return Noticed(execution, over, over["time"] - at)


# --- something dies -------------------------------------------------------------------------------


def node_killed(machines: Machines) -> Noticed:
    """A node without the launcher dies; noticed: when its agent was first suspected, or the launcher missed it."""
    cluster = machines.cluster
    execution = machines.execute(steps=3000)
    execution.wait_steps(1)
    lost, agent = far_node(execution)
    at = time.time()
    cluster.kill(lost)
    try:
        suspected = machines.observer.wait_contact(execution.id, agent, "suspect", at)
        over = ended(execution, "FAILED", lost, timeout_s=120.0)
    finally:
        cluster.start(lost)
    missed = [event["time"] for event in execution.events("node_lost")]
    noticed = min([suspected, *missed]) - at
    assert noticed < 10.0, noticed
    return Noticed(execution, over, noticed)


def broker_killed(machines: Machines) -> Noticed:
    """The broker dies and comes back; noticed: until it had everything again that was reported meanwhile."""
    cluster = machines.cluster
    execution = machines.execute(steps=80)
    execution.wait_steps(5)
    cluster.kill("broker")
    at = time.time()
    cluster.start("broker")
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 80)
    back = min(event["journaled"] for event in execution.events("log") if event["journaled"] > at)
    return Noticed(execution, over, back - at)


def executor_killed(machines: Machines) -> Noticed:
    """`theorbo run` dies, and `theorbo attach` takes the job up; noticed: until it had it."""
    execution = machines.execute(steps=80)
    execution.wait_steps(3)
    os.kill(machines.process("login", "theorbo run"), signal.SIGKILL)
    execution.run.process.wait(20.0)
    at = time.time()
    attached = Lines(machines.cluster, "theorbo", "attach", execution.id, "--json")
    machines.observer.runs.append(attached)
    taken_up = execution.wait("executor_attached")
    status = attached.end(60.0)
    assert (status, attached.objects[-1]["state"]) == (0, "COMPLETED"), attached.words
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 80)
    return Noticed(execution, over, taken_up["time"] - at)


def agents_killed(machines: Machines) -> Noticed:
    """Both agents die once; each is started again and goes on; noticed: until both reported again."""
    cluster = machines.cluster
    execution = machines.execute(steps=80)
    execution.wait_steps(5)
    at = time.time()
    for node in NODES:
        os.kill(machines.process(node, "theorbo.task_runtime.agent"), signal.SIGKILL)
    back = [execution.wait("agent_started", source=f"agent:{number}", epoch=2)["time"] for number in range(2)]
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 80)
    assert cluster.jobs() == [] or wait_for(lambda: not cluster.jobs(), "an empty queue")
    return Noticed(execution, over, max(back) - at)


def agent_and_keeper_killed(machines: Machines) -> Noticed:
    """On one node nobody is left who delivers: the sweep does, after the end; noticed: until it had begun."""
    execution = machines.execute(steps=50)
    execution.wait_steps(5)
    node, agent = far_node(execution)
    at = time.time()
    os.kill(machines.process(node, "theorbo.task_runtime.node"), signal.SIGKILL)
    for pid, command in machines.cluster.processes(node).items():
        if "theorbo.task_runtime.agent" in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    over = ended(execution, "COMPLETED")
    complete(execution, machines, 50)
    swept = max(event["time"] for event in execution.events("agent_started", source=agent))
    assert swept > at
    return Noticed(execution, over, swept - at)


# --- something is cut off -------------------------------------------------------------------------


def partition_one_way(machines: Machines) -> Noticed:
    """What one node sends is dropped on the way to the broker, for twenty seconds."""
    return _partition(machines, both_ways=False)


def partition_both_ways(machines: Machines) -> Noticed:
    """One node and the broker are cut off from one another, for twenty seconds."""
    return _partition(machines, both_ways=True)


def _partition(machines: Machines, *, both_ways: bool) -> Noticed:
    """Contact goes alive → suspect → silent → alive, and nothing is lost; noticed: until suspect."""
    steps = 220
    execution = machines.execute(steps=steps)
    execution.wait_steps(3)
    node, agent = far_node(execution)
    at = time.time()
    with machines.cluster.dropped(node, "broker", both_ways=both_ways):
        suspect = machines.observer.wait_contact(execution.id, agent, "suspect", at)
        silent = machines.observer.wait_contact(execution.id, agent, "silent", at)
        healed = time.time()
    alive = machines.observer.wait_contact(execution.id, agent, "alive", healed)
    print(f"    {agent}: suspect after {suspect - at:.1f} s, silent after {silent - at:.1f} s,", end=" ")
    print(f"alive {alive - healed:.1f} s after the healing")
    over = ended(execution, "COMPLETED")
    complete(execution, machines, steps)
    return Noticed(execution, over, suspect - at)


# --- helpers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def busy(cluster: Cluster) -> Iterator[None]:
    """Both nodes belong to another job meanwhile."""
    job = cluster.ada("sbatch", "--parsable", "--nodes=2", "--exclusive", "--wrap", "sleep 300").stdout.strip()
    wait_for(lambda: f"{job} RUNNING" in cluster.jobs(), "a job that keeps the nodes busy")
    try:
        yield
    finally:
        cluster.ada("scancel", job)
        wait_for(lambda: not any(line.startswith(f"{job} ") for line in cluster.jobs()), "its end")


def far_node(execution: Execution) -> tuple[str, str]:
    """The node without the launcher, and its agent."""
    beside = execution.wait("launcher_started")["host"]
    started = next(event for event in execution.events("agent_started") if event["host"] != beside)
    return started["host"], started["source"]


def at_work(machines: Machines) -> list[int]:
    """Processor time of the ranks on the nodes."""
    ticks = []
    for node in NODES:
        for pid, command in sorted(machines.cluster.processes(node).items()):
            if "theorbo.task_runtime.main" in command:
                with open(f"/proc/{pid}/stat") as file:
                    ticks.append(sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])))
    return ticks


CASES: list[Callable[[Machines], Noticed]] = [
    run, cancelled_while_pending, cancelled_while_running, cancelled_in_the_queue, one_process_cancelled_in_the_queue,
    stopped_and_continued, time_limit,
    out_of_memory, preempted, broker_killed, executor_killed, agents_killed, agent_and_keeper_killed,
    partition_one_way, partition_both_ways, node_killed, time_limit_of_the_partition,
]  # fmt: skip
"""All, on a cluster that tracks processes by their parents."""

CGROUP_CASES = [run, cancelled_while_running, out_of_memory, agent_and_keeper_killed]
"""Those for which it matters that the end of a step is the end of all its processes."""


def play(case: Callable[[Machines], Noticed], machines: Machines) -> Row:
    """One case, and a look at what it has left behind."""
    try:
        noticed = case(machines)
    except BaseException:
        machines.clean()
        raise
    jobs, processes = machines.cluster.jobs(), machines.left()
    deadline = time.monotonic() + 20.0
    while (jobs or processes) and time.monotonic() < deadline:
        time.sleep(0.2)
        jobs, processes = machines.cluster.jobs(), machines.left()
    if jobs or processes:
        print(f"    left behind: {jobs} {processes}")
    machines.cluster.wait_idle()
    name = case.__name__.replace("_", " ")
    return Row(name, noticed.over["state"], noticed.over["reason"], noticed.seconds, len(jobs), len(processes))
