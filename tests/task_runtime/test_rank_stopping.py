from __future__ import annotations

import signal

from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_stopping import RankStopping

RUNNING, CHILD = Process(11, 10, 11, 1, "R"), Process(12, 11, 11, 2, "S")
STOPPED, STOPPED_CHILD = RUNNING._replace(state="T"), CHILD._replace(state="T")
OTHER = Process(21, 20, 21, 1, "S")
STOP, CONT = signal.SIGSTOP, signal.SIGCONT


def sent(change):
    return [(each.process.pid, each.number) for each in change.signals]


def stopped(*ranks):
    stopping = RankStopping()
    stopping.stop()
    for process in (RUNNING, STOPPED, STOPPED):
        change = stopping.due({rank: [process] for rank in ranks})
    assert change.stopped == set(ranks)
    return stopping


def test_nothing_is_signalled_unasked():
    stopping = RankStopping()
    assert stopping.due({0: [RUNNING, STOPPED_CHILD]}) == ([], set(), set())


def test_each_process_of_a_rank_is_stopped_and_the_rank_stands_when_two_looks_agree():
    stopping = RankStopping()
    stopping.stop()
    assert sent(stopping.due({0: [RUNNING]})) == [(11, STOP)]
    assert stopping.due({0: [STOPPED]}).stopped == set()  # a child may have been forked just before
    assert sent(stopping.due({0: [STOPPED, CHILD]})) == [(12, STOP)]
    assert stopping.due({0: [STOPPED, STOPPED_CHILD]}).stopped == set()
    assert not stopping.is_settled({0: [STOPPED, STOPPED_CHILD]})
    assert stopping.due({0: [STOPPED, STOPPED_CHILD]}).stopped == {0}
    assert stopping.is_settled({0: [STOPPED, STOPPED_CHILD]})


def test_a_process_that_comes_between_two_looks_begins_them_anew():
    stopping = RankStopping()
    stopping.stop()
    stopping.due({0: [STOPPED]})
    assert stopping.due({0: [STOPPED, STOPPED_CHILD]}).stopped == set()
    assert stopping.due({0: [STOPPED, STOPPED_CHILD]}).stopped == {0}


def test_a_rank_that_starts_while_ranks_are_stopped_is_stopped_too():
    stopping = stopped(0)
    assert sent(stopping.due({0: [STOPPED], 1: [OTHER]})) == [(21, STOP)]
    assert stopping.stopped == {0}


def test_continuing_reaches_every_process_and_is_told_when_all_run():
    stopping = stopped(0, 1)
    stopping.proceed()
    both = {0: [STOPPED, STOPPED_CHILD], 1: [OTHER]}
    assert sent(stopping.due(both)) == [(11, CONT), (12, CONT), (21, CONT)]
    change = stopping.due({0: [STOPPED, CHILD], 1: [OTHER]})
    assert (sent(change), change.continued) == ([(11, CONT)], {1})
    change = stopping.due({0: [RUNNING, CHILD], 1: [OTHER]})
    assert (sent(change), change.continued) == ([], {0})
    assert stopping.is_settled({0: [RUNNING]})


def test_a_stop_that_has_not_taken_effect_is_taken_back():
    stopping = RankStopping()
    stopping.stop()
    assert sent(stopping.due({0: [RUNNING]})) == [(11, STOP)]
    stopping.proceed()
    assert sent(stopping.due({0: [RUNNING]})) == [(11, CONT)]
    assert sent(stopping.due({0: [RUNNING]})) == []


def test_what_others_have_stopped_is_continued_too():
    stopping = RankStopping()
    stopping.proceed()
    assert sent(stopping.due({0: [STOPPED], 1: [OTHER]})) == [(11, CONT)]


def test_a_rank_that_others_continue_is_told_and_left_alone_until_it_is_stopped_again():
    stopping = stopped(0)
    assert stopping.due({0: [RUNNING]}) == ([], set(), {0})
    assert stopping.due({0: [STOPPED]}) == ([], {0}, set())
    stopping.due({0: [RUNNING]})
    stopping.stop()
    assert sent(stopping.due({0: [RUNNING]})) == [(11, STOP)]


def test_a_rank_that_ends_is_neither_stopped_nor_continued_any_more():
    stopping = stopped(0, 1)
    assert stopping.due({0: [], 1: [STOPPED]}) == ([], set(), set())
    assert stopping.stopped == {1}
    assert stopping.due({1: [STOPPED]}) == ([], set(), set())


def test_what_an_agent_before_has_reported_is_known():
    stopping = RankStopping()
    stopping.stop()
    stopping.recall_stopped([0, 1])
    stopping.recall_continued([1])
    assert stopping.due({0: [STOPPED], 1: [OTHER]}) == ([], set(), set())
    stopping.proceed()
    assert sent(stopping.due({0: [STOPPED]})) == [(11, CONT)]
