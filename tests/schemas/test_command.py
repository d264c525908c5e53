"""The command `theorbo`: it finds the subcommands that are installed, and tells errors in one line.

Each test runs it in a Python that sees nothing but theorbo.schemas and one small distribution of the
test's own, which adds a subcommand as all distributions do: by an entry point.
"""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from theorbo.schemas import __version__
from theorbo.schemas.command import COMMANDS
from theorbo.schemas.errors import ExitStatus

SCHEMAS = Path(__file__).parents[2] / "schemas" / "src"

PROBE = """
from theorbo.schemas.errors import Refused, Unavailable, UsageError

def main(argv):
    what = argv[0] if argv else ""
    if what == "usage":
        raise UsageError("'x' is no number; give one")
    if what == "unavailable":
        raise Unavailable("no broker at tcp://127.0.0.1:1")
    if what == "refused":
        raise Refused("journal", "the journal is full")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "bug":
        raise ZeroDivisionError
    if what == "clumsy":
        import absent
    if what == "flood":
        for number in range(100_000):
            print(number)
    if what == "say":
        print("a few words")
    if what == "foreign":
        print("\u2026 \u65e5")
    if what == "help":
        import argparse
        argparse.ArgumentParser().parse_args(["--help"])
    return len(argv)
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    metadata = tmp_path / "probe-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[theorbo.commands]\nprobe = probe:main\ntail = probe:main\nagent = absent:main\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{SCHEMAS}:{tmp_path}"}

    def start(*arguments, stdout=subprocess.PIPE, **variables):
        return subprocess.Popen(
            [sys.executable, "-S", "-m", "theorbo.schemas.command", *arguments],
            env={**environment, **variables}, stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    start.environment = environment
    return start


@pytest.fixture
def theorbo(command):
    def run(*arguments):
        process = command(*arguments)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    return run


def test_a_subcommand_gets_its_arguments_and_its_answer_is_the_exit_status(theorbo):
    assert theorbo("probe", "a", "b", "--c") == (3, "", "")


def test_without_arguments_the_help_is_shown_and_the_usage_was_wrong(theorbo):
    status, out, _ = theorbo()
    assert status == ExitStatus.USAGE
    assert "usage: theorbo COMMAND" in out


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_lists_all_commands_and_where_those_come_from_that_are_not_installed(theorbo, word):
    status, out, _ = theorbo(word)
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert set(COMMANDS) | {"probe"} <= set(lines)
    assert "[pip install theorbo-executor]" in lines["run"]
    assert "pip install" not in lines["tail"]


def test_the_version_is_told(theorbo):
    assert theorbo("--version") == (0, f"theorbo {__version__}\n", "")


def test_a_command_that_is_not_installed_says_which_distribution_it_comes_with(theorbo):
    assert theorbo("run", "x.py:Task") == (
        ExitStatus.USAGE,
        "",
        "theorbo: the command 'run' is not installed here; it comes with theorbo-executor\n",
    )


def test_a_command_whose_dependencies_are_missing_says_what_to_install(theorbo):
    assert theorbo("agent", "--help") == (
        ExitStatus.USAGE,
        "",
        "theorbo agent: absent is not installed here, which this command needs; "
        "install theorbo-task-runtime[agent] with all it depends on\n",
    )


def test_an_unknown_command_is_told_with_near_matches(theorbo):
    status, out, err = theorbo("brokr")
    assert (status, out) == (ExitStatus.USAGE, "")
    assert err == "theorbo: there is no command 'brokr'; did you mean broker?\n"


def test_an_unknown_command_that_is_like_no_other_is_told_where_to_look(theorbo):
    assert theorbo("xyzzy")[2] == "theorbo: there is no command 'xyzzy'; theorbo --help lists all\n"


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("usage", ExitStatus.USAGE, "theorbo probe: 'x' is no number; give one\n"),
        ("unavailable", ExitStatus.UNAVAILABLE, "theorbo probe: no broker at tcp://127.0.0.1:1\n"),
        ("refused", ExitStatus.UNAVAILABLE, "theorbo probe: the journal is full\n"),
    ],
)
def test_an_error_that_its_user_can_mend_is_one_line_and_an_exit_status(theorbo, what, status, sentence):
    assert theorbo("probe", what) == (status, "", sentence)


@pytest.mark.parametrize(("what", "error"), [("bug", "ZeroDivisionError"), ("clumsy", "ModuleNotFoundError")])
def test_a_bug_of_ours_is_shown_with_its_traceback(theorbo, what, error):
    status, _, err = theorbo("probe", what)
    assert status != 0
    assert error in err


def test_an_interrupted_command_ends_as_the_shell_expects_it(theorbo):
    assert theorbo("probe", "interrupt") == (130, "", "")


def test_a_reader_that_goes_away_is_no_error_to_talk_about(command):
    process = command("probe", "flood")
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 141


@pytest.mark.parametrize("what", [["probe", "say"], ["probe", "help"], ["--help"], ["--version"]])
def test_a_reader_that_has_gone_before_a_few_words_are_written_is_no_error_either(command, what):
    reader, writer = os.pipe()
    os.close(reader)
    process = command(*what, stdout=writer)
    os.close(writer)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("", 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("what", ["say", "flood", "help"])
def test_a_full_disk_behind_the_output_is_told_in_one_line(command, what):
    with Path("/dev/full").open("w") as full:
        process = command("probe", what, stdout=full)
    _, err = process.communicate(timeout=30)
    assert err == "theorbo probe: cannot write the output: No space left on device\n"
    assert process.returncode == ExitStatus.UNAVAILABLE


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_a_standard_file_a_command_works_and_no_file_of_its_own_takes_the_place(command, closed):
    words = ["sh", sys.executable, "-S", "-m", "theorbo.schemas.command", "probe", "say"]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', *words],
        env=command.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    shown = "" if " >&-" in f" {closed}" else "a few words\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, shown, "")


def test_what_the_locale_cannot_show_is_escaped(command):
    process = command("probe", "foreign", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert process.communicate(timeout=30) == ("\\u2026 \\u65e5\n", "")


def test_after_ctrl_c_the_prompt_of_a_terminal_begins_a_line(command):
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "theorbo.schemas.command", "probe", "interrupt"],
        env=command.environment, stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    assert process.wait(30) == 130
    assert os.read(ours, 100) == b"\r\n"
    os.close(ours)
