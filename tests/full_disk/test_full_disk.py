"""No room under the journal, with real processes: nothing is acknowledged, nothing is lost, people are told."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.bus import RANK, log
from tests.broker.talk import Talk, submitted
from theorbo.schemas.frames import Command, Header, Message, decode_json
from theorbo.schemas.names import Channel

from .disk import BrokerOnDisk, SmallDisk

LOG = Channel.LOG
WAITS = "the broker waits: its journal cannot be written"


@pytest.fixture
def disk(isolation):
    disk = SmallDisk(isolation / "disk", "size=48m,mode=700,nr_inodes=64")
    yield disk
    disk.close()


@pytest.fixture
def broker(disk, isolation):
    broker = BrokerOnDisk(disk, disk.place, isolation)
    yield broker
    broker.close()


class Running:
    """`theorbo run` of the Task of `tasks.py`, with what it says in files."""

    def __init__(self, connection_file: Path, place: Path) -> None:
        self.place = place
        self._out, self._err = place / "out", place / "err"
        task = f"{Path(__file__).parent / 'tasks.py'}:Ticks"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "theorbo.schemas.command", "run", task, "--json",
                    "-p", f"place={place}", "--broker", str(connection_file),
                ],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def ticks(self) -> list[int]:
        """Those that the Executor has shown so far."""
        events = [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [int(event["text"].split()[1]) for event in events if event["kind"] == "log"]

    @property
    def reported(self) -> int:
        """How far the Task itself is."""
        return int((self.place / "ticks").read_text() or 0) if (self.place / "ticks").exists() else 0

    def enough(self) -> int:
        (self.place / "enough").touch()
        return self.process.wait(60)


@pytest.fixture
def running(disk, broker, tmp_path):
    running = Running(broker.connection_file, tmp_path)
    yield running
    if running.process.poll() is None:
        disk.free()
        running.enough()


def filled(disk: SmallDisk, running: Running, wait_for) -> None:
    wait_for(lambda: running.ticks, f"the first ticks {running.said}")
    disk.fill()
    wait_for(lambda: WAITS in running.said, "a word about the full disk")
    before = running.reported
    wait_for(lambda: running.reported > before + 100, "the Task goes on")


def ended_whole(running: Running) -> None:
    assert running.enough() == 0, running.said
    assert running.ticks == list(range(1, running.reported + 1))


class TestAWholeRun:
    def test_the_task_goes_on_and_everything_arrives_once_when_there_is_room(self, disk, broker, running, wait_for):
        filled(disk, running, wait_for)
        shown = len(running.ticks)
        disk.free()
        wait_for(lambda: len(running.ticks) > shown, "the first ticks after it")
        ended_whole(running)
        assert "is the disk full?" in broker.log

    def test_a_broker_that_is_killed_meanwhile_loses_nothing(self, disk, broker, running, wait_for):
        filled(disk, running, wait_for)
        broker.kill()
        disk.free()
        broker.start()
        ended_whole(running)

    def test_a_broker_that_is_started_on_a_full_disk_serves_or_says_why_not(self, disk, broker, running, wait_for):
        filled(disk, running, wait_for)
        broker.kill()
        words = broker.try_to_start()
        assert words.startswith("ready ") or ("disk" in words and "Traceback" not in words)
        disk.free()
        if broker.process.poll() is not None:
            broker.start()
        ended_whole(running)


class TestWhoeverWatches:
    def test_tail_and_ps_tell_what_hinders_the_broker_and_when_it_is_over(
        self, disk, broker, running, wait_for, tmp_path, run_theorbo
    ):
        out, err = tmp_path / "seen", tmp_path / "said"
        with out.open("wb") as seen, err.open("wb") as said:
            watching = subprocess.Popen(
                [
                    sys.executable, "-m", "theorbo.schemas.command", "tail", "--json", "--until-ended",
                    "--broker", str(broker.connection_file),
                ],
                stdin=subprocess.DEVNULL, stdout=seen, stderr=said,
            )  # fmt: skip
        wait_for(lambda: "is live" in err.read_text(), "the live stream")
        filled(disk, running, wait_for)
        wait_for(lambda: WAITS in err.read_text(), "a word of tail about the full disk")
        asked = run_theorbo("ps", "--broker", broker.connection_file)
        assert f"theorbo ps: {WAITS}" in asked.stderr
        assert "RUNNING" in asked.stdout
        disk.free()
        ended_whole(running)
        watching.wait(60)
        assert "the broker goes on" in err.read_text()
        told = [event for event in map(json.loads, out.read_text().splitlines()) if event["kind"] == "broker_trouble"]
        assert [bool(event["text"]) for event in told] == [True, False]
        assert run_theorbo("ps", "--all", "--broker", broker.connection_file).stderr == ""


class TestWhatElseCanBeMissing:
    def test_a_state_directory_that_is_read_only_is_refused_in_one_line(self, disk, isolation):
        """(A file system does not become read-only under a journal that is open, but by its own errors.)"""
        disk.remount("ro")
        with pytest.raises(OSError, match="error") as refused:
            BrokerOnDisk(disk, disk.place, isolation)
        assert "read-only" in str(refused.value).lower()
        assert "\n" not in str(refused.value).strip()
        disk.remount("rw")
        BrokerOnDisk(disk, disk.place, isolation).close()

    def test_without_inodes_the_journal_goes_on_and_attachments_wait(self, disk, broker):
        with submitted(broker.connection_file) as executor:
            used = disk.use_up_inodes()
            executor.put_and_wait(RANK, LOG, 1, log("a line"))
            assert refused(executor, b"x" * 1000)["code"] == "journal"
            for each in used:
                each.unlink()
            assert stored(executor, b"x" * 1000)

    def test_a_full_disk_of_attachments_does_not_hold_up_the_journal(self, isolation):
        state = isolation / "broker"
        (state / "attachments").mkdir(parents=True)
        disk = SmallDisk(state / "attachments", "size=1m,mode=700")
        broker = BrokerOnDisk(disk, state, isolation)
        try:
            with submitted(broker.connection_file) as executor:
                assert stored(executor, b"a" * 1000)
                disk.fill(leave_bytes=8192)
                assert refused(executor, b"b" * 100_000)["code"] == "journal"
                executor.put_and_wait(RANK, LOG, 1, log("a line"))
                assert not executor.link.problem
                disk.free()
                assert stored(executor, b"b" * 100_000)
                executor.put_and_wait(RANK, LOG, 2, log("another"))
        finally:
            broker.close()
            disk.close()


def attach(talk: Talk, content: bytes, offset: int = 0) -> None:
    piece = content[offset:]
    header = Header(execution=talk.execution, first=offset, count=len(piece), position=len(content))
    talk.link.send(Message(Command.ATTACH, header, hashlib.sha256(content).digest() + piece))


def refused(talk: Talk, content: bytes) -> dict[str, str]:
    attach(talk, content)
    answer = decode_json(talk.wait(Command.REFUSED)[-1].body)
    assert "No space left" in answer["message"]
    return answer


def stored(talk: Talk, content: bytes) -> bool:
    """Send it as senders do: from where the broker says that it is."""
    offset = 0
    while offset < len(content):
        before = len(talk.got(Command.STORED))
        attach(talk, content, offset)
        answer = talk.wait(Command.STORED, before + 1)[-1].header
        offset = answer.first
    return offset == len(content)
