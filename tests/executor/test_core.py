"""What an Executor decides, without sockets, processes or clocks."""

from __future__ import annotations

import pytest

from theorbo.executor import hooks, values
from theorbo.executor.core import Supervisor
from theorbo.executor.reported import Reported
from theorbo.executor.values import (
    Accepted,
    CallHooks,
    EndLauncher,
    Finish,
    GiveUp,
    Heard,
    LastWord,
    Launch,
    LauncherEnded,
    Notice,
    Report,
    Tick,
    Wanted,
    Wish,
)
from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import CONNECT_S, DETACH_S, DRAIN_S, KILL_WAIT_S, LAUNCHER_WORD_S, LOST_S
from theorbo.schemas.names import BROKER, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.states import State

T0 = 1000.0


def heard(event: events.EventBase, source: Source = BROKER) -> Heard:
    return Heard(Reported(Header(channel=Channel.SIGNALS, source=source), event))


def state(new: str, previous: str = "PENDING", reason: str = "") -> Heard:
    return heard(events.StateChanged(time=1.0, state=new, previous=previous, reason=reason))


def supervisor(*, time_limit_s: float | None = None, detach: bool = False) -> Supervisor:
    return Supervisor(T0, by="ada@lab", grace_s=10.0, time_limit_s=time_limit_s, detach=detach)


def launched(**options) -> Supervisor:
    started = supervisor(**options)
    assert started.handle(Accepted(), T0) == [Launch()]
    return started


def kinds(instructions: list[values.Decision]) -> list[type]:
    return [type(instruction) for instruction in instructions]


def request(instructions: list[values.Decision]) -> events.ControlRequested:
    (event,) = [i.event for i in instructions if isinstance(i, Report)]
    assert isinstance(event, events.ControlRequested)
    return event


def test_nothing_is_launched_before_the_submission_is_accepted():
    waiting = supervisor()
    assert waiting.handle(Tick(0.0), T0 + 1) == []
    assert waiting.handle(Accepted(), T0 + 2) == [Launch()]


def test_it_launches_once():
    assert launched().handle(Accepted(), T0 + 1) == []


def test_a_submission_that_is_not_accepted_is_given_up_and_nothing_is_launched():
    waiting = supervisor()
    assert kinds(waiting.handle(Tick(0.0), T0 + CONNECT_S)) == [GiveUp]
    assert waiting.handle(Accepted(), T0 + CONNECT_S + 1) == []


@pytest.mark.parametrize("final", ["COMPLETED", "FAILED", "CANCELLED", "TIMEDOUT", "LOST"])
def test_a_final_state_ends_the_supervision_after_its_hooks(final):
    instructions = launched().handle(state(final, "RUNNING", "why"), T0 + 1)
    assert kinds(instructions) == [CallHooks, Finish]
    assert instructions[1] == Finish(State(final), "why")


def test_running_is_started_or_continued_by_where_it_comes_from():
    started = launched()
    assert started.handle(state("RUNNING"), T0 + 1)[0].names == ("ANY", "TASK_STARTED")
    assert started.handle(state("STOPPED", "RUNNING"), T0 + 2)[0].names == ("ANY", "TASK_STOPPED")
    assert started.handle(state("RUNNING", "STOPPED"), T0 + 3)[0].names == ("ANY", "TASK_CONTINUED")


def test_the_time_limit_cancels_with_its_own_cause():
    limited = launched(time_limit_s=5.0)
    assert limited.handle(Tick(0.0), T0 + 4.9) == []
    assert limited.deadline == T0 + 5.0
    asked = request(limited.handle(Tick(0.0), T0 + 5.0))
    assert (asked.action, asked.cause, asked.reason) == ("cancel", "time_limit", "time limit of 5 s reached")
    assert limited.handle(Tick(0.0), T0 + 6.0) == []


def test_the_time_limit_holds_for_ranks_that_have_outlived_their_launcher():
    running = launched(time_limit_s=60.0)
    running.handle(LauncherEnded(-9), T0 + 5)
    running.handle(Tick(0.0), T0 + 5 + LAUNCHER_WORD_S)
    assert request(running.handle(Tick(0.0), T0 + 60)).cause == "time_limit"
    assert running.handle(Tick(0.0), T0 + 60 + 10 + KILL_WAIT_S) == []  # there is no launcher to be ended


@pytest.mark.parametrize("word_first", [True, False])
def test_there_is_no_time_limit_once_all_ranks_have_ended(word_first):
    running = launched(time_limit_s=60.0)
    ends = [heard(events.LauncherEnded(time=1.0)), LauncherEnded(0)]
    for end in ends if word_first else reversed(ends):
        running.handle(end, T0 + 5)
    assert running.handle(Tick(0.0), T0 + 61) == []


def test_a_cancelled_task_is_not_timed_out_as_well():
    limited = launched(time_limit_s=5.0)
    limited.handle(Wanted(Wish.CANCEL, ""), T0 + 1)
    assert limited.handle(Tick(0.0), T0 + 6.0) == []


def test_the_first_interrupt_cancels_the_second_kills_the_third_lets_go():
    running = launched()
    first = request(running.handle(Wanted(Wish.INTERRUPT, "Ctrl-C"), T0 + 1))
    assert (first.action, first.cause, first.by, first.reason, first.grace_s) == (
        "cancel", "user", "ada@lab", "Ctrl-C", 10.0,
    )  # fmt: skip
    assert request(running.handle(Wanted(Wish.INTERRUPT, "Ctrl-C"), T0 + 2)).action == "kill"
    (finish,) = running.handle(Wanted(Wish.INTERRUPT, "Ctrl-C"), T0 + 3)
    assert (finish.state.final, finish.interrupted) == (False, True)


def test_an_interrupt_after_the_time_limit_kills():
    limited = launched(time_limit_s=5.0)
    limited.handle(Tick(0.0), T0 + 5.0)
    assert request(limited.handle(Wanted(Wish.INTERRUPT, ""), T0 + 6)).action == "kill"


@pytest.mark.parametrize(
    ("wish", "action"), [(Wish.STOP, "stop"), (Wish.CONTINUE, "continue"), (Wish.STACKS, "stacks")]
)
def test_holding_continuing_and_asking_for_stacks_are_requests_but_no_end(wish, action):
    running = launched(time_limit_s=60.0)
    assert request(running.handle(Wanted(wish, "why"), T0 + 1)).action == action
    running.handle(heard(events.ControlRequested(time=1.0, action=action, by="bob@home")), T0 + 2)
    assert request(running.handle(Wanted(Wish.INTERRUPT, ""), T0 + 3)).action == "cancel"


def test_what_another_has_asked_for_and_the_launcher_does_not_heed_ends_the_launcher():
    running = launched()
    running.handle(heard(events.ControlRequested(time=1.0, action="cancel", by="bob@home", grace_s=5.0)), T0 + 2)
    assert kinds(running.handle(Tick(0.0), T0 + 2 + 5 + KILL_WAIT_S)) == [EndLauncher, Notice]


def test_whoever_wants_to_let_go_of_it_stays_when_another_has_asked_for_its_end():
    running = launched(detach=True)
    running.handle(heard(events.ControlRequested(time=1.0, action="cancel", by="bob@home")), T0 + 2)
    assert kinds(running.handle(state("RUNNING"), T0 + 3)) == [CallHooks]


def test_a_scheduler_that_sends_sigterm_twice_does_not_cut_the_grace_short():
    running = launched()
    assert request(running.handle(Wanted(Wish.CANCEL, "SIGTERM"), T0 + 1)).action == "cancel"
    assert running.handle(Wanted(Wish.CANCEL, "SIGTERM"), T0 + 1.1) == []


def test_what_another_has_asked_for_can_be_asked_for_again():
    """A recovered journal may have lost that request, and with it what the agents were told."""
    running = launched()
    running.handle(heard(events.ControlRequested(time=1.0, action="cancel", by="bob@home")), T0 + 1)
    assert request(running.handle(Wanted(Wish.CANCEL, "enough"), T0 + 2)).action == "cancel"


def test_a_launcher_that_survives_the_kill_is_ended_itself():
    running = launched()
    running.handle(Wanted(Wish.KILL, ""), T0)
    assert kinds(running.handle(Tick(0.0), T0 + KILL_WAIT_S)) == [EndLauncher, Notice]
    assert running.handle(Tick(0.0), T0 + KILL_WAIT_S + 1) == []


def test_interrupted_before_the_launch_nothing_is_launched():
    waiting = supervisor()
    assert request(waiting.handle(Wanted(Wish.INTERRUPT, ""), T0)).action == "cancel"
    (report,) = waiting.handle(Accepted(), T0 + 1)
    assert isinstance(report, Report)
    assert isinstance(report.event, events.LauncherGone)
    assert kinds(waiting.handle(state("CANCELLED"), T0 + 2)) == [CallHooks, Finish]


def test_a_launcher_that_ended_without_a_word_is_reported_after_a_short_wait():
    running = launched()
    assert running.handle(LauncherEnded(-9), T0 + 1) == []
    assert running.handle(Tick(0.0), T0 + 1.5) == []
    assert running.handle(Tick(0.0), T0 + 1 + LAUNCHER_WORD_S) == []
    assert running.looks_for_last_word, "the Executor may be behind the journal"
    assert running.deadline > T0 + 1000
    (report,) = running.handle(LastWord(None), T0 + 6)
    assert report.event.reason == "the launcher was killed by signal 9 without a word"
    assert running.handle(Tick(0.0), T0 + 10) == running.handle(LastWord(None), T0 + 10) == []


def test_a_launcher_whose_last_word_is_in_the_journal_and_not_heard_yet_is_not_reported():
    running = launched()
    running.handle(LauncherEnded(0), T0 + 1)
    running.handle(Tick(0.0), T0 + 1 + LAUNCHER_WORD_S)
    assert running.handle(LastWord(events.LauncherEnded(time=1.0, exit_code=0)), T0 + 5) == []
    assert not running.looks_for_last_word
    assert running.handle(Tick(0.0), T0 + 60) == running.handle(LastWord(None), T0 + 60) == []


def test_a_launcher_whose_last_word_comes_in_time_is_not_reported():
    running = launched()
    running.handle(LauncherEnded(0), T0 + 1)
    running.handle(heard(events.LauncherEnded(time=1.0, exit_code=0)), T0 + 2)
    assert running.handle(Tick(0.0), T0 + 30) == []


def test_the_wait_for_the_launchers_word_counts_only_while_the_broker_is_heard():
    running = launched()
    running.handle(LauncherEnded(0), T0 + 1)
    assert running.handle(Tick(4.0), T0 + 1 + LAUNCHER_WORD_S) == []
    assert kinds(running.handle(Tick(6.0), T0 + 6)) == [Notice]
    assert kinds(running.handle(Tick(0.0), T0 + 7)) == [Notice]
    assert not running.looks_for_last_word
    assert running.handle(Tick(0.0), T0 + 6 + LAUNCHER_WORD_S) == []
    assert kinds(running.handle(LastWord(None), T0 + 10)) == [Report]


def test_a_launcher_that_could_not_be_started_is_reported_at_the_next_tick():
    running = launched()
    running.handle(LauncherEnded(None, "no memory", started=False), T0 + 1)
    assert running.deadline == T0 + 1
    (report,) = running.handle(Tick(0.0), T0 + 1)
    assert report.event.reason == "the launcher could not be started: no memory"


def test_nothing_waits_for_ever():
    running = launched()
    running.handle(LauncherEnded(0), T0)
    running.handle(heard(events.LauncherEnded(time=1.0), LAUNCHER), T0 + 1)
    running.handle(heard(events.Log(time=1.0, text="still delivering"), Source(SourceKind.RANK, 0)), T0 + 100)
    running.handle(heard(events.ControlRequested(time=1.0, action="stop", by="bob@home")), T0 + 200)  # tells nothing
    assert running.handle(Tick(0.0), T0 + DRAIN_S + LOST_S + 50) == []
    assert kinds(running.handle(Tick(0.0), T0 + DRAIN_S + LOST_S + 100)) == [GiveUp]


def test_a_broker_that_has_gone_too_is_waited_for_less_long():
    running = launched()
    running.handle(LauncherEnded(0), T0)
    running.handle(heard(events.LauncherEnded(time=1.0), LAUNCHER), T0 + 1)
    assert kinds(running.handle(Tick(100.0), T0 + DRAIN_S)) == [Notice]
    assert kinds(running.handle(Tick(110.0), T0 + 1 + DRAIN_S)) == [GiveUp]


def test_what_hinders_the_broker_is_told_once_and_when_it_is_over():
    running = launched()
    (notice,) = running.handle(Tick(0.0, "its journal cannot be written: disk is full"), T0 + 1)
    assert "disk is full" in notice.text
    assert running.handle(Tick(0.0, "its journal cannot be written: disk is full"), T0 + 2) == []
    assert kinds(running.handle(Tick(0.0), T0 + 3)) == [Notice]


def test_a_submission_that_is_not_taken_is_told_with_what_hinders_the_broker():
    waiting = Supervisor(T0, by="me", grace_s=10.0, time_limit_s=None)
    waiting.handle(Tick(0.0, "disk is full"), T0 + 1)
    assert "disk is full" in waiting.handle(Tick(0.0, "disk is full"), T0 + CONNECT_S)[-1].reason


def test_a_silent_broker_does_not_end_the_supervision_while_the_launcher_lives():
    running = launched()
    assert kinds(running.handle(Tick(20.0), T0 + 20)) == [Notice]
    assert running.handle(Tick(1000.0), T0 + 1000) == []


def started_agent(supervisor, now):
    return kinds(supervisor.handle(heard(events.AgentStarted(time=1.0, host="n")), now))


def test_detached_it_lets_go_when_the_task_runs():
    detached = launched(detach=True)
    assert kinds(detached.handle(heard(events.LauncherStarted(time=1.0, host="n", agents=1)), T0 + 1)) == [CallHooks]
    assert started_agent(detached, T0 + 2) == [CallHooks]
    instructions = detached.handle(state("RUNNING"), T0 + 3)
    assert kinds(instructions) == [CallHooks, Finish]
    assert (instructions[1].state, instructions[1].interrupted) == (State.RUNNING, False)


def test_detached_it_tells_how_a_task_has_ended_that_never_ran():
    detached = launched(detach=True)
    started_agent(detached, T0 + 2)
    assert detached.handle(state("FAILED"), T0 + 3)[-1].state is State.FAILED


def test_detached_it_lets_go_of_ranks_that_are_slow_to_start():
    detached = launched(detach=True)
    started_agent(detached, T0 + 2)
    assert detached.deadline == T0 + 2 + DETACH_S
    (finish,) = detached.handle(Tick(0.0), T0 + 2 + DETACH_S)
    assert finish.state is State.PENDING


def test_a_task_that_is_cancelled_while_it_is_being_detached_is_not_let_go():
    detached = launched(detach=True)
    started_agent(detached, T0 + 2)
    detached.handle(Wanted(Wish.INTERRUPT, "Ctrl-C"), T0 + 3)
    assert kinds(detached.handle(state("RUNNING"), T0 + 4)) == [CallHooks]
    assert not any(isinstance(each, Finish) for each in detached.handle(Tick(0.0), T0 + 4 + DETACH_S))


def test_a_closed_terminal_lets_go_also_before_anything_runs():
    waiting = supervisor()
    assert waiting.handle(Wanted(Wish.LET_GO, "SIGHUP"), T0) == []
    assert waiting.handle(Accepted(), T0 + 1) == [Launch()]
    assert started_agent(waiting, T0 + 2) == [CallHooks]
    assert kinds(waiting.handle(state("RUNNING"), T0 + 3)) == [CallHooks, Finish]


@pytest.mark.parametrize(
    ("event", "hook"),
    [
        (events.Result(time=1.0), "TASK_RESULT"),
        (events.Log(time=1.0, text=""), "TASK_LOG"),
        (events.Progress(time=1.0, done=1), "PROGRESS"),
        (events.Metric(time=1.0, name="m", value=1), "METRIC"),
        (events.Data(time=1.0, name="d", parts=[]), "DATA"),
        (events.Output(time=1.0, text=""), "OUTPUT"),
    ],
)
def test_every_kind_that_a_task_reports_has_its_hook(event, hook):
    assert hooks.hooks_of(event) == ("ANY", hook)
    assert hook in hooks.HOOK_NAMES


def test_an_event_without_a_hook_of_its_own_is_still_any_event():
    assert hooks.hooks_of(events.AgentStarted(time=1.0, host="n")) == ("ANY",)


def test_after_the_end_nothing_follows_any_more():
    running = launched(time_limit_s=1.0)
    running.handle(state("COMPLETED", "RUNNING"), T0)
    for stimulus in (Tick(100.0), Wanted(Wish.INTERRUPT, ""), LauncherEnded(0), Accepted()):
        assert running.handle(stimulus, T0 + 100) == []
