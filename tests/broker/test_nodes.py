"""Several nodes: stopped and continued ranks, lost nodes, contacts that are told, and what views show of all that."""

from __future__ import annotations

import pytest

from theorbo.broker.values import Tick
from theorbo.schemas import events
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import LOST_S, SILENT_RANK_S, SILENT_RANKS_SHOWN, SILENT_S, SUSPECT_S
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record

from .bus import RUN, Bus, log, put, record
from .test_core import view_of

SIGNALS, LOG = Channel.SIGNALS, Channel.LOG
NODES = (b"A0", b"A1")


def agent(node):
    return Source(SourceKind.AGENT, node)


def rank(number):
    return Source(SourceKind.RANK, number)


class Facility(Bus):
    """Two nodes with two ranks each: ranks 0 and 1 on node1, 2 and 3 on node2."""

    def begin(self, **submitted):
        fields = {"task": "galaxies", "experiment": "mfx1", "run": "7", "user": "alice", "host": "login", "ranks": 4}
        self.numbers = {}
        self.hello(b"E", "executor", RUN)
        self.signal(b"E", EXECUTOR, "execution_submitted", **{**fields, **submitted})
        for node, peer in enumerate(NODES):
            self.hello(peer, "agent", RUN, node=node)
            self.signal(peer, agent(node), "agent_started", host=f"node{node + 1}")
        self.signal(b"A0", LAUNCHER, "launcher_started", host="node1", agents=2)

    def signal(self, peer, source, kind, **fields):
        self.numbers[source] = self.numbers.get(source, 0) + 1
        event = encode_record({"kind": kind, "time": self.now, **fields})
        self.say(peer, put(source, SIGNALS, self.numbers[source], event))
        self.settle()

    def start_ranks(self, *numbers):
        for number in numbers:
            self.signal(NODES[number // 2], rank(number), "rank_started", host=f"node{number // 2 + 1}")

    def end_rank(self, number, **how):
        self.signal(NODES[number // 2], rank(number), "rank_ended", **(how or {"exit_code": 0}))

    def close(self, node):
        streams = {f"rank:{number}/signals": self.numbers[rank(number)] for number in (2 * node, 2 * node + 1)}
        if node == 0:
            streams["launcher/signals"] = self.numbers[LAUNCHER]
        self.signal(NODES[node], agent(node), "agent_closed", streams=streams)

    def request(self, action, reason=""):
        self.hello(b"O", "observer")
        body = encode_json(action=action, by="ada", reason=reason)
        self.say(b"O", Message(Command.REQUEST, Header(request=1, execution=RUN), body))
        self.settle()

    def changes(self, kind=events.StateChanged):
        return [event for event in self.own_events() if isinstance(event, kind)]

    def outcome(self):
        last = self.changes()[-1]
        return last.state, last.reason


@pytest.fixture
def bus():
    bus = Facility()
    bus.begin()
    return bus


@pytest.fixture
def running(bus):
    bus.start_ranks(0, 1, 2, 3)
    return bus


class TestRunning:
    def test_only_when_all_ranks_of_all_nodes_have_started(self, bus):
        bus.start_ranks(0, 1, 3)
        assert bus.states() == []
        bus.start_ranks(2)
        assert bus.states() == ["RUNNING"]

    def test_a_rank_that_should_not_be_is_none_of_them(self, bus):
        bus.start_ranks(0, 1, 3)
        bus.signal(b"A1", rank(17), "rank_started", host="node2")
        assert bus.states() == []


class TestStopped:
    def test_when_all_ranks_are_held_and_again_when_one_runs(self, running):
        running.request("stop", "the beam is off")
        running.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        assert running.states() == ["RUNNING"]
        assert view_of(running)["stopped"] == 2
        running.signal(b"A1", agent(1), "ranks_stopped", ranks=[2, 3])
        assert running.outcome() == ("STOPPED", "by ada: the beam is off")
        assert view_of(running)["stopped"] == 4
        running.request("continue", "it is back")
        running.signal(b"A1", agent(1), "ranks_continued", ranks=[2, 3])
        assert running.outcome() == ("RUNNING", "by ada: it is back")
        assert running.changes()[-1].previous == "STOPPED"

    def test_a_rank_that_has_ended_is_not_waited_for(self, running):
        running.end_rank(3)
        running.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        running.signal(b"A1", agent(1), "ranks_stopped", ranks=[2])
        assert running.states() == ["RUNNING", "STOPPED"]

    def test_the_last_running_rank_ends_while_the_others_are_held(self, running):
        running.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        running.signal(b"A1", agent(1), "ranks_stopped", ranks=[2])
        running.end_rank(3)
        assert running.states() == ["RUNNING", "STOPPED"]

    def test_it_is_known_after_a_restart_of_the_broker(self, running):
        running.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        running.signal(b"A1", agent(1), "ranks_stopped", ranks=[2, 3])
        running.restart()
        running.hello(b"A1", "agent", RUN, node=1)
        running.signal(b"A1", agent(1), "ranks_continued", ranks=[3])
        assert running.states() == ["RUNNING", "STOPPED", "RUNNING"]

    def test_a_rank_that_is_said_to_be_held_before_it_is_said_to_run(self, bus):
        """They travel in different streams."""
        bus.signal(b"A1", agent(1), "ranks_stopped", ranks=[2, 3])
        bus.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        bus.start_ranks(0, 1, 2, 3)
        assert bus.states() == ["RUNNING", "STOPPED"]

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ({"exit_code": 0}, ["RUNNING", "COMPLETED"]),
            ({"signal": "SIGKILL"}, ["FAILED"]),
        ],
    )
    def test_it_may_end_without_being_heard_to_continue(self, running, how, expected):
        running.signal(b"A0", agent(0), "ranks_stopped", ranks=[0, 1])
        running.signal(b"A1", agent(1), "ranks_stopped", ranks=[2, 3])
        for number in range(4):
            running.end_rank(number, **how)
        running.signal(b"A0", LAUNCHER, "launcher_ended", exit_code=0)
        running.close(0)
        running.close(1)
        assert running.states() == ["RUNNING", "STOPPED", *expected]

    def test_a_stop_is_no_reason_for_an_end(self, running):
        running.request("stop")
        running.request("stacks")
        running.end_rank(0, exit_code=3)
        for number in (1, 2, 3):
            running.end_rank(number, signal="SIGTERM")
        running.signal(b"A0", LAUNCHER, "launcher_ended", exit_code=3)
        running.close(0)
        running.close(1)
        assert running.outcome() == ("FAILED", "rank 0: exit code 3")


class TestLostNodes:
    """Agent 1 is silent; the ranks of node1 have ended, and all of agent 0 is delivered."""

    HEARD = (b"A0", b"E")

    def lose_node2(self, bus, *, said=True, **ended):
        for number in (0, 1):
            bus.end_rank(number, signal="SIGTERM")
        if said:
            bus.signal(b"A0", LAUNCHER, "node_lost", node=1, host="node2", reason="ssh ended with 255")
        bus.signal(b"A0", LAUNCHER, "launcher_ended", exit_code=143, **ended)
        streams = {"rank:0/signals": 2, "rank:1/signals": 2, "launcher/signals": bus.numbers[LAUNCHER]}
        bus.signal(b"A0", agent(0), "agent_closed", streams=streams)

    def test_its_agent_is_given_up_after_a_stated_silence(self, running):
        self.lose_node2(running)
        running.pass_time(SILENT_S, heard=self.HEARD)
        assert running.states() == ["RUNNING"]
        running.pass_time(2, heard=self.HEARD)
        state, reason = running.outcome()
        assert state == "FAILED"
        assert reason.startswith("node2 was lost (agent 1 was silent for ")
        assert reason.endswith("; ssh ended with 255): ranks 2, 3 did not end")
        (given_up,) = running.changes(events.AgentGivenUp)
        assert (given_up.node, given_up.host, given_up.heard) == (1, "node2", 1000.0)
        (conserved,) = running.changes(events.Conservation)
        assert conserved.streams["rank:2/signals"] == (1, 1)

    def test_an_agent_that_was_never_heard(self):
        bus = Facility()
        bus.numbers = {}
        bus.hello(b"E", "executor", RUN)
        bus.signal(b"E", EXECUTOR, "execution_submitted", task="t", user="u", host="h", ranks=2)
        bus.hello(b"A0", "agent", RUN)
        bus.signal(b"A0", agent(0), "agent_started", host="node1")
        bus.signal(b"A0", LAUNCHER, "launcher_started", host="node1", agents=2)
        bus.signal(b"A0", LAUNCHER, "node_lost", node=1, host="node2", reason="no route to host")
        bus.signal(b"A0", LAUNCHER, "launcher_ended", exit_code=1)
        bus.signal(b"A0", agent(0), "agent_closed", streams={"launcher/signals": 3})
        bus.pass_time(SILENT_S + 2, heard=(b"E",))
        assert bus.outcome() == (
            "FAILED",
            "node2 was lost (agent 1 was never heard; no route to host): ranks 0, 1 did not end",
        )

    def test_one_that_is_heard_is_waited_for(self, running):
        self.lose_node2(running)
        running.pass_time(4 * SILENT_S, heard=(*self.HEARD, b"A1"))
        assert running.states() == ["RUNNING"]

    def test_the_silence_before_the_word_does_not_count(self, running):
        """Whoever sweeps the node has to get there first."""
        running.pass_time(2 * SILENT_S, heard=self.HEARD)
        self.lose_node2(running)
        running.pass_time(SILENT_S, heard=self.HEARD)
        assert running.states() == ["RUNNING"]
        running.pass_time(2, heard=self.HEARD)
        assert running.states() == ["RUNNING", "FAILED"]

    def test_a_successor_that_delivers_everything_is_in_time(self, running):
        self.lose_node2(running)
        running.pass_time(SILENT_S - 2, heard=self.HEARD)
        running.hello(b"A1", "agent", RUN, node=1, epoch=2, incarnation="sweep")
        for number in (2, 3):
            running.end_rank(number, signal="SIGKILL")
        running.close(1)
        assert running.changes(events.AgentGivenUp) == []
        assert running.outcome() == ("FAILED", "rank 0: killed by SIGTERM")

    def test_nobody_is_given_up_where_nothing_says_that_the_node_has_gone(self, running):
        """A local launch whose agent died keeps the spool, and somebody delivers it: LOST much later, as ever."""
        self.lose_node2(running, said=False)
        running.pass_time(LOST_S - 2, heard=(b"E",))
        assert running.states() == ["RUNNING"]
        running.pass_time(3, heard=(b"E",))
        assert running.states() == ["RUNNING", "LOST"]

    @pytest.mark.parametrize("state", ["COMPLETING", "RUNNING", "UNKNOWN", ""])
    def test_nor_while_the_scheduler_says_that_the_job_lives(self, running, state):
        self.lose_node2(running, said=False, scheduler_state=state)
        running.pass_time(2 * SILENT_S, heard=self.HEARD)
        assert running.states() == ["RUNNING"]

    def test_nor_while_launcher_and_ranks_live(self, running):
        running.signal(b"A0", LAUNCHER, "node_lost", node=1, host="node2", reason="ssh ended with 255")
        running.pass_time(2 * SILENT_S, heard=self.HEARD)
        assert running.changes(events.AgentGivenUp) == []

    def test_the_schedulers_word_that_the_job_is_over(self, running):
        running.signal(b"E", EXECUTOR, "job_submitted", scheduler="slurm", job="42")
        running.signal(b"E", EXECUTOR, "launcher_gone", reason="the job has ended", scheduler_state="NODE_FAIL")
        running.pass_time(SILENT_S + 2, heard=(b"E",))
        state, reason = running.outcome()
        assert state == "FAILED"
        assert "node1 was lost (agent 0 was silent for 1" in reason
        assert reason.endswith("; Slurm says NODE_FAIL")

    def test_one_of_which_nothing_has_come_but_its_hello(self):
        bus = Facility()
        bus.numbers = {}
        bus.hello(b"E", "executor", RUN)
        bus.signal(b"E", EXECUTOR, "execution_submitted", task="t", user="u", host="h", launcher="slurm")
        bus.hello(b"A0", "agent", RUN)
        bus.signal(b"E", EXECUTOR, "launcher_gone", reason="the job has ended", scheduler_state="CANCELLED by 1000")
        bus.pass_time(SILENT_S + 2, heard=(b"E",))
        assert bus.outcome() == ("CANCELLED", "the batch scheduler ended the job: it was cancelled there (CANCELLED)")

    def test_a_ghost_that_returns_is_late_and_told_to_end(self, running):
        self.lose_node2(running)
        running.pass_time(SILENT_S + 2, heard=self.HEARD)
        (told,) = running.to(b"A1", Command.CONTROL)
        assert told.header.position == 0
        running.sent.clear()
        running.hello(b"A1", "agent", RUN, node=1)
        (told,) = running.to(b"A1", Command.CONTROL)
        assert b'"action":"kill"' in told.body
        running.end_rank(2, exit_code=0)
        assert running.journal[-1].flags == 2
        assert running.outcome()[0] == "FAILED"

    def test_it_is_given_up_once_also_while_the_journal_is_full(self, running):
        self.lose_node2(running)
        running.pass_time(SILENT_S, heard=self.HEARD)
        for _ in range(5):
            running.now += 1.0
            running.say(b"E", Message(Command.PING))
            running.give(Tick())
        running.settle()
        assert len(running.changes(events.AgentGivenUp)) == 1

    def test_a_restart_of_the_broker_is_a_new_lease(self, running):
        self.lose_node2(running)
        running.pass_time(SILENT_S - 1, heard=self.HEARD)
        running.restart()
        running.pass_time(SILENT_S - 1)
        assert running.states() == ["RUNNING"]
        running.pass_time(3)
        assert running.states() == ["RUNNING", "FAILED"]


class TestContactsThatAreTold:
    def told(self, bus, peer="agent:1"):
        mine = [event for event in bus.changes(events.ContactChanged) if event.peer == peer]
        return [(event.contact, event.previous, event.time - 1000.0, event.heard - 1000.0) for event in mine]

    def test_from_alive_to_silent_and_back_with_their_times(self, running):
        running.pass_time(SILENT_S + 5, heard=(b"A0", b"E"))
        running.say(b"A1", Message(Command.PING))
        running.pass_time(2, heard=(b"A0", b"A1", b"E"))
        assert self.told(running) == [
            ("suspect", "alive", SUSPECT_S, 0.0),
            ("silent", "suspect", SILENT_S, 0.0),
            ("alive", "silent", SILENT_S + 6, 0.0),
        ]
        assert self.told(running, "agent:0") == self.told(running, "executor") == []

    def test_once_also_where_much_else_is_under_way(self, running):
        for second in range(int(SUSPECT_S) + 3):
            running.now += 1.0
            running.say(b"A0", put(rank(0), LOG, second + 1, log("x")))
            running.say(b"E", Message(Command.PING))
            running.give(Tick())
        running.settle()
        assert len(self.told(running)) == 1

    def test_a_restart_of_the_broker_makes_nobody_alive(self, running):
        running.pass_time(SILENT_S + 1, heard=(b"A0", b"E"))
        running.restart()
        running.pass_time(SILENT_S + 5)
        assert [contact for contact, *_ in self.told(running)] == ["suspect", "silent"]
        running.hello(b"A1", "agent", RUN, node=1)
        running.pass_time(1)
        assert [contact for contact, *_ in self.told(running)] == ["suspect", "silent", "alive"]

    def test_nor_does_a_broker_that_did_not_run(self, running):
        running.pass_time(SILENT_S + 1, heard=(b"A0", b"E"))
        running.now += 100.0
        running.pass_time(3, heard=(b"A0", b"E"))
        assert [contact for contact, *_ in self.told(running)] == ["suspect", "silent"]

    def test_who_says_bye_and_who_has_closed_are_no_news(self, running):
        running.say(b"E", Message(Command.BYE))
        running.end_rank(2)
        running.end_rank(3)
        running.close(1)
        running.pass_time(SILENT_S + 2, heard=(b"A0",))
        assert running.changes(events.ContactChanged) == []

    def test_none_when_all_has_ended(self, running):
        running.signal(b"E", EXECUTOR, "launcher_gone", reason="killed")
        running.close(0)
        running.close(1)
        before = len(running.journal)
        running.pass_time(SILENT_S + 2)
        assert len(running.journal) == before


class TestViews:
    def test_nodes_with_hosts_contacts_and_ranks(self, running):
        running.end_rank(3)
        running.pass_time(SUSPECT_S, heard=(b"A0", b"E"))
        first, second = view_of(running)["nodes"]
        assert first == {
            "node": 0, "host": "node1", "contact": "alive", "heard": running.now,
            "ranks_started": 2, "ranks_ended": 0, "lost": "",
        }  # fmt: skip
        assert second == {
            "node": 1, "host": "node2", "contact": "suspect", "heard": 1000.0,
            "ranks_started": 2, "ranks_ended": 1, "lost": "",
        }  # fmt: skip

    def test_a_node_that_was_lost_says_why(self, running):
        running.signal(b"A0", LAUNCHER, "node_lost", node=1, host="node2", reason="ssh ended with 255")
        assert [node["lost"] for node in view_of(running)["nodes"]] == ["", "ssh ended with 255"]

    def test_the_job_in_the_schedulers_words(self, bus):
        assert view_of(bus)["job"] is None
        bus.signal(b"E", EXECUTOR, "job_submitted", scheduler="slurm", job="42")
        assert view_of(bus)["job"] == {"scheduler": "slurm", "job": "42", "state": "", "reason": ""}
        bus.signal(b"E", EXECUTOR, "job_changed", job="42", state="PENDING", reason="Resources")
        assert view_of(bus)["job"] == {"scheduler": "slurm", "job": "42", "state": "PENDING", "reason": "Resources"}

    def test_the_ranks_of_which_nothing_has_come_for_longest(self, running):
        start = running.now
        for number in range(1, 4):
            running.now = start + 10.0 * number
            running.say(NODES[number // 2], put(rank(number), LOG, 1, log("x")))
            running.settle()
        running.end_rank(1)
        running.now = start + SILENT_RANK_S + 20.5
        assert view_of(running)["silent_ranks"] == [
            {"rank": 0, "since": start},
            {"rank": 2, "since": start + 20.0},
        ]

    def test_they_are_bounded_and_a_rank_that_is_held_is_none(self):
        bus = Facility()
        bus.begin(ranks=50)
        for number in range(50):
            bus.say(b"A0", put(rank(number), SIGNALS, 1, record("rank_started", host="node1")))
        bus.signal(b"A0", agent(0), "ranks_stopped", ranks=[0])
        bus.now += SILENT_RANK_S + 1
        silent = view_of(bus)["silent_ranks"]
        assert [each["rank"] for each in silent] == list(range(1, SILENT_RANKS_SHOWN + 1))

    def test_after_a_restart_their_time_begins_anew(self, running):
        running.now += 10 * SILENT_RANK_S
        running.restart()
        assert view_of(running)["silent_ranks"] == []
        running.now += SILENT_RANK_S + 1
        assert len(view_of(running)["silent_ranks"]) == 4
