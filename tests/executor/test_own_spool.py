"""The Executor's own spool: whose it is, and what happens when the disk does not take it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from theorbo.executor.own_spool import Held, OwnSpool, spool_directory
from theorbo.schemas.records import encode_record

EXECUTION = "0" * 31 + "1"
HOLD = """\
import sys
from pathlib import Path
from theorbo.executor.own_spool import OwnSpool
spool = OwnSpool(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def record(text: str) -> bytes:
    return encode_record({"kind": "log", "time": 1.0, "text": text})


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), EXECUTION],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_what_is_written_is_found_again_and_a_torn_record_is_not(tmp_path):
    spool = OwnSpool(tmp_path, EXECUTION)
    assert spool.append(record("one"))
    spool.append(record("two"))
    spool.close(remove=False)
    with (spool.directory / "executor.rec").open("ab") as file:
        file.write(b'\x1e{"kind":"lo')
    again = OwnSpool(tmp_path, EXECUTION)
    again.append(record("three"))
    assert again.records() == [record("one"), record("two"), record("three")]
    again.clear()
    assert again.records() == []
    again.close(remove=True)
    assert not spool_directory(tmp_path, EXECUTION).exists()


def test_it_is_of_one_process_at_a_time_and_that_one_is_named(tmp_path, holder):
    with pytest.raises(Held) as held:
        OwnSpool(tmp_path, EXECUTION)
    assert (held.value.pid, held.value.stopped) == (holder.pid, False)
    assert f"pid {holder.pid} on this machine holds" in str(held.value)


def test_one_that_is_stopped_is_known(tmp_path, holder, wait_for):
    holder.send_signal(signal.SIGSTOP)

    def held() -> Held:
        with pytest.raises(Held) as raised:
            OwnSpool(tmp_path, EXECUTION)
        return raised.value

    assert wait_for(lambda: held().stopped)


def test_it_is_waited_for_and_got_when_its_owner_is_killed(tmp_path, holder):
    threading.Timer(0.1, holder.kill).start()
    OwnSpool(tmp_path, EXECUTION, wait_s=20).close(remove=True)


def test_one_that_its_owner_removes_is_made_anew(tmp_path):
    first = OwnSpool(tmp_path, EXECUTION)
    first.append(record("one"))
    threading.Timer(0.1, lambda: first.close(remove=True)).start()
    second = OwnSpool(tmp_path, EXECUTION, wait_s=20)
    assert second.records() == []
    second.append(record("two"))
    assert (second.directory / "executor.rec").read_bytes() == record("two")
    second.close(remove=True)


def test_what_a_full_disk_does_not_take_is_written_later_and_in_order(tmp_path):
    spool = OwnSpool(tmp_path, EXECUTION)
    spool.append(record("one"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(spool.directory / "executor.rec").st_size, before[1]))
    try:
        assert not spool.append(record("two"))
        assert spool.problem == "File too large"
        assert not spool.append(record("three"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert spool.append(record("four"))
    assert spool.problem == ""
    assert spool.records() == [record(text) for text in ("one", "two", "three", "four")]
    spool.close(remove=True)


def test_a_spool_that_its_former_owner_removes_meanwhile_is_made_anew(tmp_path):
    """One that is fenced, and removes what nobody needs any more, while another attaches."""
    removed = threading.Event()

    def remove() -> None:
        while not removed.is_set():
            shutil.rmtree(spool_directory(tmp_path, EXECUTION), ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for _ in range(300):
            OwnSpool(tmp_path, EXECUTION, wait_s=5.0).close(remove=False)
    finally:
        removed.set()
        thread.join()
