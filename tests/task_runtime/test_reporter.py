"""What a program reports stands in its rank's file, whatever becomes of the program."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.task_runtime.inprocess import Rank
from theorbo.schemas.limits import BEGINNING_CHARACTERS, INLINE_BYTES
from theorbo.schemas.spool import Pressure


@pytest.mark.parametrize("count", [20, 20_000])
def test_lines_of_a_burst_stand_in_order(rank, count):
    rank.script(f"for n in range({count}): log(f'line {{n}}')")
    assert rank.texts() == [f"line {n}" for n in range(count)]


def test_every_kind_of_report_is_a_valid_event(rank):
    rank.script("""
        log("text", "WARNING")
        progress(3, 10, unit="files", text="dark frames")
        metric("rate", 12.5, unit="Hz", step=4)
        data("preview", {"a": [1, 2]})
        result({"n": 3}, summary="three")
    """)
    log, progress, metric, data, result = rank.events()
    assert (log.level, log.text) == ("WARNING", "text")
    assert (progress.done, progress.total, progress.unit, progress.text) == (3, 10, "files", "dark frames")
    assert (metric.name, metric.value, metric.unit, metric.step) == ("rate", 12.5, "Hz", 4)
    assert (data.name, data.parts[0].value) == ("preview", {"a": [1, 2]})
    assert (result.summary, result.parts[0].value) == ("three", {"n": 3})
    assert all(event.pid > 0 and event.time > 0 for event in rank.events())


def test_numbers_that_json_does_not_have_arrive(rank):
    rank.script("""
        for value in (float("nan"), float("inf"), float("-inf")):
            metric("x", value)
        progress(float("nan"), float("inf"))
    """)
    values = [event.value for event in rank.events("metric")]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]
    assert math.isnan(rank.only("progress").done)


def test_any_text_arrives_as_one_untorn_record(rank):
    texts = ["\x1e\n\x00\r\x1b[31m", '"};{', "é\U0001f52d\u2028", "x" * 60_000, ""]
    rank.script(f"for text in {texts!r}: log(text)\nlog(b'\\xff\\xfe'.decode('utf-8', 'surrogateescape'))")
    assert rank.texts() == [*texts, "\\udcff\\udcfe"]


def test_values_of_wrong_types_are_reported_as_warnings_and_raise_nothing(rank):
    rank.script("""
        class Bad:
            def __str__(self): raise RuntimeError
            __repr__ = __str__
        log(17); log(None); log(Bad()); log("a", "warn"); log("b", 40); log("c", "notice"); log("d", None)
        metric("x", "fast"); metric("x", Bad()); metric("x", 10**400); metric("x", 1, step="one"); metric(None, 1)
        progress("half"); progress(1, Bad()); progress(None)
        data("x", Bad()); data(Bad(), 1)
        metric("n" * 100_000, 1, "u" * 100_000); progress(1, 2, "u" * 100_000, "t" * 100_000)
    """)
    assert rank.texts()[:3] == ["17", "None", "<Bad that cannot be shown>"]
    assert [(e.level, e.text) for e in rank.events("log")[3:6]] == [
        ("WARNING", "a"),
        ("ERROR", "b"),
        ("INFO", "c [level 'notice']"),
    ]
    assert "metric 'x' = 'fast' is not reported: numbers are wanted" in rank.texts("WARNING")
    assert len([text for text in rank.texts("WARNING") if "numbers are wanted" in text]) == 7


def test_a_number_that_is_no_level_is_shown_and_not_taken_for_one(rank):
    rank.script("""
        log("a %d", 3); log("b", 25); log("c", True); log("d", -10); log("e", 10); log("f", 50)
    """)
    assert [(event.level, event.text) for event in rank.events("log")] == [
        ("INFO", "a %d [level 3]"),
        ("INFO", "b [level 25]"),
        ("INFO", "c [level True]"),
        ("INFO", "d [level -10]"),
        ("DEBUG", "e"),
        ("CRITICAL", "f"),
    ]


def test_a_long_text_is_an_attachment_with_its_beginning_in_the_record(rank):
    rank.script("log('0123456789' * 20_000 + '\\udcff'); log('\\0' * 65_000)")
    first, second = rank.events("log")
    assert first.text.startswith("0123456789" * 400)
    assert len(first.text) < BEGINNING_CHARACTERS + 100
    assert rank.attachment(first.attachments[0]["sha256"]) == b"0123456789" * 20_000 + b"\\udcff"
    assert rank.attachment(second.attachments[0]["sha256"]) == b"\0" * 65_000
    assert all(len(piece.record) <= INLINE_BYTES for piece in rank.pieces()[0])


def test_threads_forks_and_multiprocessing_share_the_file_without_tearing_a_record(rank):
    rank.script("""
        import multiprocessing, os, threading
        def report(name):
            for n in range(300): log(f"{name} {n} " + "x" * (n % 7) * 1000)
        if __name__ == "__main__":
            threads = [threading.Thread(target=report, args=(f"thread-{n}",)) for n in range(3)]
            for thread in threads: thread.start()
            child = os.fork()
            if child == 0:
                report("fork"); os._exit(0)
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    pool.map(report, [f"{method}-{n}" for n in range(2)])
            os.waitpid(child, 0)
            for thread in threads: thread.join()
    """)
    texts = rank.texts()
    names = [f"thread-{n}" for n in range(3)] + ["fork", "fork-0", "fork-1", "spawn-0", "spawn-1"]
    for name in names:
        assert [t.split()[1] for t in texts if t.startswith(f"{name} ")] == [str(n) for n in range(300)]
    assert len(texts) == 300 * len(names)
    assert len({event.pid for event in rank.events()}) >= 4  # itself, the fork, and one or two of each method


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_the_last_words_before_a_sudden_death_stay(rank, name):
    died = rank.script(f"import os, signal; log('last words'); os.kill(os.getpid(), signal.{name})", check=False)
    assert died.returncode == -getattr(signal, name)
    assert rank.texts() == ["last words"]


def test_a_program_that_closes_all_descriptors_goes_on_reporting(rank):
    rank.script("import os; log('one'); os.closerange(3, 100); log('two'); metric('x', 1)")
    assert rank.texts() == ["one", "two"]


def test_a_file_of_the_program_that_got_our_descriptors_number_is_left_alone(rank, tmp_path):
    mine = tmp_path / "users.dat"
    rank.script(f"""
        import os
        log('one'); os.closerange(3, 100)
        mine = [os.open({str(mine)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(10)]
        os.write(mine[0], b'DATA'); log('two'); os.write(mine[0], b'MORE')
    """)
    assert mine.read_bytes() == b"DATAMORE"
    assert rank.texts() == ["one", "two"]


def test_a_report_from_a_signal_handler_arrives(rank):
    rank.script("""
        import os, signal
        signal.signal(signal.SIGUSR1, lambda *_: log("handler"))
        for n in range(100):
            os.kill(os.getpid(), signal.SIGUSR1); log("line")
    """)
    assert sorted(rank.texts()) == ["handler"] * 100 + ["line"] * 100


def test_a_full_spool_drops_log_and_metrics_and_tells_how_many(rank):
    rank.press(Pressure.FULL)
    rank.script("""
        for n in range(1000): log("line")
        for n in range(10): metric("x", n)
        result({"n": 1}, summary="kept")
    """)
    assert rank.events("log") == rank.events("metric") == []
    assert rank.only("result").summary == "kept"
    assert losses(rank) == {"rank:0/log": 1000, "rank:0/metrics": 10}
    assert len(rank.events("loss")) < 20


def test_a_process_killed_under_pressure_has_told_half_of_its_losses(rank):
    rank.press(Pressure.FULL)
    rank.script("import os\nfor n in range(1000): log('line')\nos.kill(os.getpid(), 9)", check=False)
    assert 500 <= losses(rank)["rank:0/log"] <= 1000


def test_when_there_is_room_again_reports_go_on_and_the_loss_is_told(rank):
    rank.press(Pressure.EXHAUSTED)
    rank.script(f"""
        log("dropped"); metric("x", 1); data("x", 1)
        def press(value):
            with open({str(rank.spool / "pressure")!r}, "r+b") as file: file.write(value)
        press(b"0"); log("kept"); log("kept too")
        press(b"2"); log("dropped")
    """)
    assert rank.texts() == ["kept", "kept too"]
    assert losses(rank) == {"rank:0/log": 2, "rank:0/metrics": 1, "rank:0/results": 1}


def test_children_tell_their_own_losses_and_not_their_parents(rank):
    rank.press(Pressure.EXHAUSTED)
    rank.script("""
        import multiprocessing
        def lose(count):
            for n in range(count): log("line")
        if __name__ == "__main__":
            lose(5)
            for method, count in (("fork", 7), ("spawn", 11)):
                child = multiprocessing.get_context(method).Process(target=lose, args=(count,))
                child.start(); child.join()
                assert child.exitcode == 0
    """)
    assert sorted(event.count for event in rank.events("loss")) == [5, 7, 11]


def test_a_full_disk_raises_nothing_and_its_losses_are_told_when_there_is_room(small_disk):
    rank = Rank(small_disk)
    done = rank.script(f"""
        log("before")
        filler = open({str(small_disk / "filler")!r}, "wb", buffering=0)
        try:
            while True: filler.write(bytes(4096))
        except OSError: pass
        for n in range(500): log("line " + "x" * 100)
        result({{"n": bytes(100_000)}}, summary="too large for this disk")
        filler.truncate(0)
        log("after")
    """)
    assert done.stderr == ""
    pieces, damages = rank.pieces()
    assert len(damages) <= 2  # where the disk became full in the middle of a record
    texts = [piece.record for piece in pieces]
    kept = sum(b'"line ' in text for text in texts)
    assert b'"before"' in texts[0]
    assert any(b'"after"' in text for text in texts)
    lost = sum(
        int(text.split(b'"count":')[1].split(b",")[0]) for text in texts if b'"loss"' in text and b"/log" in text
    )
    assert kept + lost >= 500
    assert any(b"No space left on device" in text for text in texts if b'"loss"' in text)


def test_without_a_usable_spool_reports_are_printed_with_the_reason(tmp_path):
    rank = Rank(tmp_path)
    done = rank.script("log('text'); result({'n': 1})", THEORBO_SPOOL=str(tmp_path / "nowhere"))
    assert "cannot report to the spool" in done.stderr.splitlines()[0]
    assert "nowhere" in done.stderr.splitlines()[0]
    assert "INFO text" in done.stderr
    wrong = rank.script("log('text')", THEORBO_RANK="three")
    assert "'three'" in wrong.stderr


def test_importing_the_functions_loads_next_to_nothing(tmp_path):
    code = "import sys; former = set(sys.modules); import theorbo.task_runtime; print(set(sys.modules) - former)"
    loaded = Rank(tmp_path).python("-S", "-c", code, PYTHONPATH=os.pathsep.join(sys.path)).stdout
    for costly in ("'typing'", "'re'", "'json'", "'logging'", "'pathlib'", "'inspect'", "'hashlib'"):
        assert costly not in loaded


def losses(rank: Rank) -> dict[str, int]:
    """Events lost by stream, over all that was told."""
    lost: dict[str, int] = {}
    for event in rank.events("loss"):
        lost[event.stream] = lost.get(event.stream, 0) + event.count
    return lost


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {mount.stderr.strip()}")
    yield place
    _unmount(place)


def _unmount(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.umount2(os.fsencode(place), 2) == 0  # MNT_DETACH
