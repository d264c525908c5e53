"""A real broker whose journal is damaged under it, or while it was away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from theorbo.broker import recovery
from theorbo.schemas.errors import TheorboError
from theorbo.schemas.frames import Command, Header, encode_json
from theorbo.schemas.link import open_link

from .journals import ENDED, OPEN, Kept, destroy, fill, leaf_pages


class Process:
    """`theorbo broker` with this state directory."""

    def __init__(self, state: Path, wait_for, embedded: bool) -> None:
        self.connection = state / "connection.json"
        self._log = (state / "log").open("a+b")
        own = ["--embedded"] if embedded else ["--state", str(state), "--bind", "tcp://127.0.0.1:0"]
        environment = {**os.environ, "THEORBO_STATE": str(state)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "theorbo.broker", *own], env=environment, stderr=self._log, stdin=subprocess.DEVNULL
        )
        wait_for(lambda: self.connection.exists() or self.process.poll() is not None, "a connection file")

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def ended(self) -> int:
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; its log: {self.log()}") from None

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path, wait_for) -> Iterator[object]:
    started: list[Process] = []

    def start(*, embedded: bool = False) -> Process:
        started.append(Process(tmp_path, wait_for, embedded))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(20)
        each._log.close()


def test_damage_at_the_start_is_recovered_from_and_told(tmp_path, start):
    path = tmp_path / "journal.sqlite"
    fill(path)
    destroy(path, 1, *leaf_pages(path, "batches")[3:5])
    broker = start()
    assert broker.process.poll() is None, broker.log()
    words = [json.loads(line) for line in broker.log().splitlines()]
    (told,) = [each for each in words if each["event"] == "the journal was recovered"]
    assert told["lost_events"] > 0
    assert Path(told["damaged_file"]).exists()
    assert broker.end() == 0
    checked = subprocess.run(
        [sys.executable, "-m", "theorbo.schemas.command", "journal", "check", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_damage_at_run_time_ends_the_broker_and_the_next_one_recovers(tmp_path, start):
    path = tmp_path / "journal.sqlite"
    fill(path)
    first = start(embedded=True)
    destroy(path, *leaf_pages(path, "batches")[3:])
    with closing(open_link(first.connection)) as link, contextlib.suppress(TheorboError):
        link.ask(Command.READ, Header(), encode_json(follow=False))
    assert first.ended() == 6
    assert "is damaged" in first.log().splitlines()[-1]
    assert recovery.is_marked(path)
    assert not first.connection.exists()
    second = start(embedded=True)
    assert second.process.poll() is None, second.log()
    assert "the journal was recovered" in second.log()
    assert second.end() == 0
    kept = Kept(path)
    assert [it.execution for it in kept.recalled] == [OPEN]
    kept.close()


def test_what_was_committed_survives_a_torn_end_of_the_write_ahead_log(tmp_path):
    """What kill -9 or a power cut leaves: SQLite itself forgets the torn transaction, which was not acknowledged."""
    path = tmp_path / "journal.sqlite"
    kept = fill(path, clean=False)
    log = path.with_name("journal.sqlite-wal")
    elsewhere = tmp_path / "after"
    elsewhere.mkdir()
    (elsewhere / path.name).write_bytes(path.read_bytes())
    (elsewhere / log.name).write_bytes(log.read_bytes() + os.urandom(5000))
    kept.close()
    again = Kept(elsewhere / path.name)
    assert not again.told
    again.close()
    counts = []
    for each in (path, elsewhere / path.name):
        connection = sqlite3.connect(each)
        counts.append(connection.execute("SELECT count(*) FROM batches").fetchone())
        connection.close()
    assert counts[0] == counts[1]


def test_a_replay_that_the_journal_cuts_short_does_not_look_whole(tmp_path, start, run_theorbo):
    """As with an index that is damaged, where SQLite finds fewer rows than there are, and no fault."""
    path = tmp_path / "journal.sqlite"
    fill(path, batches=20)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM batches WHERE sequence = 12")
    one = start()
    done = run_theorbo("replay", ENDED.hex(), "--broker", one.connection)
    assert done.returncode == 1
    assert "not all of it could be had: 2 " in done.stderr
    done = run_theorbo("replay", OPEN.hex(), "--broker", one.connection)
    assert done.returncode == 0
    assert "could be had" not in done.stderr
