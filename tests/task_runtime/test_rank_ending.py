from __future__ import annotations

import signal

from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal

ONE, TWO, HELPER = Process(1, 0, 1, 1), Process(2, 0, 2, 1), Process(3, 1, 1, 2)


def sent(instructions):
    assert all(isinstance(each, SendSignal) for each in instructions)
    return [(each.process.pid, each.number) for each in instructions]


def test_nothing_is_signalled_unasked():
    ending = RankEnding()
    assert not ending.requested
    assert ending.due({0: [ONE]}, 5.0) == []


def test_sigterm_once_then_sigkill_until_nothing_is_left():
    ending = RankEnding()
    ending.request(10.0, 100.0)
    assert sent(ending.due({0: [ONE], 1: [TWO]}, 100.0)) == [(1, signal.SIGTERM), (2, signal.SIGTERM)]
    assert ending.due({0: [ONE, HELPER], 1: []}, 105.0) == []  # what tidies up is left alone
    assert ending.kill_at == 110.0
    assert sent(ending.due({0: [ONE, HELPER], 1: []}, 110.0)) == [(1, signal.SIGKILL), (3, signal.SIGKILL)]
    assert sent(ending.due({0: [HELPER]}, 110.1)) == [(3, signal.SIGKILL)]
    assert ending.killed == {0}


def test_a_rank_that_starts_while_others_are_ended_is_ended_too():
    ending = RankEnding()
    ending.request(10.0, 0.0)
    assert sent(ending.due({0: [ONE]}, 0.0)) == [(1, signal.SIGTERM)]
    assert sent(ending.due({0: [ONE], 1: [TWO]}, 1.0)) == [(2, signal.SIGTERM)]


def test_no_grace_kills_at_once_and_the_shortest_grace_holds():
    ending = RankEnding()
    ending.request(10.0, 0.0)
    ending.request(0.0, 2.0)
    ending.request(10.0, 3.0)
    assert sent(ending.due({0: [ONE]}, 3.0)) == [(1, signal.SIGKILL)]


def test_what_is_stopped_gets_sigcont_behind_sigterm_for_else_it_would_not_see_it():
    ending = RankEnding()
    ending.request(10.0, 0.0)
    stopped = ONE._replace(state="T")
    assert sent(ending.due({0: [stopped, HELPER]}, 0.0)) == [
        (1, signal.SIGTERM), (3, signal.SIGTERM), (1, signal.SIGCONT),
    ]  # fmt: skip
