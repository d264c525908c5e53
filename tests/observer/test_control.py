"""`theorbo cancel`, `stop`, `continue` and `stacks` before a real broker, and `request` from a program."""

import json
import signal
import subprocess
import sys
import time

import pytest
from jsonschema import validate

from tests.observer.cluster import STACK, Cluster, agent, obedient
from theorbo.observer import request, requesting
from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.schemas.limits import RECEIPT_S, STACKS_QUIET_S
from theorbo.schemas.line_schema import line_schema
from theorbo.schemas.names import Source, SourceKind


@pytest.fixture
def cluster(broker):
    with Cluster(broker.connection_file, experiment="mfx1") as running:
        yield running


@pytest.fixture
def theorbo(broker, run_theorbo):
    def run(*arguments, **options):
        return run_theorbo(*arguments, "--broker", broker.connection_file, **options)

    return run


def objects(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_stop_and_continue_show_each_nodes_receipts_and_the_state(cluster, theorbo):
    stopped = theorbo("stop", cluster.id[-8:], "--reason", "the beam is away")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    asked, *receipts, last = [line.split(" ", 1)[1] for line in stopped.stdout.splitlines()]
    assert asked.startswith("broker stop requested by ")
    assert asked.endswith(": the beam is away")
    assert {"agent 0 on node1 stop carried out: 1 rank", "agent 1 on node2 stop carried out: 1 rank"} < set(receipts)
    assert any(line.startswith("agent 1 on node2 stop accepted, to be done by ") for line in receipts)
    assert any(line.startswith("broker STOPPED") for line in receipts)
    assert last.startswith(f"carried out by 2 agents, execution {cluster.id} is STOPPED")
    assert f"execution {cluster.id} is RUNNING" in theorbo("continue", cluster.id).stdout
    assert [each.action for each in cluster.heard] == ["stop", "stop", "continue", "continue"]
    assert {each.reason for each in cluster.heard} == {"the beam is away", ""}


def test_cancel_ends_when_the_execution_has_ended(cluster, theorbo):
    done = theorbo("cancel", cluster.id, "--grace", "3", "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = objects(done)
    assert [line["kind"] for line in lines if line["source"] == "broker"] == ["control_requested", "state_changed"]
    for line in (*lines, last):
        validate(line, line_schema())
    assert last["kind"] == "request_outcome"
    assert (last["state"], last["complete"], last["missing"]) == ("CANCELLED", True, [])
    assert [(each["source"], each["host"], each["done"]) for each in last["answers"]] == [
        ("agent:0", "node1", True), ("agent:1", "node2", True),
    ]  # fmt: skip
    assert {each.grace_s for each in cluster.heard} == {3.0}
    again = theorbo("cancel", cluster.id)
    assert again.returncode == ExitStatus.USAGE
    assert "there is nothing to cancel" in again.stderr
    assert "has ended, CANCELLED" in again.stderr
    assert "there is nothing to ask for its stacks: execution" in theorbo("stacks", cluster.id).stderr


def test_kill_does_not_wait_for_anybody(cluster, theorbo):
    assert theorbo("cancel", cluster.id, "--kill").returncode == 0
    assert {each.action for each in cluster.heard} == {"kill"}
    assert theorbo("cancel", cluster.id, "--kill", "--grace", "3").returncode == ExitStatus.USAGE


def test_stacks_shows_the_lines_of_each_rank_and_nothing_else_of_its_stderr(cluster, theorbo):
    done = theorbo("stacks", cluster.id)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for rank in (0, 1):
        place = lines.index(f"rank {rank}:")
        assert lines[place + 1].strip() == "Current thread 0x00007f1c35b2a740 (most recent call first):"
        assert lines[place + 2].strip() == 'File "peaks.py", line 12 in _run'
    assert "something else" not in done.stdout
    as_json = objects(theorbo("stacks", cluster.id, "--json"))
    assert {each["rank"] for each in as_json if each["kind"] == "output"} == {0, 1}


def test_stacks_that_a_program_writes_without_end_are_not_waited_for(broker, cluster, monkeypatch):
    monkeypatch.setattr(requesting, "RECEIPT_S", STACKS_QUIET_S)
    turn = cluster._turn

    def babbling(speaking, node=-1):
        if cluster.heard and node == 0:
            cluster._put(speaking, Source(SourceKind.RANK, 0), kind="output", text=STACK[0])
        turn(speaking, node)

    cluster._turn = babbling
    assert request(cluster.id, "stacks", str(broker.connection_file)).complete


def test_a_node_that_refuses_is_named_and_told_by_the_exit_status(cluster, theorbo):
    def refusing(node, asked, position):
        said = {"kind": "control_done", "action": asked.action, "request": position, "refused": "not \x1b[31mme"}
        return [(agent(node), said)] if node else obedient(node, asked, position)

    cluster.react = refusing
    done = theorbo("stacks", cluster.id)
    assert done.returncode == ExitStatus.FAILED
    assert "stacks refused by agent 1 on node2: not \\x1b[31mme" in done.stdout


def test_a_node_that_does_not_answer_is_named_at_the_deadline(cluster, theorbo):
    cluster.away = {1}
    began = time.monotonic()
    done = theorbo("stop", cluster.id)
    assert done.returncode == ExitStatus.UNANSWERED
    assert RECEIPT_S - 0.5 < time.monotonic() - began < RECEIPT_S + 6
    assert "agent 0 on node1 stop carried out" in done.stdout
    assert "no answer by the deadline from agent 1 on node2 (suspect)" in done.stderr
    assert "the request stands" in done.stderr


def test_without_waiting_the_request_is_in_the_journal(cluster, theorbo, wait_for):
    done = theorbo("stop", cluster.id, "--no-wait")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"requested of execution {cluster.id}" in done.stderr
    wait_for(lambda: len(cluster.heard) == 2, "both agents")


def test_without_waiting_json_still_ends_with_the_outcome(cluster, theorbo):
    (last,) = objects(theorbo("stop", cluster.id, "--no-wait", "--json"))
    validate(last, line_schema())
    assert (last["kind"], last["action"], last["complete"]) == ("request_outcome", "stop", False)
    assert last["position"] > 0


def test_an_interrupt_ends_the_waiting_and_not_the_request(broker, cluster):
    cluster.react = lambda *_: []
    command = [sys.executable, "-m", "theorbo.schemas.command", "stop", cluster.id]
    with subprocess.Popen(
        [*command, "--broker", str(broker.connection_file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert "stop requested by" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "not waiting any more; the request stands" in said
    assert [each.action for each in cluster.heard] == ["stop", "stop"]


def test_what_has_not_been_launched_cannot_be_stopped_and_the_executor_cancels_it(broker, theorbo):
    with Cluster(broker.connection_file, started=False) as waiting:
        done = theorbo("stop", waiting.id)
        assert done.returncode == ExitStatus.UNANSWERED
        assert "nothing of the execution runs that could answer, it is PENDING; the request stands" in done.stderr
        done = theorbo("cancel", waiting.id)
        assert done.returncode == ExitStatus.UNANSWERED
        assert "no answer by the deadline from executor" in done.stderr
        assert "(" not in done.stderr.partition("from executor")[2].partition(";")[0], "it is alive"


def test_an_unknown_execution_and_a_broker_that_is_away_are_told(broker, cluster, theorbo):
    unknown = theorbo("stop", "0123456789abcdef")
    assert unknown.returncode == ExitStatus.USAGE
    assert "there is no execution '0123456789abcdef'; the latest: " in unknown.stderr
    broker.stop()
    away = theorbo("stop", cluster.id)
    assert away.returncode != 0
    assert "no connection file" in away.stderr


@pytest.mark.parametrize("command", ["cancel", "stop", "continue", "stacks"])
def test_help_teaches(run_theorbo, command):
    shown = run_theorbo(command, "--help")
    assert shown.returncode == 0
    assert f"theorbo {command} 3f2a91bc" in shown.stdout
    assert "Exit status: 0 done" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 120


def test_a_program_gets_receipts_as_they_come_and_the_outcome(broker, cluster):
    seen = []
    outcome = request(cluster.id, "stop", str(broker.connection_file), reason="why", on_event=seen.append)
    assert (outcome.complete, outcome.state, outcome.missing, outcome.refusals) == (True, "STOPPED", [], [])
    assert [answer.host for answer in outcome.answers] == ["node1", "node2"]
    assert seen[0].event.reason == "why"
    assert {item.event.kind for item in seen} == {
        "control_requested", "control_accepted", "control_done", "state_changed",
    }  # fmt: skip
    asked = request(cluster.id, "continue", str(broker.connection_file), wait=False)
    assert (asked.complete, asked.position > outcome.position) == (False, True)
    with pytest.raises(UsageError, match="cannot be requested"):
        request(cluster.id, "restart", str(broker.connection_file))


def test_the_broker_may_be_restarted_while_one_waits(broker, cluster, theorbo, wait_for):
    answer_now = []

    def late(node, asked, position):
        return obedient(node, asked, position) if answer_now else []

    cluster.react = late
    command = [sys.executable, "-m", "theorbo.schemas.command", "stop", cluster.id, "--json"]
    with subprocess.Popen(
        [*command, "--broker", str(broker.connection_file)], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as process:
        assert json.loads(process.stdout.readline())["kind"] == "control_requested"
        wait_for(lambda: len(cluster.heard) >= 2, "both agents")
        answer_now.append(True)
        broker.kill()
        broker.restart()
        out, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["state"] == "STOPPED"
