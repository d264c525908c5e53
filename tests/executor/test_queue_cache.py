"""One question for all of a user's Executors."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from theorbo.executor.queue_cache import QueueCache
from theorbo.executor.scheduler import Slurm
from theorbo.executor.slurm import JobStatus
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.limits import QUEUE_LOCK_S, QUEUE_POLL_S

T0 = 1_795_000_000.0


class Queue:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.problem = ""

    def ask(self) -> dict[str, JobStatus]:
        self.asked += 1
        if self.problem:
            raise Unavailable(self.problem)
        return {"12": JobStatus("RUNNING", "", "node1", f"job {self.asked}")}


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def cache(queue, tmp_path):
    """Of as many Executors as one likes."""
    return lambda: QueueCache(tmp_path / "queue.json", queue.ask)


def test_it_is_asked_once_for_all_and_not_again_before_its_time(queue, cache):
    executors = [cache() for _ in range(20)]
    for after in range(int(QUEUE_POLL_S)):
        assert {executor.look(T0 + after).jobs["12"].name for executor in executors} == {"job 1"}
    assert queue.asked == 1
    assert executors[7].look(T0 + QUEUE_POLL_S).asked_at == T0 + QUEUE_POLL_S
    assert executors[3].look(T0 + QUEUE_POLL_S + 1).jobs["12"].name == "job 2"
    assert queue.asked == 2


def test_a_failure_is_an_answer_too(queue, cache):
    queue.problem = "squeue: Unable to contact slurm controller"
    assert cache().look(T0).problem == queue.problem
    assert cache().look(T0 + 1).problem == queue.problem
    assert queue.asked == 1


def test_while_another_asks_the_last_answer_is_given(queue, cache, tmp_path):
    assert cache().look(T0)
    with open(tmp_path / "queue.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = cache()
        assert waiting.look(T0 + 100).asked_at == T0
        assert queue.asked == 1
        assert waiting.look(T0 + 100 + QUEUE_LOCK_S).asked_at == T0 + 100 + QUEUE_LOCK_S, "whoever asks hangs"


def test_while_another_asks_for_the_first_time_there_is_none(cache, tmp_path):
    with open(tmp_path / "queue.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cache().look(T0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "[1, 2, 3]", '[1, {"12": ["a", "b", "c", "d", "e"]}, ""]', "null"])
def test_a_file_that_is_no_answer_is_replaced(queue, cache, tmp_path, text):
    (tmp_path / "queue.json").write_text(text)
    assert cache().look(T0).jobs["12"].name == "job 1"
    assert cache().look(T0 + 1).jobs["12"].name == "job 1"


def test_an_answer_of_a_clock_that_is_far_ahead_is_not_believed_for_ever(queue, cache):
    cache().look(T0 + 3600)
    assert cache().look(T0).asked_at == T0


def test_where_nothing_can_be_written_each_asks_for_itself_as_rarely(queue, tmp_path):
    alone = QueueCache(tmp_path / "no such directory" / "queue.json", queue.ask)
    assert [alone.look(T0 + after).asked_at for after in (0, 5, 10, 20)] == [T0, T0, T0, T0 + 20]
    assert queue.asked == 2
    assert os.listdir(tmp_path) == []


def test_of_many_at_the_same_moment_one_asks(queue, cache):
    executors = [cache() for _ in range(8)]
    together = threading.Barrier(len(executors))
    answers = []

    def look(executor: QueueCache) -> None:
        together.wait()
        while not (answer := executor.look(T0)):
            pass
        answers.append(answer.jobs["12"].name)

    threads = [threading.Thread(target=look, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["job 1"] * len(executors)
    assert queue.asked == 1


def test_where_there_is_no_place_for_the_answer_it_is_asked_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("THEORBO_STATE", str(tmp_path / "file" / "state"))
    assert "squeue cannot be run" in Slurm({"PATH": str(tmp_path)}).queue().problem
