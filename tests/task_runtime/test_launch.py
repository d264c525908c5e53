from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.task_runtime.launching import launch, with_limits
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.task_runtime.launch import main

APPEND = """
import os, sys, time
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, open_append, store_attachment
from pathlib import Path
spool = Path(os.environ["THEORBO_SPOOL"])
file = open_append(spool / f"rank-{os.environ['THEORBO_RANK']}.rec")
"""

RECORDS = (
    APPEND
    + """
for number in range(int(sys.argv[1])):
    append(file, encode_record({"kind": "log", "time": 0, "text": f"record {number}"}))
    if number % 100 == 0:
        print("line", number, file=sys.stderr)
        time.sleep(float(sys.argv[2]))
"""
)

DAMAGE = (
    APPEND
    + """
record = encode_record({"kind": "log", "time": 0, "text": "before"})
append(file, record)
os.write(file, b"printf was here\\n")
os.write(file, record[:20])
os.write(file, encode_record({"kind": "log", "time": 0, "text": "x" * 200_000}))
append(file, encode_record({"kind": "log", "time": 0, "text": "after"}))
os.write(file, record[:20])
"""
)

ATTACHMENTS = (
    APPEND
    + """
for _ in range(2):
    named = store_attachment(spool, bytes(range(256)) * 3000)
    append(file, encode_record({"kind": "data", "time": 0, "name": "x", "parts": [], "attachments": [named._asdict()]}))
"""
)

MISSING_ATTACHMENT = (
    APPEND
    + """
named = {"sha256": "ab" * 32, "size": 5}
append(file, encode_record({"kind": "data", "time": 0, "name": "x", "parts": [], "attachments": [named]}))
"""
)


@pytest.fixture
def launched(broker, tmp_path):
    """Launches on the test's broker; afterwards nothing of them may be left."""
    all_launched = []

    def start(*command, **options):
        all_launched.append(launch(broker.connection_file, tmp_path, *command, **options))
        return all_launched[-1]

    yield start
    for each in all_launched:
        each.client.close()
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def ended(launched):
    """Outcome, exit status of the launch, its stderr; nothing is left."""
    outcome = launched.client.follow_to_end()
    status, stderr = launched.end()
    assert launched.left_behind() == []
    return outcome, status, stderr


def test_a_program_that_ends_well_is_completed_and_its_spool_is_gone(launched):
    run = launched("sh", "-c", "echo out; echo err >&2")
    assert ended(run) == (("COMPLETED", ""), 0, "")
    assert run.client.texts("rank:0", "stdout") == ["out"]
    assert run.client.texts("rank:0", "stderr") == ["err"]
    assert not run.spool.exists()


def test_twenty_thousand_lines_arrive_in_order(launched):
    run = launched("sh", "-c", "seq 1 20000")
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "stdout") == [str(number) for number in range(1, 20001)]


def test_twenty_thousand_records_arrive_in_order_beside_lines_on_stderr(launched):
    run = launched(sys.executable, "-c", RECORDS, "20000", "0")
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "log") == [f"record {number}" for number in range(20000)]
    assert run.client.texts("rank:0", "stderr") == [f"line {number}" for number in range(0, 20000, 100)]
    assert run.client.events("loss") == []


def test_several_ranks_that_are_started_directly_know_their_numbers(launched):
    script = "echo $THEORBO_RANK of $THEORBO_RANKS, $PMI_RANK-"
    run = launched("sh", "-c", script, ranks=3, environment={"PMI_RANK": "7"})
    assert ended(run)[0] == ("COMPLETED", "")
    assert [run.client.texts(f"rank:{rank}", "stdout") for rank in range(3)] == [
        ["0 of 3, -"], ["1 of 3, -"], ["2 of 3, -"],
    ]  # fmt: skip


def test_the_agent_says_how_many_events_each_stream_had(launched):
    run = launched("sh", "-c", "echo one; echo two; printf three >&2")
    ended(run)
    (closed,) = run.client.events("agent_closed")
    assert closed.streams == {
        "launcher/signals": 2, "rank:0/signals": 2, "rank:0/stdout": 2, "rank:0/stderr": 1,
    }  # fmt: skip
    assert run.client.told[-1].event.kind == "state_changed"


def test_foreign_python_is_unbuffered_so_that_its_last_lines_are_known(launched):
    run = launched(sys.executable, "-c", "print('last words'); import os; os.kill(os.getpid(), 11)")
    assert ended(run)[0] == ("FAILED", "killed by SIGSEGV")
    assert run.client.texts("rank:0", "stdout") == ["last words"]


def test_a_crash_right_after_a_report_loses_nothing(launched):
    run = launched(sys.executable, "-c", RECORDS + "\nos.kill(os.getpid(), 11)", "100", "0")
    outcome, status, _ = ended(run)
    assert (outcome, status) == (("FAILED", "killed by SIGSEGV"), 1)
    assert run.client.texts("rank:0", "log")[-1] == "record 99"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("sh", "-c", "exit 3"), "exit code 3"),
        (("no-such-program",), "program not found: no-such-program"),
    ],
)
def test_each_failure_has_its_reason(launched, command, reason):
    outcome, status, _ = ended(launched(*command))
    assert (outcome, status) == (("FAILED", reason), 1)


def test_a_missing_launcher_is_named(launched):
    outcome, status, _ = ended(launched("true", launcher=["no-such-mpiexec", "-n", "1"]))
    assert (outcome, status) == (("FAILED", "launcher not found: no-such-mpiexec"), 1)


def test_a_missing_working_directory_is_named(launched, tmp_path):
    outcome, status, _ = ended(launched("true", work_dir=str(tmp_path / "gone")))
    assert (outcome, status) == (("FAILED", f"working directory not found: {tmp_path / 'gone'}"), 1)


def test_what_a_launcher_says_of_its_own_is_kept(launched):
    run = launched("true", launcher=["sh", "-c", "echo no such option >&2; exit 9", "mpiexec"])
    outcome, _, _ = ended(run)
    assert outcome == ("FAILED", "no rank started; the launcher ended with exit code 9: no such option")
    assert run.client.events("launcher_ended")[0].stderr == "no such option\n"


def test_a_torn_record_and_foreign_bytes_are_losses_and_hide_nothing(launched):
    run = launched(sys.executable, "-c", DAMAGE)
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "log") == ["before", "after"]
    whys = [loss.detail.partition(": ")[2] for loss in run.client.events("loss", "agent:0")]
    assert whys == [
        "foreign bytes between records", "record torn in mid-write", "record larger than 131072 bytes",
        "record torn in mid-write",
    ]  # fmt: skip


def test_a_script_that_truncates_its_stderr_loses_nothing_that_follows(launched):
    run = launched("sh", "-c", "echo one >&2; sleep 0.3; echo two > /dev/stderr; echo three >&2")
    assert ended(run)[0] == ("COMPLETED", "")
    texts = run.client.texts("rank:0", "stderr")
    assert texts[:1] == ["one"]
    assert texts[-1:] == ["three"]


# --- attachments ---------------------------------------------------------------------------------


def test_an_attachment_arrives_as_it_was_and_the_same_one_again(launched):
    run = launched(sys.executable, "-c", ATTACHMENTS)
    assert ended(run)[0] == ("COMPLETED", "")
    assert len(run.client.events("data")) == 2
    content = bytes(range(256)) * 3000
    assert run.client.fetch(hashlib.sha256(content).hexdigest(), len(content)) == content


def test_an_attachment_that_is_not_there_is_a_loss(launched):
    run = launched(sys.executable, "-c", MISSING_ATTACHMENT)
    assert ended(run)[0] == ("COMPLETED", "")
    (loss,) = run.client.events("loss")
    assert (loss.stream, loss.detail) == (
        "rank:0/results", f"attachment {'ab' * 32} is lost: its file is not in the spool",
    )  # fmt: skip
    assert len(run.client.events("data")) == 1


# --- agent and broker die ------------------------------------------------------------------------


def test_an_agent_that_is_killed_again_and_again_loses_and_doubles_nothing(launched):
    run = launched(sys.executable, "-c", RECORDS, "20000", "0.02")
    for number, count in enumerate((500, 3000, 6000)):
        run.client.follow(lambda client, number=number: len(client.events("agent_started")) > number)
        run.client.follow(lambda client, count=count: len(client.told) > count)
        run.kill_agent()
    assert ended(run)[0] == ("COMPLETED", "")
    assert len(run.client.events("agent_started")) == 4
    assert run.client.texts("rank:0", "log") == [f"record {number}" for number in range(20000)]
    assert run.client.texts("rank:0", "stderr") == [f"line {number}" for number in range(0, 20000, 100)]


def test_a_broker_that_is_killed_and_restarted_loses_and_doubles_nothing(launched, broker):
    run = launched(sys.executable, "-c", RECORDS, "20000", "0.01")
    for count in (500, 10000):
        run.client.follow(lambda client, count=count: len(client.told) > count)
        broker.kill()
        broker.restart()
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "log") == [f"record {number}" for number in range(20000)]


def test_an_agent_killed_while_the_broker_is_away_delivers_when_it_is_back(launched, broker, wait_for):
    run = launched("sh", "-c", "echo one; sleep 1; echo two")
    run.client.follow(lambda client: client.texts("rank:0", "stdout"))
    broker.kill()
    killed = run.agent_pids()
    run.kill_agent()
    wait_for(lambda: set(run.agent_pids()) - set(killed))
    broker.restart()
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "stdout") == ["one", "two"]


def test_what_cannot_be_delivered_stays_and_an_agent_by_hand_delivers_it(launched, broker):
    run = launched("sh", "-c", "echo one; sleep 0.5; echo two", program=("-c", with_limits(DRAIN_S=1.0)))
    run.client.follow(lambda client: client.texts("rank:0", "stdout"))
    broker.kill()
    status, stderr = run.end()
    assert status == 6
    assert f"the rest is in {run.spool}" in stderr
    assert f"theorbo agent --spool {run.spool}" in stderr
    broker.restart()
    by_hand = ["theorbo.task_runtime.agent", "--spool", run.spool, "--broker", broker.connection_file]
    assert subprocess.run([sys.executable, "-m", *by_hand]).returncode == 0
    assert run.client.follow_to_end() == ("COMPLETED", "")
    assert run.client.texts("rank:0", "stdout") == ["one", "two"]
    assert not run.spool.exists()


def test_an_agent_that_cannot_be_started_is_an_error_in_one_line(launched):
    no_room = (
        "import subprocess as s; s.Popen = lambda *a, **k: (_ for _ in ()).throw(OSError(11, 'no more processes'))"
    )
    status, stderr = launched("true", program=("-c", with_limits(no_room))).end()
    assert status == 6
    assert "the agent cannot be started: no more processes" in stderr
    assert stderr.count("\n") == 1


def test_without_a_broker_nothing_is_started(launched, broker, tmp_path):
    gone = with_limits(f"os.unlink({str(broker.connection_file)!r})")
    run = launched("touch", str(tmp_path / "started"), program=("-c", gone))
    status, stderr = run.end()
    assert status == 6
    assert "nothing was started" in stderr
    assert str(broker.connection_file) in stderr
    assert not (tmp_path / "started").exists()
    assert not run.spool.exists()


FILL = """
import os, sys
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, open_append
from theorbo.task_runtime import log
log("before")
file = open_append(os.environ["THEORBO_SPOOL"] + "/rank-0.rec")
with open(os.environ["THEORBO_SPOOL"] + "/filler", "wb", buffering=0) as filler:
    try:
        while True: filler.write(bytes(4096))
    except OSError: pass
try:  # the last page as well, whatever the agent says of the pressure
    while True: append(file, encode_record({"kind": "log", "time": 0, "text": "filling"}))
except OSError: pass
for number in range(500): log("line " + "x" * 100)
"""


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ("", ("COMPLETED", "")),
        ("sys.exit(3)", ("FAILED", "exit code 3 (it could not report to its spool: No space left on device)")),
    ],
)
def test_a_disk_that_stays_full_hides_neither_how_a_rank_ended_nor_what_is_lost(launched, small_disk, last, outcome):
    launching = launched(sys.executable, "-c", FILL + last)
    assert launching.client.follow_to_end() == outcome
    (end,) = launching.client.events("launcher_ended")
    assert end.unrecorded == {0: 3 if last else 0}
    assert end.unrecorded_why == "No space left on device"
    arrived = sum(text.startswith("line") for text in launching.client.texts("rank:0", "log"))
    losses = launching.client.events("loss", "launcher")
    assert {loss.stream for loss in losses} == {"rank:0/log"}
    assert {loss.detail for loss in losses} <= {  # the second, once the agent has seen how full the disk is
        "dropped by the rank: No space left on device",
        "dropped by the rank: the spool has reached its bound",
    }
    lost = sum(loss.count for loss in losses)
    assert arrived + lost == 500
    assert launching.client.events("conservation")[0].lost >= lost
    launching.end()


def test_nothing_is_started_on_a_disk_that_is_full(launched, small_disk):
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    status, stderr = launched("true").end()
    assert status == 6
    assert "No space left on device" in stderr


def test_an_agent_whose_launch_is_killed_ends_with_the_ranks_and_tidies_up(launched, wait_for):
    run = launched("sh", "-c", "echo one; sleep 0.5; echo two")
    run.client.follow(lambda client: client.texts("rank:0", "stdout"))
    run.process.kill()
    run.client.follow(lambda client: client.events("agent_closed"))
    assert run.client.texts("rank:0", "stdout") == ["one", "two"]
    assert run.client.events("rank_ended")[0].exit_code == 0
    wait_for(lambda: not run.left_behind())
    wait_for(lambda: not run.spool.exists())


# --- ending --------------------------------------------------------------------------------------

STUBBORN = "trap '' TERM; (trap '' TERM; echo child; sleep 60) & echo ready; while :; do sleep 1; done"


def started(run, count=1):
    run.client.follow(lambda client: len([t for t in client.told if t.event.kind == "output"]) >= count)


def cancel(run, action="cancel", grace_s=10.0):
    run.client.report(
        {"kind": "control_requested", "time": time.time(), "action": action, "by": "tester", "grace_s": grace_s}
    )


def test_cancel_ends_a_program_by_sigterm(launched):
    run = launched("sh", "-c", "echo ready; exec sleep 60")
    started(run)
    cancel(run)
    outcome, status, _ = ended(run)
    assert (outcome, status) == (("CANCELLED", "by tester"), 1)
    assert run.client.events("rank_ended")[0].signal == "SIGTERM"
    assert [(done.action, done.detail) for done in run.client.events("control_done")] == [
        ("cancel", "all ranks have ended")
    ]


def test_a_program_may_end_in_good_order_when_it_is_cancelled(launched):
    run = launched("sh", "-c", "trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    started(run)
    cancel(run)
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.texts("rank:0", "stdout") == ["ready", "tidied"]


def test_a_program_and_its_children_that_ignore_sigterm_are_killed_after_the_grace(launched):
    run = launched("sh", "-c", STUBBORN)
    started(run, 2)
    cancel(run, grace_s=0.5)
    assert ended(run)[0] == ("CANCELLED", "by tester")
    assert run.client.events("rank_ended")[0].signal == "SIGKILL"
    assert run.client.events("control_done")[0].detail == "SIGKILL was needed for rank 0"


def test_kill_does_not_wait(launched):
    run = launched("sh", "-c", STUBBORN)
    started(run, 2)
    cancel(run)
    cancel(run, "kill")
    assert ended(run)[0] == ("CANCELLED", "by tester")
    assert sorted(done.action for done in run.client.events("control_done")) == ["cancel", "kill"]


def test_an_agent_that_takes_over_carries_on_with_a_cancellation(launched, wait_for):
    run = launched("sh", "-c", STUBBORN)
    started(run, 2)
    cancel(run, grace_s=1.5)
    run.client.follow(lambda client: client.events("control_requested"))
    run.kill_agent()
    assert ended(run)[0] == ("CANCELLED", "by tester")
    assert len(run.client.events("control_done")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launch_that_is_told_to_end_ends_the_ranks_and_delivers(launched, number):
    run = launched("sh", "-c", "echo ready; exec sleep 60", ranks=2)
    started(run, 2)
    run.process.send_signal(number)
    assert ended(run)[0] == ("FAILED", "rank 0: killed by SIGTERM") or run.client.outcome[1].startswith("rank 1")
    assert [event.text for event in run.client.events("log", "launcher")] == [
        f"theorbo launch got {number.name}; the ranks are being ended"
    ]


def test_told_twice_a_launch_does_not_wait(launched):
    run = launched("sh", "-c", STUBBORN)
    started(run, 2)
    run.process.terminate()
    run.client.follow(lambda client: client.events("log", "launcher"))
    run.process.terminate()
    assert ended(run)[0] == ("FAILED", "killed by SIGKILL")


def test_what_a_program_writes_into_our_pipe_ends_nothing(launched):
    words = "'started 1' 'ended one 0 0' 'lost everything' 'nonsense' ''"
    run = launched("sh", "-c", f"printf '%s\\n' {words} > $THEORBO_SPOOL/ranks.pipe; echo out")
    assert ended(run)[:2] == (("COMPLETED", ""), 0)


def test_what_a_program_leaves_behind_is_ended_and_named(launched):
    run = launched("sh", "-c", "sleep 60 & exit 0")
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.events("log", "launcher")[0].text.startswith("left behind by rank 0, and ended: process ")


def test_what_goes_by_itself_soon_is_not_complained_of(launched):
    run = launched("sh", "-c", "sleep 0.1 & exit 0")
    assert ended(run)[0] == ("COMPLETED", "")
    assert run.client.events("log", "launcher") == []


def test_a_launcher_that_does_not_end_after_its_ranks_is_ended(launched):
    """mpiexec does that when something else holds its pipes."""
    hanging = ["sh", "-c", '"$@"; sleep 60', "mpiexec"]
    run = launched("sh", "-c", "echo $THEORBO_RANK", launcher=hanging, environment={"PMI_RANK": "0"},
                   program=("-c", with_limits(LAUNCHER_END_S=0.2)))  # fmt: skip
    outcome, status, _ = ended(run)
    assert (outcome, status) == (("COMPLETED", ""), 0)
    assert run.client.events("log", "launcher")[0].text == "all ranks have gone: the launcher is being ended"


def test_what_a_launcher_that_had_to_be_ended_leaves_behind_is_ended(launched):
    hanging = ["sh", "-c", 'setsid sleep 60 & "$@"; sleep 60', "mpiexec"]
    run = launched("sh", "-c", "echo out", launcher=hanging, environment={"PMI_RANK": "0"},
                   program=("-c", with_limits(LAUNCHER_END_S=0.2)))  # fmt: skip
    assert ended(run)[0] == ("COMPLETED", "")


def test_ranks_that_do_not_follow_one_that_ended_badly_are_ended(launched):
    launcher = ["sh", "-c", 'PMI_RANK=0 "$@" & PMI_RANK=1 "$@" & wait', "srun"]
    run = launched("sh", "-c", "[ $THEORBO_RANK = 1 ] && exit 3; sleep 60", launcher=launcher, ranks=2,
                   program=("-c", with_limits(SIBLINGS_S=0.2)))  # fmt: skip
    assert ended(run)[0] == ("FAILED", "rank 1: exit code 3")
    assert run.client.events("log", "launcher")[0].text == (
        "rank 1 ended badly and others did not follow: the launcher is being ended"
    )


# --- bad input -----------------------------------------------------------------------------------


def test_a_plan_that_is_none_is_refused_in_one_line(run_theorbo, tmp_path):
    (tmp_path / "plan").write_text("{}")
    refused = run_theorbo("launch", "--plan", tmp_path / "plan")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is no launch plan" in refused.stderr


def test_an_execution_is_launched_once_only(launched, tmp_path):
    run = launched("true", keep_spool=True)
    ended(run)
    again = tmp_path / "again.json"
    LaunchPlan(
        execution=run.client.execution.hex(), broker="x", command=["true"], environment={}, work_dir="/",
        spool_root=str(tmp_path / "spools"),
    ).save(again)  # fmt: skip
    with pytest.raises(UsageError, match="was launched before"):
        main(["--plan", str(again)])


def test_a_spool_directory_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / f"theorbo-{os.getuid()}").mkdir(mode=0o755)
    (tmp_path / f"theorbo-{os.getuid()}").chmod(0o755)
    plan = tmp_path / "plan.json"
    LaunchPlan(
        execution="0" * 32, broker="x", command=["true"], environment={}, work_dir="/", spool_root=str(tmp_path)
    ).save(plan)
    with pytest.raises(Unavailable, match="mode 0755"):
        main(["--plan", str(plan)])


def test_launch_needs_nothing_but_the_standard_library():
    probe = "import sys, theorbo.task_runtime.launch; print({'zmq', 'pydantic', 'inotify_simple'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("grace_s", [3e6, float("inf")])
def test_a_very_long_grace_is_waited_for(launched, grace_s):
    running = launched("sh", "-c", "trap '' TERM; for n in 1 2 3 4 5 6; do sleep 0.5; done", grace_s=grace_s)
    running.client.follow(lambda client: client.events("rank_started"))
    time.sleep(0.5)
    running.process.send_signal(signal.SIGTERM)
    assert running.client.follow_to_end()[0] == "COMPLETED"
    assert running.end() == (0, "")
