from __future__ import annotations

import pytest

from theorbo.broker.values import Append, Keep, Tick, Unsent
from theorbo.schemas import events
from theorbo.schemas.frames import HEADER_BYTES, Command, Flag, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import (
    BATCH_BYTES,
    BATCH_EVENTS,
    LOST_S,
    MESSAGE_BYTES,
    READS_PER_PEER,
    RECENT_S,
    RECORD_BYTES,
    REFUSALS_LOGGED,
    SILENT_S,
    SUSPECT_S,
)
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record, split_body

from .bus import AGENT, RANK, RUN, SUBMITTED, Bus, decoded, log, put, record

SIGNALS, LOG = Channel.SIGNALS, Channel.LOG


@pytest.fixture
def bus() -> Bus:
    return Bus()


class TestConversation:
    def test_hello_is_answered_with_the_brokers_identity(self, bus):
        bus.hello(b"O", "observer")
        (welcome,) = bus.to(b"O", Command.WELCOME)
        assert decode_json(welcome.body)["broker"] == "the-broker"

    def test_who_has_not_said_hello_is_unknown(self, bus):
        bus.say(b"O", Message(Command.PING))
        assert bus.refusals(b"O") == ["unknown_peer"]

    def test_somebody_elses_routing_id_does_not_help(self, bus):
        bus.hello(b"O", "observer", principal="alice")
        bus.say(b"O", Message(Command.PING), principal="mallory")
        assert bus.refusals(b"O") == ["unknown_peer"]

    def test_ping_is_answered(self, bus):
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.PING, Header(request=9)))
        assert bus.to(b"O", Command.PONG)[0].header.request == 9

    def test_bye_makes_a_peer_unknown(self, bus):
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.BYE))
        bus.say(b"O", Message(Command.PING))
        assert bus.refusals(b"O") == ["unknown_peer"]

    def test_an_agent_of_an_execution_that_nobody_submitted_is_refused(self, bus):
        bus.hello(b"A", "agent", RUN)
        assert bus.refusals(b"A") == ["unknown_execution"]

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            ([], "malformed"),
            ([b"PING"], "malformed"),
            ([b"PING", b"", b""], "malformed"),
            ([b"PING", b"x" * HEADER_BYTES, b""], "malformed"),
            ([b"PING", Header().encode(), b"", b""], "malformed"),
            ([b"PING", b"TB\x02" + Header().encode()[3:], b""], "version"),
            ([b"PING", b"TB\x63", b"whatever this will be"], "version"),
            ([b"DANCE", Header().encode(), b""], "unknown_command"),
            ([b"\xff" * 5000, Header().encode(), b""], "unknown_command"),
            ([b"HELLO", Header().encode(), b"{"], "malformed"),
            ([b"HELLO", Header().encode(), b"[" * 100_000], "malformed"),
            ([b"HELLO", Header().encode(), b"[]"], "malformed"),
            ([b"HELLO", Header().encode(), b'{"role":"king"}'], "malformed"),
            ([b"HELLO", Header().encode(), b'{"role":["agent"]}'], "malformed"),
            ([b"HELLO", Header().encode(), b'{"role":"agent"}'], "malformed"),
            ([b"READ", Header().encode(), b'{"after":-1}'], "malformed"),
            ([b"READ", Header().encode(), b'{"after":1e3}'], "malformed"),
            ([b"READ", Header().encode(), b'{"channels":["smells"]}'], "malformed"),
            ([b"READ", Header().encode(), b'{"channels":7}'], "malformed"),
            ([b"READ", Header().encode(), b'{"channel":"log","first":1,"last":2}'], "malformed"),
            ([b"READ", Header(execution=b"?" * 16).encode(), b"{}"], "unknown_execution"),
            ([b"LIST", Header().encode(), b'{"limit":-1}'], "malformed"),
            ([b"LIST", Header().encode(), b'{"task":3}'], "malformed"),
            ([b"LIST", Header().encode(), b'{"task":"\\ud800"}'], "malformed"),
            ([b"FETCH", Header().encode(), b"short"], "malformed"),
            ([b"FETCH", Header(first=2**64 - 1).encode(), bytes(32)], "malformed"),
            ([b"PUT", Header().encode(), b""], "not_allowed"),
            ([b"ATTACH", Header().encode(), b""], "not_allowed"),
        ],
    )
    def test_what_cannot_be_understood_is_refused_and_the_next_message_is_answered(self, bus, frames, code):
        from theorbo.broker.values import Received

        bus.hello(b"O", "observer")
        bus.give(Received(b"O", "alice", frames))
        assert bus.refusals(b"O") == [code]
        assert bus.core.refused[code] == 1
        assert bus.notes[-1].fields["origin"] == "observer of alice, node1 pid 7"
        bus.say(b"O", Message(Command.PING))
        assert bus.to(b"O", Command.PONG)

    def test_a_flood_of_nonsense_does_not_flood_the_log(self, bus):
        bus.hello(b"O", "observer")
        for _ in range(1000):
            bus.say(b"O", Message(b"DANCE"))
        assert bus.core.refused["unknown_command"] == 1000
        assert len(bus.notes) == REFUSALS_LOGGED

    def test_goodbye_is_said_to_everybody(self, bus):
        from theorbo.broker.values import Ending

        bus.hello(b"O", "observer")
        bus.hello(b"P", "observer")
        bus.give(Ending())
        assert [send.peer for send in bus.sent if send.message.command == Command.GOODBYE] == [b"O", b"P"]


class TestDelivery:
    def test_nothing_leaves_before_it_is_on_disk(self, bus):
        bus.submit()
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.READ, Header(request=1), encode_json(follow=True)))
        bus.sent.clear()
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        assert bus.sent == []
        assert bus.published == []
        bus.commit()
        assert [message.header.first for message in bus.to(b"A", Command.ACK)] == [1]
        assert len(bus.to(b"O", Command.EVENTS)) == 1
        assert len(bus.published) == 1

    def test_positions_are_contiguous_over_all_sources_of_a_channel(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        bus.say(b"A", put(AGENT, LOG, 1, log("c")))
        bus.say(b"A", put(RANK, LOG, 3, log("d")))
        bus.commit()
        assert [(batch.position, batch.count) for batch in bus.journal if batch.channel == LOG] == [
            (1, 2),
            (3, 1),
            (4, 1),
        ]

    def test_one_acknowledgement_per_stream_and_commit(self, bus):
        bus.submit()
        for number in range(1, 6):
            bus.say(b"A", put(RANK, LOG, number, log("x")))
        bus.commit()
        assert [message.header.first for message in bus.to(b"A", Command.ACK)] == [5]

    def test_what_is_on_disk_already_is_acknowledged_again_and_not_written_again(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        bus.commit()
        bus.sent.clear()
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        assert [message.header.first for message in bus.to(b"A", Command.ACK)] == [2]
        bus.commit()
        assert bus.texts() == ["a", "b"]

    def test_what_is_on_its_way_is_neither_written_nor_acknowledged_twice(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        assert bus.to(b"A", Command.ACK) == []
        bus.commit()
        assert bus.texts() == ["a"]
        assert len(bus.to(b"A", Command.ACK)) == 1

    @pytest.mark.parametrize("committed", [True, False])
    def test_the_part_of_a_batch_that_is_there_is_cut_off(self, bus, committed):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        if committed:
            bus.commit()
        bus.say(b"A", put(RANK, LOG, 2, log("b"), log("c"), log("d")))
        bus.settle()
        assert bus.texts() == ["a", "b", "c", "d"]
        assert [(batch.first, batch.position) for batch in bus.journal if batch.channel == LOG] == [(1, 1), (3, 3)]

    def test_a_gap_sends_the_sender_back_once(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        bus.commit()
        bus.sent.clear()
        for number in range(3, 30):
            bus.say(b"A", put(RANK, LOG, number, log("x")))
        (ack,) = bus.to(b"A", Command.ACK)
        assert ack.header.flags == Flag.REWIND
        assert ack.header.first == 1
        bus.say(b"A", put(RANK, LOG, 2, log("b")))
        bus.settle()
        assert bus.texts() == ["a", "b"]

    def test_a_gap_that_stays_is_told_again(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 3, log("x")))
        bus.now += 2.0
        bus.say(b"A", put(RANK, LOG, 3, log("x")))
        assert [message.header.flags for message in bus.to(b"A", Command.ACK)] == [Flag.REWIND, Flag.REWIND]

    def test_acknowledgements_follow_the_sender_to_its_new_connection(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        bus.hello(b"A2", "agent", RUN)
        bus.say(b"A2", put(RANK, LOG, 1, log("a")))
        bus.commit()
        assert bus.to(b"A", Command.ACK) == []
        assert len(bus.to(b"A2", Command.ACK)) == 1

    def test_without_room_batches_are_dropped_and_asked_for_again_when_there_is_room(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.deliveries.PENDING_JOURNAL_BYTES", 1500)
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a" * 800)))
        for number in range(2, 6):
            bus.say(b"A", put(RANK, LOG, number, log("b" * 800)))
        assert bus.to(b"A", Command.ACK) == []
        assert len(bus.pending) == 1
        bus.commit()
        assert [message.header.flags for message in bus.to(b"A", Command.ACK)] == [0, Flag.REWIND]
        bus.say(b"A", put(RANK, LOG, 2, log("b" * 800)))
        bus.commit()
        assert [len(text) for text in bus.texts()] == [800, 800]

    def test_an_execution_begins_with_its_submission(self, bus):
        bus.hello(b"E", "executor", RUN)
        bus.say(b"E", put(EXECUTOR, LOG, 1, log("too early")))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 1, record("launcher_gone", reason="?")))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, SUBMITTED))
        assert bus.refusals(b"E") == ["unknown_execution"] * 3
        assert bus.pending == []

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"task": "", "user": "a", "host": "h"},
            {"task": "a\nb", "user": "a", "host": "h"},
            {"task": "a", "user": "a", "host": "h", "ranks": 0},
            {"task": "a", "user": "a", "host": "h", "run": "x" * 201},
        ],
    )
    def test_a_submission_that_says_nothing_usable_is_refused(self, bus, fields):
        bus.hello(b"E", "executor", RUN)
        bus.say(b"E", put(EXECUTOR, SIGNALS, 1, record("execution_submitted", **fields)))
        assert bus.refusals(b"E") == ["malformed"]
        bus.hello(b"A", "agent", RUN)
        assert bus.refusals(b"A") == ["unknown_execution"]

    def test_a_second_submission_is_a_duplicate_like_any_other(self, bus):
        bus.submit()
        bus.say(b"E", put(EXECUTOR, SIGNALS, 1, SUBMITTED))
        assert [message.header.first for message in bus.to(b"E", Command.ACK)] == [1]
        assert bus.pending == []

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1, count=2), log("a")),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1, count=1), b"{}\n"),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1, count=1), b"\x1e{}"),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1, count=1), b"x\x1e{}\n"),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1, count=0), log("a")),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=0, count=1), log("a")),
                "malformed",
            ),
            (
                Message(Command.PUT, Header(execution=RUN, channel=0, source=RANK, first=1, count=1), log("a")),
                "malformed",
            ),
            (Message(Command.PUT, Header(execution=RUN, channel=2, first=1, count=1), log("a")), "malformed"),
            (put(BROKER, SIGNALS, 1, record("state_changed", state="COMPLETED", previous="RUNNING")), "not_allowed"),
            (put(RANK, LOG, 1, log("a"), execution=b"another one's..."), "not_allowed"),
            (put(RANK, LOG, 1, log("a"), log("x" * 140_000)), "too_large"),
        ],
    )
    def test_a_batch_that_is_not_what_it_says_is_refused_whole(self, bus, message, code):
        bus.submit()
        bus.hello(b"X", "executor", b"another one's...")
        bus.say(b"A", message)
        if bus.refusals(b"A") == []:
            bus.commit()
        assert bus.refusals(b"A") == [code]
        assert bus.pending == []
        assert bus.texts() == []


STREAMS = {"rank:0/signals": 2, "rank:0/log": 3, "launcher/signals": 2}


class TestState:
    def test_a_task_that_ends_well_is_completed_after_its_conservation_record(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        assert [event.kind for event in bus.own_events()] == ["state_changed", "conservation", "state_changed"]
        assert bus.states() == ["RUNNING", "COMPLETED"]
        conservation = bus.own_events()[1]
        assert conservation.streams["rank:0/log"] == (3, 3)
        assert conservation.streams["executor/signals"] == (1, 1)
        assert conservation.lost == 0

    def test_a_state_is_shown_to_nobody_before_it_is_on_disk(self, bus):
        bus.submit()
        bus.hello(b"O", "observer")
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="h")))
        bus.commit()
        assert view_of(bus)["state"] == "PENDING"
        bus.commit()
        assert view_of(bus)["state"] == "RUNNING"

    def test_the_final_state_waits_for_everything_that_was_reported(self, bus):
        bus.submit()
        bus.run_to_end(streams={**STREAMS, "rank:0/log": 4}, logs=3)
        assert bus.states() == ["RUNNING"]
        assert view_of(bus)["delivering"] is True
        bus.say(b"A", put(RANK, LOG, 4, log("last words")))
        assert bus.states() == ["RUNNING"]
        bus.settle()
        assert bus.states() == ["RUNNING", "COMPLETED"]

    def test_a_task_that_ran_between_two_commits_was_running(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="h"), record("rank_ended", exit_code=0)))
        ended = record("launcher_ended", exit_code=0)
        bus.say(b"A", put(LAUNCHER, SIGNALS, 1, record("launcher_started", host="h", agents=1), ended))
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h"), record("agent_closed", streams={})))
        bus.settle()
        assert bus.states() == ["RUNNING", "COMPLETED"]

    def test_what_could_not_be_started_has_failed_without_running(self, bus):
        bus.submit()
        started = record("launcher_started", host="h", agents=1)
        bus.say(b"A", put(LAUNCHER, SIGNALS, 1, started, record("launcher_ended", problem="no such file: /x")))
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h"), record("agent_closed", streams={})))
        bus.settle()
        assert bus.states() == ["FAILED"]
        assert bus.own_events()[-1].reason == "no such file: /x"

    def test_what_comes_after_the_final_state_is_kept_as_late_and_changes_nothing(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        before, view = len(bus.journal), view_of(bus)
        lost = record("loss", stream="rank:0/log", count=5, detail="?")
        bus.say(b"A", put(RANK, SIGNALS, 3, record("task_failed", error="a ghost"), lost))
        bus.say(b"A", put(RANK, LOG, 4, log("boo")))
        bus.settle()
        assert [batch.flags for batch in bus.journal[before:]] == [Flag.LATE, Flag.LATE]
        assert bus.published[-1].header.flags == Flag.LATE
        assert bus.states() == ["RUNNING", "COMPLETED"]
        assert view_of(bus) == {**view, "heads": {"signals": 12, "log": 4}}

    def test_a_malformed_signal_is_kept_and_logged_and_changes_nothing(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_ended", exit_code="well"), b"\x1e{no json}\n"))
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_closed", streams={"no stream": 1})))
        bus.settle()
        assert [note.fields["source"] for note in bus.notes] == ["rank:0", "agent:0"]
        assert bus.states() == []
        assert len(bus.to(b"A", Command.ACK)) == 2

    def test_the_execution_is_noted_as_open_and_then_as_ended_with_its_view(self, bus):
        bus.submit()
        assert bus.kept[RUN].ended is None
        bus.run_to_end(streams=STREAMS, logs=3, exit_code=3)
        assert bus.kept[RUN].ended == bus.now
        assert bus.kept[RUN].view["state"] == "FAILED"
        assert bus.kept[RUN].view["reason"] == "exit code 3"


class TestRestart:
    def test_a_restarted_broker_goes_on_where_the_journal_ends(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="h")))
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        bus.settle()
        bus.restart()
        bus.say(b"A", put(RANK, LOG, 2, log("b")))
        assert bus.refusals(b"A") == ["unknown_peer"]
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        bus.settle()
        assert bus.texts() == ["a", "b"]
        assert view_of(bus)["state"] == "RUNNING"
        assert view_of(bus)["heads"] == {"signals": 3, "log": 2}
        sequences = [batch.sequence for batch in bus.journal]
        assert sequences == sorted(set(sequences))

    def test_a_state_that_follows_from_the_journal_and_is_not_in_it_is_made_up_for(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="h")))
        bus.commit()  # RUNNING is decided, and then the power fails
        bus.restart()
        bus.settle()
        assert bus.states() == ["RUNNING"]

    def test_an_ended_execution_is_known_from_the_journal(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        bus.restart()
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 3, log("line 3"), log("late")))
        bus.settle()
        assert bus.journal[-1].flags == Flag.LATE
        assert (bus.journal[-1].first, bus.journal[-1].position) == (4, 4)
        assert bus.states() == ["RUNNING", "COMPLETED"]

    def test_a_broker_that_was_killed_before_it_noted_the_end_notes_it_now(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        bus.kept[RUN] = Keep(RUN, 1.0, None, {})
        bus.restart()
        assert bus.kept[RUN].view["state"] == "COMPLETED"
        bus.settle()
        assert bus.states() == ["RUNNING", "COMPLETED"]


class TestSilence:
    def test_contact_tells_alive_suspect_and_silent_for_each_peer(self, bus):
        bus.submit()
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h")))
        bus.settle()
        bus.pass_time(SUSPECT_S, heard=(b"E",))
        assert view_of(bus)["contact"] == {"agent:0": "suspect", "executor": "alive"}
        bus.pass_time(SILENT_S - SUSPECT_S, heard=(b"E",))
        assert view_of(bus)["contact"] == {"agent:0": "silent", "executor": "alive"}

    def test_who_says_bye_is_not_silent_but_gone(self, bus):
        bus.submit()
        bus.say(b"E", Message(Command.BYE))
        assert view_of(bus)["contact"] == {"agent:0": "alive"}

    def test_an_execution_is_lost_when_all_its_peers_are_silent(self, bus):
        bus.submit()
        bus.pass_time(LOST_S - 1)
        assert bus.states() == []
        bus.pass_time(2)
        assert bus.states() == ["LOST"]
        *_, conserved, lost = bus.own_events()
        assert isinstance(conserved, events.Conservation)
        assert "120 s" in lost.reason

    @pytest.mark.parametrize("alive", [b"E", b"A"])
    def test_one_peer_is_enough_to_keep_it(self, bus, alive):
        bus.submit()
        bus.pass_time(2 * LOST_S, heard=(alive,))
        assert bus.states() == []

    def test_an_executor_alone_does_not_keep_it_once_the_launcher_is_gone(self, bus):
        bus.submit()
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h")))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="killed")))
        bus.settle()
        bus.pass_time(2 * LOST_S, heard=(b"A", b"E"))
        assert bus.states() == []
        bus.pass_time(LOST_S + 1, heard=(b"E",))
        assert bus.states() == ["LOST"]

    def test_a_broker_that_was_stalled_expires_nobody(self, bus):
        bus.submit()
        bus.now += 10 * LOST_S
        bus.give(Tick())
        bus.settle()
        assert bus.states() == []
        assert view_of(bus)["contact"] == {"agent:0": "alive", "executor": "alive"}
        bus.pass_time(LOST_S - 1)
        assert bus.states() == []
        bus.pass_time(2)
        assert bus.states() == ["LOST"]

    def test_a_clock_that_was_set_back_expires_nobody(self, bus):
        bus.submit()
        bus.now -= 5000.0
        bus.give(Tick())
        bus.pass_time(LOST_S - 1)
        assert bus.states() == []

    def test_after_a_restart_everybody_has_a_new_lease(self, bus):
        bus.submit()
        bus.now += 10 * LOST_S
        bus.restart()
        bus.pass_time(LOST_S - 1)
        assert bus.states() == []
        bus.pass_time(2)
        assert bus.states() == ["LOST"]

    def test_an_ended_execution_leaves_memory_and_not_the_listing(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        bus.pass_time(RECENT_S + 1)
        assert decode_json(bus.published[-1].body)["heads"] == {}
        assert view_of(bus)["state"] == "COMPLETED"


class TestControl:
    REQUEST = record("control_requested", action="cancel", by="alice")

    def test_a_request_reaches_the_agents_when_it_is_on_disk(self, bus):
        bus.submit()
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, self.REQUEST))
        assert bus.to(b"A", Command.CONTROL) == []
        bus.commit()
        (control,) = bus.to(b"A", Command.CONTROL)
        assert (control.header.source, control.header.first, control.header.count) == (EXECUTOR, 2, 1)
        assert control.body == self.REQUEST
        assert bus.to(b"E", Command.CONTROL) == []

    def test_an_agent_that_comes_later_hears_it_too(self, bus):
        bus.submit()
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, log("x"), self.REQUEST))
        bus.commit()
        bus.restart()
        bus.hello(b"A9", "agent", RUN)
        (control,) = bus.to(b"A9", Command.CONTROL)
        assert (control.header.first, control.header.position, control.body) == (3, 3, self.REQUEST)


class TestLive:
    def test_topics_are_prefixes_that_people_ask_for(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a")))
        bus.commit()
        assert bus.published[-1].topic == f"log/mfx1/7/galaxies/{RUN.hex()}/".encode()

    def test_large_batches_are_published_in_pieces_with_their_own_numbers(self, bus):
        bus.submit()
        records = [log("x" * 30_000) for _ in range(5)]
        bus.say(b"A", put(RANK, LOG, 1, log("first")))
        bus.say(b"A", put(RANK, LOG, 2, *records))
        bus.commit()
        pieces = [item for item in bus.published if item.header.count and item.header.first > 1]
        assert [(item.header.first, item.header.position, item.header.count) for item in pieces] == [
            (2, 2, 2),
            (4, 4, 2),
            (6, 6, 1),
        ]
        assert b"".join(item.body for item in pieces) == b"".join(records)

    def test_a_single_large_record_is_one_message(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("x" * 100_000)))
        bus.commit()
        assert len(bus.published) == 1

    def test_a_nonce_is_answered_on_its_topic_and_nothing_else_is(self, bus):
        from theorbo.broker.values import Subscribed

        bus.give(Subscribed(b"log/"))
        assert bus.published == []
        bus.give(Subscribed(b"nonce/abc"))
        assert [item.topic for item in bus.published] == [b"nonce/abc"]

    def test_the_beacon_tells_the_heads_of_what_is_on_disk(self, bus):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("a"), log("b")))
        bus.give(Tick())
        assert decode_json(bus.published[-1].body)["heads"] == {RUN.hex(): {"signals": 1}}
        bus.commit()
        bus.give(Tick())
        assert decode_json(bus.published[-1].body)["heads"] == {RUN.hex(): {"signals": 1, "log": 2}}


class TestListing:
    def test_filters_are_exact(self, bus):
        bus.submit()
        for wish, found in [
            ({}, 1),
            ({"task": "galaxies"}, 1),
            ({"task": "galaxie"}, 0),
            ({"experiment": "mfx1", "run": "7"}, 1),
            ({"experiment": "mfx10"}, 0),
        ]:
            assert len(listing(bus, **wish)) == found, wish

    def test_ended_executions_are_listed_when_all_are_wanted(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        assert listing(bus) == []
        assert [view["state"] for view in listing(bus, all=True)] == ["COMPLETED"]

    def test_a_view_has_what_the_protocol_says(self, bus):
        bus.submit()
        bus.run_to_end(streams=STREAMS, logs=3)
        (view,) = listing(bus, all=True)
        assert view == {
            "execution": RUN.hex(), "task": "galaxies", "experiment": "mfx1", "run": "7", "user": "alice",
            "host": "login", "state": "COMPLETED", "reason": "", "delivering": False, "submitted": 1.0,
            "started": 1.0, "ended": 1.0, "ranks": 1, "ranks_started": 1, "ranks_ended": 1, "hosts": ["node1"],
            "nodes": [{
                "node": 0, "host": "node1", "contact": None, "heard": None, "ranks_started": 1, "ranks_ended": 1,
                "lost": "",
            }],
            "job": None, "stopped": 0, "silent_ranks": [], "contact": {}, "heads": {"signals": 10, "log": 3},
            "lost": 0, "executor_epoch": 1, "executor_host": "login",
        }  # fmt: skip


def listing(bus: Bus, execution: bytes = bytes(16), **wish: object) -> list[dict]:
    bus.hello(b"L", "observer")
    bus.sent.clear()
    bus.say(b"L", Message(Command.LIST, Header(request=3, execution=execution), encode_json(**wish)))
    (answer,) = bus.to(b"L", Command.LISTING)
    assert answer.header.request == 3
    assert answer.header.sequence == bus.core.committed_sequence
    return decode_json(answer.body)["executions"]


def view_of(bus: Bus) -> dict:
    (view,) = listing(bus, RUN)
    return view


def test_every_append_gets_the_next_sequence(bus):
    bus.submit()
    bus.run_to_end(streams=STREAMS, logs=3)
    appended = [instruction.batch.sequence for instruction in bus.instructions if isinstance(instruction, Append)]
    assert appended == list(range(1, len(appended) + 1))
    assert [event.kind for event in decoded(bus.journal[0].body)] == ["execution_submitted"]


class TestAbsurdFields:
    @pytest.mark.parametrize("time", [float("nan"), float("inf"), float("-inf")])
    def test_a_submission_at_no_time_is_refused(self, bus, time):
        """SQLite takes NaN for NULL: the journal would try to commit it for ever, and nothing else."""
        bus.hello(b"E", "executor", RUN)
        absurd = encode_record({"kind": "execution_submitted", "time": time, "task": "t", "user": "u", "host": "h"})
        bus.say(b"E", put(EXECUTOR, SIGNALS, 1, absurd))
        assert bus.refusals(b"E") == ["malformed"]
        assert not bus.kept

    def test_a_submission_of_absurdly_many_ranks_is_refused(self, bus):
        """The broker would list all that have no end record: out of memory, and again after each restart."""
        bus.hello(b"E", "executor", RUN)
        bus.say(
            b"E", put(EXECUTOR, SIGNALS, 1, record("execution_submitted", task="t", user="u", host="h", ranks=10**12))
        )
        assert bus.refusals(b"E") == ["malformed"]

    def test_an_absurd_loss_changes_nothing(self, bus):
        """Two numbers of 4300 digits have a sum that Python does not write down: no LIST was answered any more."""
        bus.submit()
        absurd = b'\x1e{"kind":"loss","time":1.0,"stream":"rank:0/log","count":' + b"9" * 4300 + b',"detail":"x"}\n'
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, absurd, absurd))
        bus.settle()
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.LIST, Header(request=3), b"{}"))
        (answer,) = bus.to(b"O", Command.LISTING)
        assert decode_json(answer.body)["executions"][0]["lost"] == 0


class TestLargeListings:
    def test_a_listing_fits_into_a_message(self, bus):
        """A thousand views with the hosts of a hundred nodes each do not; the connection would be closed."""
        hosts = [f"node{number:04d}.facility.example.org" for number in range(100)]
        for number in range(1000):
            execution = number.to_bytes(16, "big")
            view = {"execution": execution.hex(), "submitted": float(number), "hosts": hosts}
            bus.kept[execution] = Keep(execution, float(number), 2.0, view)
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.LIST, Header(request=3), encode_json(all=True)))
        (answer,) = bus.to(b"O", Command.LISTING)
        fields = decode_json(answer.body)
        assert len(answer.body) <= MESSAGE_BYTES
        assert fields["more"]
        assert [view["submitted"] for view in fields["executions"][:2]] == [999.0, 998.0]


class TestFullQueues:
    @pytest.mark.parametrize("lost", [slice(0, None), slice(1, None), slice(2, None)])
    def test_what_did_not_leave_before_the_end_is_given_again_and_so_is_the_end(self, bus, lost):
        bus.submit()
        bus.say(b"A", put(RANK, LOG, 1, log("x")))
        bus.settle()
        bus.hello(b"O", "observer")
        bus.sent.clear()
        bus.say(b"O", Message(Command.READ, Header(request=7, execution=RUN), b"{}"))
        sent = [send.message for send in bus.sent]
        assert [message.command for message in sent] == [b"EVENTS", b"EVENTS", b"END"]
        bus.sent.clear()
        for message in sent[lost]:
            bus.give(Unsent(b"O", message, gone=False))
        bus.pass_time(1)
        again = [send.message for send in bus.sent if send.peer == b"O"]
        assert again == sent[lost]
        bus.sent.clear()
        bus.pass_time(2)
        assert bus.sent == []


class TestAgentsThatAreGone:
    def ended(self, bus):
        bus.submit()
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="node1")))
        bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="node1")))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="killed")))
        bus.settle()

    def test_an_executor_that_listens_does_not_wait_for_ever_for_agents_that_died_with_their_launcher(self, bus):
        self.ended(bus)
        bus.pass_time(LOST_S - 5, heard=(b"E",))
        assert bus.states() == ["RUNNING"]
        bus.pass_time(10, heard=(b"E",))
        assert bus.states() == ["RUNNING", "LOST"]

    def test_an_agent_that_still_delivers_is_waited_for(self, bus):
        self.ended(bus)
        bus.pass_time(3 * LOST_S, heard=(b"E", b"A"))
        assert bus.states() == ["RUNNING"]

    def test_a_broker_that_was_stalled_expires_nobody(self, bus):
        self.ended(bus)
        bus.now += 10 * LOST_S
        bus.pass_time(5, heard=(b"E",))
        assert bus.states() == ["RUNNING"]


class TestFloodsOfSignals:
    def test_one_message_has_a_bounded_number_of_records(self, bus):
        """A million empty ones in 2 MiB took ten seconds, and a million lines of the log."""
        bus.submit()
        header = Header(execution=RUN, channel=SIGNALS, source=AGENT, first=1, count=BATCH_EVENTS + 1)
        bus.say(b"A", Message(Command.PUT, header, b"\x1e\n" * header.count))
        assert bus.refusals(b"A") == ["too_large"]

    def test_malformed_signals_of_one_batch_are_one_line_of_the_log(self, bus):
        bus.submit()
        bus.notes.clear()
        bus.say(b"A", put(AGENT, SIGNALS, 1, *[b"\x1e{}\n"] * 100))
        bus.settle()
        (note,) = bus.notes
        assert note.fields["signals"] == 100

    def test_each_record_has_its_own_end(self, bus):
        bus.submit()
        bus.say(b"A", put(AGENT, SIGNALS, 1, b"\x1e", b"\x1e\n\n"))
        assert bus.refusals(b"A") == ["malformed"]


def test_the_conservation_record_of_very_many_streams_is_several(bus):
    """That of 10,000 ranks was larger than any message may be: no Executor would have heard of the end."""
    bus.submit()
    for rank in range(2000):
        for channel in (SIGNALS, LOG, Channel.STDOUT):
            bus.say(b"A", put(Source(SourceKind.RANK, rank), channel, 1, log("x")))
    bus.settle()
    bus.pass_time(LOST_S + 5)
    own = [batch for batch in bus.journal if batch.source == BROKER]
    assert max(len(batch.body) for batch in own) <= BATCH_BYTES
    assert max(len(text) for batch in own for text in split_body(batch.body)) < RECORD_BYTES
    *before, lost = bus.own_events()
    assert lost.state == "LOST"
    assert sum(len(event.streams) for event in before if isinstance(event, events.Conservation)) == 6001
    assert bus.kept[RUN].view["state"] == "LOST"


class TestFloodsOfReads:
    def test_a_peer_has_a_bounded_number_of_cursors(self, bus):
        """5000 READs of one peer kept another one waiting for seconds, and filled 1.9 GB with what was read."""
        bus.hello(b"O", "observer")
        for request in range(1, READS_PER_PEER + 3):
            bus.say(b"O", Message(Command.READ, Header(request=request), b'{"follow":true}'))
        assert bus.refusals(b"O") == ["busy"] * 2
        bus.say(b"O", Message(Command.CLOSE, Header(request=1)))
        bus.say(b"O", Message(Command.READ, Header(request=1000), b'{"follow":true}'))
        assert len(bus.refusals(b"O")) == 2

    def test_a_number_that_is_in_use_is_refused(self, bus):
        """What had been read for the first of them went to the second."""
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.READ, Header(request=1), b'{"follow":true,"channels":["log"]}'))
        bus.say(b"O", Message(Command.READ, Header(request=1), b'{"follow":true,"channels":["signals"]}'))
        assert bus.refusals(b"O") == ["malformed"]
