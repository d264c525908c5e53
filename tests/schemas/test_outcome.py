"""From evidence to outcome: the precedence of schemas/verdict.py, rule by rule, then rule against rule."""

import pytest

from theorbo.schemas import events
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Source, SourceKind
from theorbo.schemas.outcome import Evidence
from theorbo.schemas.states import State
from theorbo.schemas.verdict import ranks_named


def rank(index):
    return Source(SourceKind.RANK, index)


def agent(index=0):
    return Source(SourceKind.AGENT, index)


def submitted(ranks=1):
    return EXECUTOR, events.ExecutionSubmitted(time=1.0, task="T", user="u", host="h", ranks=ranks)


def launched(agents=1):
    return LAUNCHER, events.LauncherStarted(time=2.0, host="h", agents=agents)


def agent_started(index=0):
    return agent(index), events.AgentStarted(time=2.0, host="h")


def agent_closed(index=0, **streams):
    return agent(index), events.AgentClosed(time=9.0, streams=streams)


def started(index=0):
    return rank(index), events.RankStarted(time=3.0, host="h")


def ended(index=0, **fields):
    return rank(index), events.RankEnded(time=5.0, **(fields or {"exit_code": 0}))


def launcher_ended(**fields):
    return LAUNCHER, events.LauncherEnded(time=6.0, **fields)


def failed(error="ValueError: no", index=0):
    return rank(index), events.TaskFailed(time=4.0, error=error)


def requested(action="cancel", cause="user", by="ada", reason=""):
    return EXECUTOR, events.ControlRequested(time=4.0, action=action, cause=cause, by=by, reason=reason)


def gone(state="", reason="the job has ended"):
    return EXECUTOR, events.LauncherGone(time=6.0, reason=reason, scheduler_state=state)


def lost(node=1, reason="ssh ended with 255"):
    return LAUNCHER, events.NodeLost(time=5.5, node=node, host=f"node{node + 1}", reason=reason)


def given_up(node=1, heard=4.5):
    reason = f"agent {node} was silent for 15 s; ssh ended with 255"
    return BROKER, events.AgentGivenUp(time=30.0, node=node, host=f"node{node + 1}", reason=reason, heard=heard)


JOB = (EXECUTOR, events.JobSubmitted(time=1.5, scheduler="slurm", job="42"))


def two_nodes(*middle, end=None, last=None):
    """Ranks 0 and 1 on node1, 2 and 3 on node2, whose agent has no last word."""
    hosts = [(rank(index), events.RankStarted(time=3.0, host=f"node{1 + index // 2}")) for index in range(4)]
    agents = [(agent(node), events.AgentStarted(time=2.0, host=f"node{node + 1}")) for node in (0, 1)]
    return [
        submitted(4), launched(2), *agents, *hosts, *middle, end or launcher_ended(exit_code=143),
        agent_closed(), last or given_up(),
    ]  # fmt: skip


OOM = {"signal": "SIGKILL", "out_of_memory": True, "memory_limit_bytes": 512 * 2**20}


LAUNCHER_GONE = (EXECUTOR, events.LauncherGone(time=6.0, exit_code=-9, reason="the launcher was killed by SIGKILL"))
TIME_LIMIT = requested(cause="time_limit", by="executor", reason="time limit of 60 s")


def story(*middle, ranks=1, end=None):
    """What is journaled of an execution on one node, from its submission to the agent's last word."""
    return [submitted(ranks), launched(), agent_started(), *middle, end or launcher_ended(exit_code=0), agent_closed()]


def evidence_of(reports):
    evidence = Evidence()
    for source, event in reports:
        evidence.add(source, event)
    return evidence


def outcome(reports, current=State.RUNNING):
    return evidence_of(reports).state(current)


# --- each rule alone, in the order of the docstring ---------------------------------------------------

UNWATCHED = (EXECUTOR, events.LauncherGone(time=6.0, reason="nobody was heard", unwatched=True))

RULES = {
    "0: nobody knows whether its ranks live": (story(started(), end=UNWATCHED), (State.LOST, "nobody was heard")),
    "1: nothing could be started": (
        story(end=launcher_ended(problem="no program 'gallaxies' on PATH")),
        (State.FAILED, "no program 'gallaxies' on PATH"),
    ),
    "2: all ranks ended well": (story(started(), ended()), (State.COMPLETED, "")),
    "3: a time limit was reached": (
        story(started(), TIME_LIMIT, ended(signal="SIGTERM")),
        (State.TIMEDOUT, "time limit of 60 s"),
    ),
    "4: somebody cancelled": (
        story(started(), requested(), ended(signal="SIGTERM")),
        (State.CANCELLED, "by ada"),
    ),
    "4: somebody cancelled and said why": (
        story(started(), requested(reason="wrong run"), ended(signal="SIGTERM")),
        (State.CANCELLED, "by ada: wrong run"),
    ),
    "3: a time limit that an agent has kept": (
        story(
            started(),
            (agent(), events.ControlRequested(time=4.0, action="cancel", cause="time_limit", by="agent:0")),
            ended(signal="SIGTERM"),
        ),
        (State.TIMEDOUT, "its time limit was reached, as agent:0 said"),
    ),
    "5: the scheduler's time limit": (
        story(JOB, started(), ended(signal="SIGTERM"), end=launcher_ended(scheduler_state="TIMEOUT")),
        (State.TIMEDOUT, "Slurm ended job 42: its time limit was reached (TIMEOUT)"),
    ),
    "5: cancelled in the scheduler, by whom it says": (
        story(JOB, started(), ended(signal="SIGTERM"), end=gone("CANCELLED by 1000")),
        (State.CANCELLED, "Slurm ended job 42: it was cancelled there (CANCELLED)"),
    ),
    "5: preempted, without a word of the Executor": (
        story(started(), ended(signal="SIGTERM"), end=launcher_ended(scheduler_state="PREEMPTED")),
        (State.FAILED, "the batch scheduler ended the job: it was preempted (PREEMPTED)"),
    ),
    "5: a node failed, and nobody knows which": (
        story(JOB, started(), end=gone("NODE_FAIL")),
        (State.FAILED, "Slurm ended job 42: a node failed (NODE_FAIL)"),
    ),
    "5: a node failed, and it is known which": (
        two_nodes(JOB, end=gone("NODE_FAIL")),
        (
            State.FAILED,
            "node2 was lost (agent 1 was silent for 15 s; ssh ended with 255): ranks 2, 3 did not end; "
            "Slurm says NODE_FAIL",
        ),
    ),
    "5: out of memory, and it is known who": (
        story(JOB, started(), ended(**OOM), end=launcher_ended(scheduler_state="OUT_OF_MEMORY")),
        (
            State.FAILED,
            "rank 0: out of memory: the kernel killed it at its cgroup's limit of 512 MiB; Slurm says OUT_OF_MEMORY",
        ),
    ),
    "5: out of memory, and the Task survived to say what that did to it": (
        story(
            JOB, failed("BrokenProcessPool"), ended(exit_code=1), end=launcher_ended(scheduler_state="OUT_OF_MEMORY")
        ),
        (State.FAILED, "BrokenProcessPool; Slurm says OUT_OF_MEMORY"),
    ),
    "5: the queue has said it, and the launcher had no time to": (
        story(JOB, (EXECUTOR, events.JobChanged(time=5.0, job="42", state="DEADLINE")), end=gone()),
        (State.TIMEDOUT, "Slurm ended job 42: its deadline was reached (DEADLINE)"),
    ),
    "6: a node was lost": (
        two_nodes(ended(0, signal="SIGTERM"), ended(1, signal="SIGTERM")),
        (
            State.FAILED,
            "node2 was lost (agent 1 was silent for 15 s; ssh ended with 255): ranks 2, 3 did not end",
        ),
    ),
    "6: a node was lost with its last reports, after its ranks had ended well": (
        two_nodes(*(ended(index) for index in range(4)), end=launcher_ended(exit_code=0)),
        (
            State.FAILED,
            "node2 was lost (agent 1 was silent for 15 s; ssh ended with 255): not all was delivered that it had",
        ),
    ),
    "7: a rank was killed for want of memory": (
        story(started(), ended(**OOM)),
        (State.FAILED, "out of memory: the kernel killed it at its cgroup's limit of 512 MiB"),
    ),
    "7: in a cgroup whose limit nobody knows, one rank of several": (
        story(
            started(0),
            started(1),
            ended(1, signal="SIGKILL", out_of_memory=True),
            ended(0, signal="SIGTERM", out_of_memory=True),
            ranks=2,
        ),
        (State.FAILED, "rank 1: out of memory: the kernel killed it"),
    ),
    "8: the Task said that it failed": (
        story(started(), failed("ValueError: no"), ended(exit_code=1)),
        (State.FAILED, "ValueError: no"),
    ),
    "9: a rank ended with an exit code": (story(started(), ended(exit_code=3)), (State.FAILED, "exit code 3")),
    "8: after a helper was killed for want of memory": (
        story(started(), failed("BrokenProcessPool"), ended(exit_code=1, out_of_memory=True, memory_limit_bytes=2**30)),
        (
            State.FAILED,
            "BrokenProcessPool "
            "(the kernel had killed something in its cgroup for want of memory, at its limit of 1 GiB)",
        ),
    ),
    "9: a rank was killed": (story(started(), ended(signal="SIGSEGV")), (State.FAILED, "killed by SIGSEGV")),
    "9: a rank's program could not be started": (
        story(ended(problem="no program './absent'")),
        (State.FAILED, "no program './absent'"),
    ),
    "10: no rank ever started": (
        story(end=launcher_ended(exit_code=2, stderr="usage: mpiexec\nunknown option -x\n")),
        (State.FAILED, "no rank started; the launcher ended with exit code 2: unknown option -x"),
    ),
    "10: the launcher vanished": (
        story(started(), end=LAUNCHER_GONE),
        (
            State.FAILED,
            "rank 0 ended without an end record (killed together with the launcher); "
            "the launcher was killed by SIGKILL",
        ),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_gives_its_state_and_its_reason(name):
    reports, expected = RULES[name]
    assert outcome(reports) == expected


# --- rule against rule: the earlier one wins -----------------------------------------------------------

PRECEDENCE = {
    "0 before 4": (story(started(), requested(), end=UNWATCHED), State.LOST),
    "2 before 0: it ended well, as was heard in the end": (story(started(), ended(), end=UNWATCHED), State.COMPLETED),
    "1 before 3": (story(TIME_LIMIT, end=launcher_ended(problem="no mpiexec")), State.FAILED),
    "1 before 4": (story(requested(), end=launcher_ended(problem="no mpiexec")), State.FAILED),
    "2 before 3: it ended well just before the limit": (story(started(), TIME_LIMIT, ended()), State.COMPLETED),
    "2 before 4: it ended well in spite of the request": (story(started(), requested(), ended()), State.COMPLETED),
    "2 against the launcher's exit code, which is no truth": (
        story(started(), ended(), end=launcher_ended(exit_code=255)),
        State.COMPLETED,
    ),
    "3 before 4, whichever came first": (
        story(started(), requested(), TIME_LIMIT, ended(signal="SIGKILL")),
        State.TIMEDOUT,
    ),
    "3 before 8": (story(started(), TIME_LIMIT, failed("Terminated"), ended(exit_code=1)), State.TIMEDOUT),
    "4 before 8": (story(started(), requested(), failed("KeyboardInterrupt"), ended(exit_code=1)), State.CANCELLED),
    "4 before 9": (story(started(), requested(), ended(exit_code=143)), State.CANCELLED),
    "4 before 10": (story(started(), requested(action="kill"), end=LAUNCHER_GONE), State.CANCELLED),
    "2 before 5: the job was cancelled when all was done": (
        story(started(), ended(), end=launcher_ended(exit_code=0, scheduler_state="CANCELLED")),
        State.COMPLETED,
    ),
    "2 before 6: a node that said its last word was not lost": (
        [*two_nodes(lost(), *(ended(index) for index in range(4)), end=launcher_ended(exit_code=0)), agent_closed(1)],
        State.COMPLETED,
    ),
    "2 before 7: what the kernel killed was not needed": (
        story(started(), ended(exit_code=0, out_of_memory=True)),
        State.COMPLETED,
    ),
    "3 before 5": (
        story(started(), TIME_LIMIT, ended(signal="SIGTERM"), end=launcher_ended(scheduler_state="CANCELLED")),
        State.TIMEDOUT,
    ),
    "4 before 5": (
        story(started(), requested(), ended(signal="SIGTERM"), end=launcher_ended(scheduler_state="TIMEOUT")),
        State.CANCELLED,
    ),
    "4 before 6": (two_nodes(requested()), State.CANCELLED),
    "5 before 8": (
        story(started(), failed("SystemExit"), ended(exit_code=1), end=launcher_ended(scheduler_state="TIMEOUT")),
        State.TIMEDOUT,
    ),
    "8 against ranks that all ended with 0": (story(started(), failed(), ended()), State.FAILED),
}


@pytest.mark.parametrize("name", PRECEDENCE)
def test_where_two_rules_fit_the_earlier_one_wins(name):
    reports, state = PRECEDENCE[name]
    assert outcome(reports)[0] is state


SAME_STATE = {
    "8 where the scheduler only followed": (
        story(started(), failed(), ended(exit_code=1), end=launcher_ended(scheduler_state="FAILED")),
        "ValueError: no",
    ),
    "9 where the scheduler only followed, as after srun -K": (
        story(started(0), ended(0, signal="SIGABRT"), end=launcher_ended(scheduler_state="FAILED"), ranks=2),
        "rank 0: killed by SIGABRT",
    ),
    "9 where the scheduler says that nothing was wrong": (
        story(started(), ended(exit_code=3), end=gone("COMPLETED")),
        "exit code 3",
    ),
    "6 before 8: what others say when a node has gone": (
        two_nodes(failed("MPI: connection reset", 0), ended(0, exit_code=1), last=given_up(heard=3.5)),
        "node2 was lost (agent 1 was silent for 15 s; ssh ended with 255): ranks 2, 3 did not end",
    ),
    "8 before 6 where the Task had failed before": (
        two_nodes(failed("ValueError: no", 0), ended(0, exit_code=1), last=given_up(heard=4.5)),
        "rank 0: ValueError: no",
    ),
    "9 before 6 where a rank had crashed before": (
        two_nodes(ended(0, signal="SIGSEGV"), last=given_up(heard=5.5)),
        "rank 0: killed by SIGSEGV",
    ),
    "6 before 9 where a rank was only ended": (
        two_nodes(ended(0, signal="SIGTERM"), last=given_up(heard=5.5)),
        "node2 was lost (agent 1 was silent for 15 s; ssh ended with 255): ranks 2, 3 did not end",
    ),
    "7 before 8: what others say when a rank was killed": (
        story(started(0), started(1), failed("MPI: reset", 1), ended(1, exit_code=1), ended(0, **OOM), ranks=2),
        "rank 0: out of memory: the kernel killed it at its cgroup's limit of 512 MiB",
    ),
    "10 with the reason why the node was lost": (
        [
            *two_nodes(lost(), ended(0), ended(1), end=launcher_ended(exit_code=255), last=agent_closed(1)),
        ],
        "ranks 2, 3 ended without an end record (killed together with the launcher); "
        "the launcher ended with exit code 255; node2 was lost: ssh ended with 255",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME_STATE)
def test_among_reasons_for_a_failure_the_earlier_rule_explains(name):
    reports, reason = SAME_STATE[name]
    assert outcome(reports) == (State.FAILED, reason)


@pytest.mark.parametrize("action", ["stop", "continue", "stacks"])
def test_what_is_no_request_for_an_end_is_no_reason_for_one(action):
    assert outcome(story(started(), requested(action), ended(exit_code=3))) == (State.FAILED, "exit code 3")


def test_a_request_that_came_after_the_end_is_no_reason_for_it():
    late = EXECUTOR, events.ControlRequested(time=7.0, action="cancel", by="ada")
    reports = story(started(), ended(exit_code=3))
    assert outcome([*reports[:-1], late, reports[-1]]) == (State.FAILED, "exit code 3")


def test_one_that_was_made_before_and_came_late_is():
    reports = story(started(), ended(signal="SIGTERM"))
    assert outcome([*reports[:-1], requested(), reports[-1]]) == (State.CANCELLED, "by ada")


def test_after_a_time_limit_of_the_executor_that_of_an_agent_changes_nothing():
    agents = agent(), events.ControlRequested(time=4.0, action="cancel", cause="time_limit", by="agent:0", reason="too")
    assert outcome(story(TIME_LIMIT, agents, ended(signal="SIGTERM")))[1] == "time limit of 60 s"


# --- stopped and continued ------------------------------------------------------------------------------


def held(*ranks):
    return agent(), events.RanksStopped(time=4.0, ranks=list(ranks))


def continued(*ranks):
    return agent(), events.RanksContinued(time=4.0, ranks=list(ranks))


STOPS = {
    "none": ([], State.RUNNING),
    "some": ([held(0)], State.RUNNING),
    "all": ([held(0), held(1)], State.STOPPED),
    "all, and one of them again": ([held(0, 1), continued(1)], State.RUNNING),
    "all, one of them again, and once more": ([held(0, 1), continued(1), held(1)], State.STOPPED),
    "all but one that has ended": ([ended(1), held(0)], State.STOPPED),
    "all but one that ends then": ([held(0), ended(1)], State.STOPPED),
    "one that has ended is said to be held": ([ended(1), held(1)], State.RUNNING),
    "all have ended": ([held(0, 1), ended(0), ended(1)], State.RUNNING),
    "one that is not to be there": ([held(0, 7)], State.RUNNING),
    "one that is not to be there, beside all": ([held(0, 1, 7)], State.STOPPED),
}


@pytest.mark.parametrize("name", STOPS)
def test_stopped_is_when_all_that_have_started_and_not_ended_are_held(name):
    reports, state = STOPS[name]
    assert outcome([submitted(2), launched(), agent_started(), started(0), started(1), *reports])[0] is state


def test_nothing_is_stopped_before_all_have_started():
    assert outcome([submitted(2), launched(), started(0), held(0)], State.PENDING)[0] is State.PENDING


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3"),
        ([3, 4], "ranks 3, 4"),
        ([4, 5, 6, 7], "ranks 4 to 7"),
        ([0, 2, 3, 4, 9], "ranks 0, 2 to 4, 9"),
        (list(range(0, 40, 2)), "ranks 0, 2, 4, 6, 8, 10, 12, 14, …"),
    ],
)
def test_ranks_are_named_in_few_words(ranks, text):
    assert ranks_named(ranks) == text


# --- the first cause --------------------------------------------------------------------------------------


def test_what_the_task_said_explains_the_exit_codes_that_follow():
    reports = story(
        started(0), started(1), failed("ValueError: no", 1), ended(0, signal="SIGTERM"), ended(1, exit_code=1), ranks=2
    )
    assert outcome(reports) == (State.FAILED, "rank 1: ValueError: no")


def test_the_first_bad_end_is_the_cause_and_its_rank_is_named():
    reports = story(
        *(started(index) for index in range(4)),
        ended(0), ended(2, signal="SIGSEGV"), ended(1, signal="SIGTERM"), ended(3, signal="SIGTERM"),
        ranks=4, end=launcher_ended(exit_code=143),
    )  # fmt: skip
    assert outcome(reports) == (State.FAILED, "rank 2: killed by SIGSEGV")


def test_success_needs_an_end_record_of_every_rank_even_if_the_launcher_said_0():
    reports = story(started(0), started(1), ended(0), ranks=2)
    state, reason = outcome(reports)
    assert state is State.FAILED
    assert reason.startswith("rank 1 ended without an end record")


def test_many_silent_ranks_are_not_all_listed():
    reports = story(*(started(index) for index in range(100)), ranks=100, end=launcher_ended(exit_code=9))
    assert outcome(reports)[1].startswith("ranks 0 to 99 ended without an end record")
    odd = [ended(index) for index in range(1, 100, 2)]
    reports = story(*(started(index) for index in range(100)), *odd, ranks=100, end=launcher_ended(exit_code=9))
    assert outcome(reports)[1].startswith("ranks 0, 2, 4, 6, 8, 10, 12, 14, … ended without an end record")


# --- when the outcome is given --------------------------------------------------------------------------


def test_an_execution_runs_once_all_its_ranks_have_started():
    evidence = evidence_of([submitted(2), launched(), agent_started(), started(0)])
    assert evidence.state(State.PENDING) == (State.PENDING, "")
    evidence.add(*started(1))
    assert evidence.state(State.PENDING) == (State.RUNNING, "")


@pytest.mark.parametrize("length", range(6))
def test_nobody_sees_an_outcome_before_everything_is_delivered(length):
    reports = story(started(), ended())
    evidence = evidence_of(reports[: length + 1])
    expected = State.COMPLETED if length + 1 == len(reports) else State.RUNNING
    assert evidence.delivered is (expected is State.COMPLETED)
    assert evidence.state(State.RUNNING)[0] is expected


def test_the_end_waits_for_the_agents_of_all_nodes():
    reports = [
        submitted(2),
        launched(2),
        agent_started(0),
        agent_started(1),
        started(0),
        started(1),
        ended(0),
        ended(1),
    ]
    evidence = evidence_of([*reports, launcher_ended(exit_code=0), agent_closed(0)])
    assert not evidence.delivered
    evidence.add(*agent_closed(1))
    assert evidence.state(State.RUNNING) == (State.COMPLETED, "")


def test_after_the_launchers_death_only_agents_that_did_start_are_waited_for():
    evidence = evidence_of([submitted(), launched(2), agent_started(0), started(), LAUNCHER_GONE])
    assert not evidence.delivered
    evidence.add(*agent_closed(0))
    assert evidence.delivered


def test_what_came_first_stays_when_it_is_reported_twice():
    reports = [submitted(), launched(), agent_started(), started(), ended(exit_code=3), ended(exit_code=0)]
    assert outcome([*reports, launcher_ended(exit_code=0), agent_closed()])[1] == "exit code 3"


def test_lost_events_are_counted():
    loss = events.Loss(time=1.0, stream="rank:0/log", count=5, detail="the spool is full")
    assert evidence_of([submitted(), (agent(), loss), (agent(), loss)]).lost_events == 10


def test_the_last_error_of_the_rank_that_failed_first_is_the_reason():
    reports = story(
        started(0), started(1), failed("result 'x': a lock", 1), failed("ValueError: other", 0),
        failed("ValueError: no", 1), ended(0, exit_code=1), ended(1, exit_code=1), ranks=2,
    )  # fmt: skip
    assert outcome(reports) == (State.FAILED, "rank 1: ValueError: no")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, (State.COMPLETED, "")),
        (3, (State.FAILED, "exit code 3 (it could not report to its spool: No space left on device)")),
        (-11, (State.FAILED, "killed by SIGSEGV (it could not report to its spool: No space left on device)")),
        (-70, (State.FAILED, "killed by signal 70 (it could not report to its spool: No space left on device)")),
    ],
)
def test_a_rank_whose_end_could_not_be_recorded_ended_as_the_launcher_says(status, expected):
    end = launcher_ended(exit_code=0, unrecorded={0: status}, unrecorded_why="No space left on device")
    assert outcome(story(started(), end=end)) == expected


def test_an_end_record_weighs_more_than_what_the_launcher_says():
    end = launcher_ended(unrecorded={0: 3, 1: 0}, unrecorded_why="No space left on device")
    reports = story(started(0), started(1), ended(0), end=end, ranks=2)
    assert outcome(reports) == (State.COMPLETED, "")
