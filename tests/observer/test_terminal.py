"""On a terminal there are colours and a table; nothing that a Task writes can reach the terminal itself."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

from tests.conftest import DEADLINE_S


def on_terminal(*arguments, once_joined: Callable[[], None] | None = None, columns: int = 200) -> str:
    """What the command writes to a terminal of so many columns; once it says that it has joined, `once_joined`
    is called.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "theorbo.schemas.command", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)},
    )  # fmt: skip
    os.close(theirs)
    if once_joined:
        assert b"live" in process.stderr.readline()
        once_joined()
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        written += piece
    _, said = process.communicate(timeout=DEADLINE_S)
    os.close(ours)
    assert process.returncode == 0, said
    return written.decode()


def test_ps_is_a_table(broker, producer):
    one = producer(task="x\x9b2Jy", experiment="[red]mfx1")
    shown = on_terminal("ps", "--broker", broker.connection_file)
    assert one.id[-8:] in shown
    assert "\x1b[1mEXECUTION" in shown
    assert r"x\x9b2Jy" in shown
    assert "[red]mfx1" in shown


def test_ps_has_one_line_an_execution_on_a_terminal_of_80_columns(broker, producer):
    one = producer(task="find_peaks_in_very_long_runs", experiment="mfx1", ranks=128)
    one.put(kind="task_failed", error="ValueError: nothing is as it should be in this very long run")
    one.end(exit_code=1)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal("ps", "--all", "--broker", broker.connection_file, columns=80))
    head, row = shown.splitlines()
    assert head.split()[:2] == ["EXECUTION", "TASK"]
    assert len(row) <= 80
    assert row.startswith(f"{one.id[-8:]}   find_peaks")
    assert " FAILED " in row
    assert " 1/1/128 " in row
    assert row.rstrip().endswith("…")


def test_tail_is_coloured_and_what_it_shows_is_not_obeyed(broker, producer):
    one = producer()

    def report() -> None:
        one.put(kind="log", level="ERROR", text="bad \x1b]0;title\x07 [bold]")
        one.end()

    shown = on_terminal(
        "tail", "--execution", one.id, "--until-ended", "--broker", broker.connection_file, once_joined=report
    )
    assert "\x1b[1m" in shown
    assert "\x1b[31m" in shown
    assert r"ERROR bad \x1b]0;title\x07 [bold]" in shown
    assert "\x1b]0;" not in shown
