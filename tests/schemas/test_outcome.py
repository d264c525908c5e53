"""From evidence to outcome: the precedence of schemas/outcome.py, rule by rule, then rule against rule."""

import pytest

from theorbo.schemas import events
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Source, SourceKind
from theorbo.schemas.outcome import Evidence
from theorbo.schemas.states import State


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

RULES = {
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
    "5: the Task said that it failed": (
        story(started(), failed("ValueError: no"), ended(exit_code=1)),
        (State.FAILED, "ValueError: no"),
    ),
    "6: a rank ended with an exit code": (story(started(), ended(exit_code=3)), (State.FAILED, "exit code 3")),
    "6: a rank was killed": (story(started(), ended(signal="SIGSEGV")), (State.FAILED, "killed by SIGSEGV")),
    "6: a rank's program could not be started": (
        story(ended(problem="no program './absent'")),
        (State.FAILED, "no program './absent'"),
    ),
    "7: no rank ever started": (
        story(end=launcher_ended(exit_code=2, stderr="usage: mpiexec\nunknown option -x\n")),
        (State.FAILED, "no rank started; the launcher ended with exit code 2: unknown option -x"),
    ),
    "7: the launcher vanished": (
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
    "3 before 5": (story(started(), TIME_LIMIT, failed("Terminated"), ended(exit_code=1)), State.TIMEDOUT),
    "4 before 5": (story(started(), requested(), failed("KeyboardInterrupt"), ended(exit_code=1)), State.CANCELLED),
    "4 before 6": (story(started(), requested(), ended(exit_code=143)), State.CANCELLED),
    "4 before 7": (story(started(), requested(action="kill"), end=LAUNCHER_GONE), State.CANCELLED),
    "5 against ranks that all ended with 0": (story(started(), failed(), ended()), State.FAILED),
}


@pytest.mark.parametrize("name", PRECEDENCE)
def test_where_two_rules_fit_the_earlier_one_wins(name):
    reports, state = PRECEDENCE[name]
    assert outcome(reports)[0] is state


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
    assert outcome(reports)[1].startswith("ranks 0, 1, 2, 3, 4, 5, 6, 7, … ended without an end record")


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
