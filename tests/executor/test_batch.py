"""An Executor and its batch job: what it reports and does, without a scheduler."""

from __future__ import annotations

import pytest

from theorbo.executor.core import Supervisor
from theorbo.executor.reported import Reported
from theorbo.executor.values import (
    Accepted,
    CallHooks,
    EndLauncher,
    Finish,
    Heard,
    JobTold,
    LastWord,
    Launch,
    LauncherEnded,
    Rebuilt,
    Recalled,
    Report,
    Tick,
    Wanted,
    Watching,
    WatchLauncher,
    Wish,
    Withdraw,
    Withdrawn,
)
from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import KILL_WAIT_S, LAUNCHER_WORD_S, LOST_S
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind

T0 = 1000.0
DAY_S = 86_400.0
SUBMITTED = events.JobSubmitted(time=1.0, scheduler="slurm", job="12")
STARTED = events.LauncherStarted(time=1.0, host="node1", agents=2)


def heard(event: events.EventBase, position: int = 1, source: Source = BROKER) -> Heard:
    return Heard(Reported(Header(channel=Channel.SIGNALS, source=source, position=position), event))


def reports(decisions) -> list[events.EventBase]:
    return [decision.event for decision in decisions if isinstance(decision, Report)]


def rest(decisions) -> list[type]:
    return [type(decision) for decision in decisions if not isinstance(decision, (Report, CallHooks))]


@pytest.fixture
def queued() -> Supervisor:
    """Its job has a number, and waits."""
    supervisor = Supervisor(T0, by="ada@login", grace_s=10.0, batch=True)
    assert supervisor.handle(Accepted(), T0) == [Launch()]
    assert reports(supervisor.handle(JobTold(SUBMITTED), T0)) == [SUBMITTED]
    supervisor.handle(heard(SUBMITTED), T0)
    return supervisor


def test_a_job_may_wait_for_days(queued):
    assert queued.handle(Tick(0.0), T0 + 30 * DAY_S) == []


def test_what_the_scheduler_says_is_reported(queued):
    changed = events.JobChanged(time=2.0, job="12", state="PENDING", reason="Priority")
    assert reports(queued.handle(JobTold(changed), T0)) == [changed]
    queued.handle(heard(STARTED), T0 + 1)
    assert queued.handle(JobTold(changed), T0 + 2) == [], "an answer from before it began"


def test_a_job_that_waits_is_cancelled_in_the_queue_at_once_with_receipts(queued):
    decisions = queued.handle(Wanted(Wish.CANCEL, "enough"), T0 + 5)
    (request,) = reports(decisions)
    assert Withdraw in rest(decisions), "the broker may be away"
    (accepted,) = reports(queued.handle(heard(request, 7, EXECUTOR), T0 + 5))
    assert (accepted.kind, accepted.action, accepted.request) == ("control_accepted", "cancel", 7)
    (done,) = reports(queued.handle(Withdrawn(True), T0 + 6))
    assert (done.request, done.refused, done.detail) == (7, "", "job 12 was cancelled in the queue")
    assert reports(queued.handle(LauncherEnded(None, "", False, "CANCELLED"), T0 + 6)) == []
    (gone,) = reports(queued.handle(Tick(0.0), T0 + 6))
    assert (gone.scheduler_state, gone.reason) == ("CANCELLED", "job 12 ended as CANCELLED before it had begun")


@pytest.mark.parametrize("source", [BROKER, Source(SourceKind.AGENT, 0)])
def test_what_another_requests_is_carried_out_likewise(queued, source):
    asked = events.ControlRequested(time=1.0, action="kill", by="bob@home", reason="wrong run")
    decisions = queued.handle(heard(asked, 9, source), T0 + 5)
    assert [event.kind for event in reports(decisions)] == ["control_accepted"]
    assert rest(decisions) == [Withdraw]
    assert [event.request for event in reports(queued.handle(Withdrawn(True), T0 + 6))] == [9]


def test_each_request_has_its_receipt_and_the_job_is_cancelled_once(queued):
    cancel = events.ControlRequested(time=1.0, action="cancel", by="bob")
    assert rest(queued.handle(heard(cancel, 9), T0 + 5)) == [Withdraw]
    assert rest(queued.handle(heard(cancel, 10), T0 + 5)) == []
    assert [event.request for event in reports(queued.handle(Withdrawn(True), T0 + 6))] == [9, 10]


@pytest.mark.parametrize("action", ["stop", "continue", "stacks"])
def test_holding_and_continuing_are_no_end(queued, action):
    asked = events.ControlRequested(time=1.0, action=action, by="bob")
    assert rest(queued.handle(heard(asked, 9), T0 + 5)) == []
    (request,) = reports(queued.handle(Wanted(Wish.INTERRUPT, "Ctrl-C"), T0 + 6))
    assert request.action == "cancel"


def test_a_job_that_has_begun_is_left_to_its_agents_and_cancelled_if_they_do_not_end_it(queued):
    queued.handle(heard(STARTED), T0 + 1)
    decisions = queued.handle(Wanted(Wish.CANCEL, ""), T0 + 5)
    assert Withdraw not in rest(decisions)
    (request,) = reports(decisions)
    assert reports(queued.handle(heard(request, 7, EXECUTOR), T0 + 5)) == []
    assert EndLauncher in rest(queued.handle(Tick(0.0), T0 + 15 + KILL_WAIT_S))


def test_a_job_that_was_too_fast_for_the_queue_is_its_agents_affair(queued):
    asked = events.ControlRequested(time=1.0, action="cancel", by="bob")
    queued.handle(heard(asked, 9), T0 + 5)
    queued.handle(heard(STARTED), T0 + 6)
    (done,) = reports(queued.handle(Withdrawn(False, "job is running"), T0 + 6))
    assert (done.refused, done.detail) == ("", "job 12 has nodes by now: its agents carry it out")


def test_a_queue_that_does_not_let_go_is_told(queued):
    queued.handle(heard(events.ControlRequested(time=1.0, action="cancel", by="bob"), 9), T0 + 5)
    (done,) = reports(queued.handle(Withdrawn(False, "scancel has not answered"), T0 + 6))
    assert done.refused == "job 12 could not be cancelled in the queue: scancel has not answered"


def test_interrupted_while_sbatch_is_under_way_the_job_is_cancelled_as_soon_as_it_has_a_number():
    supervisor = Supervisor(T0, by="ada", batch=True)
    supervisor.handle(Accepted(), T0)
    assert Withdraw not in rest(supervisor.handle(Wanted(Wish.INTERRUPT, ""), T0 + 1))
    assert supervisor.handle(JobTold(SUBMITTED), T0 + 2) == [Report(SUBMITTED), Withdraw()]


def test_a_terminal_that_closes_while_sbatch_is_under_way_waits_for_the_number():
    supervisor = Supervisor(T0, by="ada", batch=True)
    supervisor.handle(Accepted(), T0)
    assert supervisor.handle(Wanted(Wish.LET_GO, "SIGHUP"), T0 + 1) == []
    supervisor.handle(JobTold(SUBMITTED), T0 + 2)
    assert Finish in rest(supervisor.handle(heard(SUBMITTED), T0 + 3))


def test_detached_it_lets_go_once_the_journal_has_the_job():
    supervisor = Supervisor(T0, by="ada", batch=True, detach=True)
    supervisor.handle(Accepted(), T0)
    supervisor.handle(JobTold(SUBMITTED), T0 + 2)
    assert Finish in rest(supervisor.handle(heard(SUBMITTED), T0 + 3))


def test_a_refused_job_ends_the_execution_with_the_schedulers_reason():
    supervisor = Supervisor(T0, by="ada", batch=True)
    supervisor.handle(Accepted(), T0)
    words = "sbatch refuses the job: invalid partition specified: nosuch"
    supervisor.handle(LauncherEnded(None, words, started=False), T0 + 1)
    (gone,) = reports(supervisor.handle(Tick(0.0), T0 + 1))
    assert (gone.reason, gone.scheduler_state) == (words, "")


def test_a_job_that_left_the_queue_without_a_word_is_reported_after_a_look_through_the_journal(queued):
    queued.handle(heard(STARTED), T0 + 1)
    queued.handle(LauncherEnded(None, "slurmstepd: killed", True, "NODE_FAIL", "NodeDown"), T0 + 100)
    assert reports(queued.handle(Tick(0.0), T0 + 100 + LAUNCHER_WORD_S)) == []
    assert queued.looks_for_last_word
    (gone,) = reports(queued.handle(LastWord(None), T0 + 104))
    assert gone.scheduler_state == "NODE_FAIL"
    assert gone.reason == "job 12 ended as NODE_FAIL (NodeDown) without a word of its launcher: slurmstepd: killed"


def test_a_job_that_the_scheduler_has_forgotten_is_not_called_a_success(queued):
    queued.handle(LauncherEnded(None, ""), T0 + 1)
    queued.handle(Tick(0.0), T0 + 1 + LAUNCHER_WORD_S)
    (gone,) = reports(queued.handle(LastWord(None), T0 + 5))
    assert "no longer known to the scheduler" in gone.reason


def test_the_time_limit_begins_when_the_job_does():
    supervisor = Supervisor(T0, by="ada", batch=True, time_limit_s=60.0)
    supervisor.handle(Accepted(), T0)
    supervisor.handle(JobTold(SUBMITTED), T0)
    assert supervisor.handle(Tick(0.0), T0 + DAY_S) == []
    supervisor.handle(heard(STARTED), T0 + DAY_S)
    assert reports(supervisor.handle(Tick(0.0), T0 + DAY_S + 59)) == []
    (request,) = reports(supervisor.handle(Tick(0.0), T0 + DAY_S + 60))
    assert request.cause == "time_limit"


def test_an_execution_that_is_over_leaves_no_job_in_the_queue(queued):
    lost = events.StateChanged(time=1.0, state="LOST", previous="PENDING", reason="silence")
    assert EndLauncher in rest(queued.handle(heard(lost), T0 + 1))


def test_nor_does_one_that_ended_in_good_order_cancel_a_job_that_is_ending(queued):
    queued.handle(heard(STARTED), T0 + 1)
    queued.handle(heard(events.LauncherEnded(time=1.0, exit_code=0), 3, LAUNCHER), T0 + 2)
    done = events.StateChanged(time=1.0, state="COMPLETED", previous="RUNNING")
    assert rest(queued.handle(heard(done), T0 + 3)) == [Finish]


# --- attaching -----------------------------------------------------------------------------------------


def attached(*recalled: tuple[events.EventBase, int, Source], confirmed: bool = True) -> Supervisor:
    supervisor = Supervisor(T0, by="bob@login", attached=True)
    submitted = events.ExecutionSubmitted(time=1.0, task="t", user="u", host="h", launcher="slurm", time_limit_s=60.0)
    for event, position, source in ((submitted, 1, EXECUTOR), *recalled):
        supervisor.handle(Recalled(heard(event, position, source).reported, confirmed), T0)
    return supervisor


def test_whoever_attaches_watches_the_job_whose_number_is_in_the_journal():
    supervisor = attached((SUBMITTED, 2, EXECUTOR))
    assert supervisor.handle(Rebuilt(500.0), T0) == [WatchLauncher(SUBMITTED)]
    assert supervisor.handle(Tick(0.0), T0 + 10 * DAY_S) == [], "it has not begun: no time limit, and no agents"


def test_where_the_former_executor_died_before_it_could_say_the_number_the_job_is_looked_for():
    supervisor = attached()
    assert supervisor.handle(Rebuilt(5.0), T0) == [WatchLauncher(None)]
    supervisor.handle(Watching(), T0)
    assert reports(supervisor.handle(JobTold(SUBMITTED), T0 + 1)) == [SUBMITTED]


def test_a_number_that_the_former_executor_had_reported_is_not_reported_again():
    supervisor = attached()
    supervisor.handle(Rebuilt(5.0), T0)
    supervisor.handle(heard(SUBMITTED, 2, EXECUTOR), T0)
    assert supervisor.handle(JobTold(SUBMITTED), T0 + 1) == []


def test_a_cancellation_that_the_former_executor_owed_is_carried_out_and_receipted_once():
    asked = events.ControlRequested(time=1.0, action="cancel", by="carol")
    supervisor = attached((SUBMITTED, 2, EXECUTOR), (asked, 3, BROKER))
    decisions = supervisor.handle(Rebuilt(5.0), T0)
    assert [event.kind for event in reports(decisions)] == ["control_accepted"]
    assert rest(decisions) == [WatchLauncher, Withdraw]
    assert reports(supervisor.handle(heard(asked, 3, BROKER), T0)) == [], "heard again behind what was confirmed"
    assert [event.request for event in reports(supervisor.handle(Withdrawn(True), T0 + 1))] == [3]


def test_one_that_had_its_receipt_is_not_receipted_again():
    asked = events.ControlRequested(time=1.0, action="cancel", by="carol")
    done = events.ControlDone(time=1.0, action="cancel", request=3)
    supervisor = attached((SUBMITTED, 2, EXECUTOR), (asked, 3, BROKER), (done, 4, EXECUTOR))
    assert reports(supervisor.handle(Rebuilt(5.0), T0)) == []


def test_a_job_that_has_begun_and_cannot_be_watched_is_given_up_by_its_agents_silence():
    supervisor = attached((SUBMITTED, 2, EXECUTOR), (STARTED, 3, LAUNCHER))
    supervisor.handle(Rebuilt(5.0), T0)
    assert supervisor.blind
    supervisor.handle(Tick(0.0), T0 + LOST_S)
    assert supervisor.looks_for_last_word


def test_one_that_waits_and_cannot_be_watched_is_not():
    supervisor = attached((SUBMITTED, 2, EXECUTOR))
    supervisor.handle(Rebuilt(5.0), T0)
    assert not supervisor.blind
