"""A shell script reports by `theorbo emit`."""

from __future__ import annotations

import io
import json
import math
import shlex
import signal
import subprocess
import sys

import numpy
import pytest

from tests.task_runtime.inprocess import run_without_bus
from theorbo.schemas.limits import ATTACHMENT_BYTES

EMIT = ("-m", "theorbo.task_runtime.emit")


def test_a_shell_script_can_report_everything(rank, tmp_path):
    (tmp_path / "reduced.h5").write_bytes(b"abc")
    script = f"""
        set -e
        emit() {{ {sys.executable} -m theorbo.task_runtime.emit "$@"; }}
        emit log "dark frames; subtracted"
        emit log "shot 2 is bad" --level warning
        emit progress 3 --total 10 --unit files --text reading
        emit metric rate 12.5 --unit Hz --step 4
        emit metric drift -0.5
        emit metric noise nan
        emit result --summary "3 shots" --file {tmp_path}/reduced.h5 --json '{{"shots": 3}}'
        emit result --json '[1, 2]' --name pair
    """
    subprocess.run(["sh", "-c", script], env=rank.environment, check=True, timeout=60)
    assert [(event.level, event.text) for event in rank.events("log")] == [
        ("INFO", "dark frames; subtracted"),
        ("WARNING", "shot 2 is bad"),
    ]
    progress = rank.only("progress")
    assert (progress.done, progress.total, progress.unit, progress.text) == (3, 10, "files", "reading")
    rate, drift, noise = rank.events("metric")
    assert (rate.name, rate.value, rate.unit, rate.step) == ("rate", 12.5, "Hz", 4)
    assert drift.value == -0.5
    assert math.isnan(noise.value)
    result, pair = rank.events("result")
    assert result.summary == "3 shots"
    assert [(part.name, part.value, part.path) for part in result.parts] == [
        ("shots", 3, None),
        (f"{tmp_path}/reduced.h5", None, f"{tmp_path}/reduced.h5"),
    ]
    assert (pair.name, pair.parts[0].value) == ("pair", [1, 2])


def test_without_a_bus_it_prints_as_the_functions_do():
    done = run_without_bus(*EMIT, "log", "text", "--level", "ERROR")
    assert (done.stdout, done.stderr.split(" ", 1)[1]) == ("", "ERROR text\n")
    assert run_without_bus(*EMIT, "progress", "3", "--total", "4").stderr.endswith("progress 3/4 (75 %)\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "what is to be reported"),
        (["lug", "text"], "invalid choice: 'lug'"),
        (["log"], "text"),
        (["log", "text", "--level", "LOUD"], "'LOUD'"),
        (["progress", "half"], "'half'"),
        (["metric", "rate", "fast"], "'fast'"),
        (["metric", "rate", "1", "--step", "1.5"], "'1.5'"),
        (["result"], "give --summary, --file, --data or --json"),
        (["result", "--json", "{"], "'{' is no JSON"),
        (["result", "--file", "/no/file"], "there is no file /no/file"),
        (["result", "--data", "/no/file"], "cannot read /no/file"),
        (["data", "image", "/no/file"], "cannot read /no/file"),
        (["data", "image", "/dev/null", "--shape", "2,x"], "'2,x'"),
        (["data", "image", "/dev/null", "--shape", "2,2"], "say --dtype"),
        (["data", "image", "/dev/null", "--dtype", "float31"], "'float31' is no type of numbers"),
        (["data", "image", "/dev/null", "--dtype", "int8", "--shape", "2,2"], "0 bytes are not 2 x 2 numbers"),
        (["--json", "/no/file"], "cannot read /no/file"),
        (["--json", "/dev/null", "log", "lost"], "either one thing to report, or --json FILE"),
    ],
)
def test_bad_input_is_a_usage_error_that_names_it_and_reports_nothing(rank, arguments, words):
    done = rank.python(*EMIT, *arguments, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert rank.events() == []


def test_help_teaches_by_an_example():
    assert "theorbo emit progress $n --total 3" in run_without_bus(*EMIT, "--help").stdout
    assert "--level" in run_without_bus(*EMIT, "log", "--help").stdout


def test_a_result_that_cannot_be_reported_is_a_failure_and_a_log_line_is_not(rank):
    rank.press(b"2")
    assert rank.python(*EMIT, "log", "text").returncode == 0
    assert rank.python(*EMIT, "result", "--summary", "text", check=False).returncode == 1


NUMBERS = numpy.arange(6, dtype="float32").reshape(2, 3)


def sent_array(rank, event):
    (part,) = event.parts
    assert part.mime == "application/x-npy"
    return numpy.load(io.BytesIO(rank.attachment(part.sha256)), allow_pickle=False)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (NUMBERS.tobytes(), ["--dtype", "float32", "--shape", "2,3"]),
        (NUMBERS.tobytes("F"), ["--dtype", "float32", "--shape", "2,3", "--order", "F"]),
        (NUMBERS.astype(">i2").tobytes(), ["--dtype", ">int16", "--shape", "2,3"]),
    ],
    ids=["as C has it", "as Fortran has it", "of another machine"],
)
def test_bare_numbers_are_an_array_when_type_and_shape_are_told(rank, tmp_path, content, options):
    (tmp_path / "frame.raw").write_bytes(content)
    rank.python(*EMIT, "data", "frame", str(tmp_path / "frame.raw"), *options)
    assert sent_array(rank, rank.only("data")).tolist() == NUMBERS.tolist()


def test_bare_numbers_without_a_shape_are_a_row_and_may_come_from_stdin(rank):
    command = [sys.executable, *EMIT, "data", "row", "-", "--dtype", "float32"]
    subprocess.run(command, input=NUMBERS.tobytes(), env=rank.environment, check=True, timeout=60)
    assert sent_array(rank, rank.only("data")).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_content_of_a_file_is_what_its_name_says(rank, tmp_path):
    numpy.save(tmp_path / "a.npy", NUMBERS)
    (tmp_path / "b.png").write_bytes(b"PNG")
    (tmp_path / "c.json").write_text('{"x": [1]}')
    (tmp_path / "d.raw").write_bytes(b"raw")
    for name in ("a.npy", "b.png", "c.json", "d.raw"):
        rank.python(*EMIT, "data", name, str(tmp_path / name))
    array, *others = rank.events("data")
    assert sent_array(rank, array).tolist() == NUMBERS.tolist()
    assert [(event.parts[0].mime, event.parts[0].value) for event in others] == [
        ("image/png", None), ("application/json", {"x": [1]}), ("application/octet-stream", None),
    ]  # fmt: skip
    rank.python(*EMIT, "result", "--summary", "all", "--data", str(tmp_path / "a.npy"), "--json", '{"n": 1}')
    assert [(part.name, part.mime) for part in rank.only("result").parts] == [
        ("n", "application/json"), ("data", "application/x-npy"),
    ]  # fmt: skip


def test_an_npy_file_with_python_objects_or_a_damaged_beginning_is_refused(rank, tmp_path):
    numpy.save(tmp_path / "objects.npy", numpy.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{")
    for name, words in (("objects.npy", "holds Python objects"), ("damaged.npy", "is no file .npy")):
        done = rank.python(*EMIT, "data", name, str(tmp_path / name), check=False)
        assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert rank.events() == []


def test_what_is_too_large_names_the_way_out(rank, tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(ATTACHMENT_BYTES + 1)
    done = rank.python(*EMIT, "data", "large", str(tmp_path / "large"), check=False)
    assert done.returncode == 2
    assert "report it by reference: emit result --file" in done.stderr


def test_a_script_can_ask_whether_it_is_cancelled(rank):
    script = (
        "asked() { if " + shlex.join([sys.executable, *EMIT]) + " cancelled; then echo yes; else echo no; fi; }; "
        "asked; printf 1 >$THEORBO_SPOOL/cancelled; asked"
    )
    done = subprocess.run(["sh", "-c", script], env=rank.environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "no\nyes\n"
    assert rank.events() == []


# --- a pipe --------------------------------------------------------------------------------------


def piped(rank, *lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    command = [sys.executable, *EMIT, "--json", "-"]
    return subprocess.run(command, input=text, env=rank.environment, capture_output=True, text=True, timeout=60)


def test_a_program_may_keep_a_pipe_open_and_write_a_report_a_line(rank, tmp_path):
    (tmp_path / "frame.raw").write_bytes(NUMBERS.tobytes())
    frame = str(tmp_path / "frame.raw")
    done = piped(
        rank,
        {"kind": "log", "text": "begun", "level": "DEBUG"},
        {"kind": "progress", "done": 3, "total": 10, "unit": "cycles"},
        "\n",
        {"kind": "metric", "name": "drift", "value": -0.5, "step": 4},
        {"kind": "data", "name": "frame", "file": frame, "dtype": "float32", "shape": [2, 3]},
        {"kind": "data", "name": "pair", "value": [1, 2]},
        {"kind": "result", "summary": "done", "value": {"n": 3}},
        {"kind": "result", "path": frame},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [(event.level, event.text) for event in rank.events("log")] == [("DEBUG", "begun")]
    assert (rank.only("progress").done, rank.only("metric").step) == (3, 4)
    array, pair = rank.events("data")
    assert sent_array(rank, array).shape == (2, 3)
    assert pair.parts[0].value == [1, 2]
    first, second = rank.events("result")
    assert (first.summary, first.parts[0].value, second.parts[0].path) == ("done", {"n": 3}, frame)


def test_lines_that_cannot_be_used_are_told_and_those_behind_them_count(rank):
    bad = [
        "no json\n", "[" * 100_000 + "\n", [1], {"kind": "rank_ended"}, {"kind": "log"},
        {"kind": "log", "text": "x", "colour": "red"}, {"kind": "data", "name": "x", "file": "/no/file"},
        {"kind": "data", "name": "x", "file": "-"},
        {"kind": "data", "name": "x", "file": "/dev/null", "dtype": "int8", "shape": "2"},
        {"kind": ["log"], "text": ["as R writes it"]}, {"kind": "data", "name": "x", "file": "a\0b"},
        {"kind": "data", "name": "x", "file": "/proc/self/mem"},
        {"kind": "data", "name": "x", "file": "/dev/null", "dtype": "int8", "shape": [0] * 30_000},
    ]  # fmt: skip
    done = piped(rank, *bad, {"kind": "log", "text": "still here"})
    assert done.returncode == 1
    texts = rank.texts("WARNING")
    assert [text.split(" of ")[0] for text in texts] == [f"line {number}" for number in range(1, len(bad) + 1)]
    assert rank.texts("INFO") == ["still here"]
    assert rank.events("rank_ended") == []


def test_a_pipe_stays_open_when_everything_is_told_to_end_for_last_words_are_to_come(rank, wait_for):
    command = [sys.executable, *EMIT, "--json", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=rank.environment, text=True) as pipe:
        pipe.stdin.write('{"kind": "log", "text": "begun"}\n')
        pipe.stdin.flush()
        wait_for(lambda: rank.texts() == ["begun"])  # at once, not when the pipe ends
        pipe.send_signal(signal.SIGTERM)
        pipe.communicate('{"kind": "log", "text": "last words"}', timeout=60)
        assert pipe.returncode == 0
    assert rank.texts() == ["begun", "last words"]
