"""What an Executor and the broker say to one another, without a socket, a file or a clock."""

from __future__ import annotations

import pytest

from theorbo.executor.conversation import Conversation
from theorbo.executor.core import Phase, Supervisor
from theorbo.executor.own_records import OwnRecords, owner_of
from theorbo.executor.values import (
    CallHooks,
    EmptySpool,
    Finish,
    GiveUp,
    Launch,
    LauncherEnded,
    Remember,
    Report,
    Send,
    Tick,
    Wanted,
    Watching,
    WatchLauncher,
    Wish,
)
from theorbo.schemas import events
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import CONNECT_S, DRAIN_S, LAUNCHER_WORD_S, LOST_S, SILENT_S
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind, Speaker
from theorbo.schemas.records import encode_record

RUN = bytes(range(16))
RANK = Source(SourceKind.RANK, 0)
T0 = 1000.0
UNIX = 1_700_000_000.0


def record(event: events.EventBase) -> bytes:
    return encode_record(events.record_fields(event))


def submitted(**fields) -> events.ExecutionSubmitted:
    return events.ExecutionSubmitted(time=1.0, task="peaks", user="ada", host="lab", incarnation="one", **fields)


def log(text: str) -> events.Log:
    return events.Log(time=1.0, text=text)


def state(new: str, previous: str = "RUNNING") -> events.StateChanged:
    return events.StateChanged(time=1.0, state=new, previous=previous)


def attached(epoch: int, incarnation: str, number: int) -> events.ExecutorAttached:
    fields = {"epoch": epoch, "incarnation": incarnation, "number": number, "user": "bob", "host": "there"}
    return events.ExecutorAttached(time=1.0, **fields)


CANCEL = events.ControlRequested(time=1.0, action="cancel", by="ada@lab")


class Talk:
    """A conversation and the other side of it."""

    def __init__(self, epoch: int = 1, former: tuple[events.EventBase, ...] = (), *, submit: bool = True) -> None:
        self.now = T0
        supervisor = Supervisor(T0, by="ada@lab", time_s=UNIX - T0, attached=epoch > 1)
        speaker = Speaker(RUN, EXECUTOR, epoch, f"incarnation {epoch}")
        self.conversation = Conversation(
            speaker, supervisor, former=[record(event) for event in former], user="bob", host="there"
        )
        self.supervisor = supervisor
        self.out: list = []
        self.sent: list[Message] = []
        self.numbers: dict[tuple[Source, Channel], int] = {}
        if epoch == 1 and submit:
            self.conversation.offer(record(submitted()))

    def take(self, message: Message) -> list:
        return self.perform(self.conversation.take(message, self.now))

    def decide(self, stimulus) -> list:
        return self.perform(self.conversation.decide(stimulus, self.now))

    def perform(self, instructions: list) -> list:
        self.out = instructions
        for instruction in instructions:
            if isinstance(instruction, Report):
                self.conversation.offer(record(instruction.event))
        self.sent = [each.message for each in instructions if isinstance(each, Send)]
        self.put = self.conversation.outgoing(self.now)
        return instructions

    def welcome(self, journal: str = "the journal", since: float = 1.0, **fields) -> list:
        body = encode_json(broker=journal, since=since, **fields)
        return self.take(Message(Command.WELCOME, Header(time=UNIX), body))

    def ack(self, number: int) -> list:
        return self.take(Message(Command.ACK, Header(channel=Channel.SIGNALS, source=EXECUTOR, first=number)))

    def events(
        self,
        sequence: int,
        source: Source,
        channel: Channel,
        *given: events.EventBase,
        time: float = UNIX,
        first: int = 0,
    ) -> list:
        stream = source, channel
        first = first or self.numbers.get(stream, 0) + 1
        self.numbers[stream] = max(self.numbers.get(stream, 0), first + len(given) - 1)
        header = Header(
            request=self.conversation._read_request, execution=RUN, source=source, channel=channel,
            first=first, count=len(given), position=first, sequence=sequence, time=time,
        )  # fmt: skip
        return self.take(Message(Command.EVENTS, header, b"".join(map(record, given))))

    def end(self) -> list:
        return self.take(Message(Command.END, Header(request=self.conversation._read_request)))

    def look(self) -> Header:
        """What the READ for the launcher's last word was asked with."""
        (message,) = [each for each in self.sent if each.command == Command.READ]
        fields = decode_json(message.body)
        assert (fields["follow"], fields["channels"]) == (False, ["signals"])
        return message.header

    def end_of_look(self) -> list:
        return self.take(Message(Command.END, self.look()))

    def read(self) -> dict:
        """What the READ that was sent last says."""
        (message,) = [each for each in self.sent if each.command == Command.READ]
        return decode_json(message.body)

    def called(self) -> list[tuple[str, bool]]:
        return [(each.reported.id[-6:], each.reported.redelivered) for each in self.out if isinstance(each, CallHooks)]


def running() -> Talk:
    talk = Talk()
    talk.welcome()
    talk.ack(1)
    return talk


def test_the_submission_is_delivered_and_what_is_launched_is_read():
    talk = Talk()
    assert talk.welcome() == []
    (put,) = talk.put
    assert (put.command, put.header.source, put.header.first) == (Command.PUT, EXECUTOR, 1)
    assert [type(each) for each in talk.ack(1)] == [Send, Launch]
    assert talk.read() == {"follow": True, "after": 0, "channels": None, "credit": talk.read()["credit"]}


def test_credit_stands_behind_the_hooks_of_what_it_confirms():
    talk = running()
    out = talk.events(7, RANK, Channel.LOG, log("a"), log("b"))
    assert [type(each) for each in out] == [CallHooks, CallHooks, Send]
    assert (talk.sent[0].command, talk.sent[0].header.sequence) == (Command.CREDIT, 7)


def test_what_follows_a_let_go_in_its_batch_is_neither_given_nor_confirmed():
    talk = running()
    talk.supervisor._detach = True
    out = talk.events(7, BROKER, Channel.SIGNALS, state("RUNNING", "PENDING"), state("STOPPED"))
    assert [type(each) for each in out] == [CallHooks, Finish]
    assert talk.events(8, RANK, Channel.LOG, log("a")) == []


def test_the_final_state_is_confirmed():
    out = running().events(7, BROKER, Channel.SIGNALS, state("COMPLETED"))
    assert [type(each) for each in out] == [CallHooks, Finish, Send]


def test_after_a_broker_s_restart_it_reads_on_and_nothing_is_given_twice():
    talk = running()
    talk.events(7, RANK, Channel.LOG, log("a"))
    talk.welcome()
    assert talk.read()["after"] == 7
    talk.events(7, RANK, Channel.LOG, log("a"), first=1)
    assert talk.called() == []
    assert talk.sent[0].command == Command.CREDIT


def test_events_of_a_read_of_the_past_are_not_taken():
    talk = running()
    before = talk.conversation._read_request
    talk.welcome()
    late = Header(request=before, execution=RUN, source=RANK, channel=Channel.LOG, first=1, count=1, sequence=9)
    assert talk.take(Message(Command.EVENTS, late, record(log("a")))) == []
    talk.events(7, RANK, Channel.LOG, log("a"))
    assert talk.called() == [("/log/1", False)]


def test_to_another_journal_all_of_our_own_is_offered_again_before_anything_is_read():
    talk = running()
    talk.events(1, EXECUTOR, Channel.SIGNALS, submitted())
    talk.events(7, RANK, Channel.LOG, log("a"), log("b"))
    talk.events(8, BROKER, Channel.SIGNALS, state("RUNNING", "PENDING"))
    talk.welcome("another journal", accepted=0)
    assert talk.sent == []
    assert [put.header.first for put in talk.put] == [1]
    talk.ack(1)
    assert talk.read()["after"] == 8
    talk.events(1_000_000_007, RANK, Channel.LOG, log("a"), log("b"), log("c"), first=1)
    assert talk.called() == [("/log/3", False)]  # it had the others
    talk.events(1_000_000_008, BROKER, Channel.SIGNALS, state("FAILED"), first=1)
    assert talk.called() == [("nals/1", True)]  # the broker's own may say something else under the same number


def test_numbers_of_our_own_that_another_journal_does_not_have_are_closed_up():
    talk = Talk(2)
    talk.welcome(accepted=4)
    talk.events(5, EXECUTOR, Channel.SIGNALS, submitted(), CANCEL, CANCEL, CANCEL)
    talk.end()
    talk.welcome("another journal", accepted=2)
    assert [put.header.first for put in talk.put] == [3]


def test_a_submission_that_is_refused_is_an_error_and_so_is_a_journal_that_does_not_know_it():
    refused = Message(Command.REFUSED, Header(), encode_json(code="malformed", message="no"))
    with pytest.raises(Refused, match="refuses the submission"):
        Talk().take(refused)
    talk = running()
    unknown = Header(request=talk.conversation._read_request)
    with pytest.raises(Refused, match="another journal than before"):
        talk.take(Message(Command.REFUSED, unknown, encode_json(code="unknown_execution", message="")))


def test_whoever_is_fenced_lets_go_and_says_nothing_more():
    talk = running()
    (finish,) = talk.take(Message(Command.REFUSED, Header(), encode_json(code="fenced", message="epoch 2")))
    assert (finish.fenced, finish.reason) == (True, "another Executor has taken over")
    talk.conversation.offer(record(CANCEL))
    assert talk.conversation.outgoing(T0 + 100) == []
    assert talk.events(9, RANK, Channel.LOG, log("a")) == []


# --- attaching -----------------------------------------------------------------------------------------


def attach(*, confirmed: int, given: int, former: tuple[events.EventBase, ...] = (), **fields) -> Talk:
    """An execution with a launcher, a line and a result, in which sequences are 1, 2, 3 … 5."""
    talk = Talk(2, former)
    talk.welcome(accepted=1, confirmed=confirmed, given=given)
    assert talk.read() == {
        "follow": False, "after": 0, "channels": ["signals", "results"], "credit": talk.read()["credit"],
    }  # fmt: skip
    talk.recalled = []
    talk.recalled += talk.events(1, EXECUTOR, Channel.SIGNALS, submitted(**fields), time=UNIX - 30)
    talk.recalled += talk.events(2, LAUNCHER, Channel.SIGNALS, events.LauncherStarted(time=1.0, host="lab", agents=1))
    talk.recalled += talk.events(4, RANK, Channel.RESULTS, events.Result(time=1.0, name="first"))
    talk.recalled += talk.events(5, BROKER, Channel.SIGNALS, state("RUNNING", "PENDING"))
    return talk


def test_what_was_confirmed_is_recalled_without_hooks_and_the_rest_is_given_and_marked():
    talk = attach(confirmed=4, given=6)
    assert not any(isinstance(each, CallHooks) for each in talk.recalled)
    assert [each.reported.name for each in talk.recalled if isinstance(each, Remember)] == ["first"]
    confirmed = [each.message.header.sequence for each in talk.recalled if isinstance(each, Send)]
    assert confirmed == [1, 2, 4, 4], "credit confirms no more than the former one did"
    talk.end()
    assert talk.read()["after"] == 4
    assert talk.conversation.submission.task == "peaks"
    talk.events(5, BROKER, Channel.SIGNALS, state("RUNNING", "PENDING"), first=1)
    assert talk.called() == [("nals/1", True)]
    talk.events(7, RANK, Channel.LOG, log("new"))
    assert talk.called() == [("/log/1", False)]


def test_where_ranks_run_is_known_to_whoever_attaches():
    talk = attach(confirmed=6, given=6)
    recalled = talk.events(6, RANK, Channel.SIGNALS, events.RankStarted(time=1.0, host="node7", pid=42))
    (remembered,) = [each.reported for each in recalled if isinstance(each, Remember)]
    assert (remembered.rank, remembered.host, remembered.event.pid) == (0, "node7", 42)


def test_what_is_not_confirmed_is_no_result_yet():
    talk = attach(confirmed=3, given=3)
    assert not any(isinstance(each, Remember) for each in talk.recalled)


def test_it_says_that_it_has_attached_and_watches_the_launcher():
    talk = attach(confirmed=5, given=5)
    out = talk.end()
    (report,) = [each.event for each in out if isinstance(each, Report)]
    assert (report.epoch, report.incarnation, report.number, report.user) == (2, "incarnation 2", 2, "bob")
    assert [each.launched.host for each in out if isinstance(each, WatchLauncher)] == ["lab"]
    assert [put.header.first for put in talk.put] == [2]


def test_what_the_former_had_written_and_not_delivered_goes_first():
    talk = attach(confirmed=5, given=5, former=(submitted(), CANCEL))
    out = talk.end()
    (report,) = [each.event for each in out if isinstance(each, Report)]
    assert report.number == 3
    assert not any(isinstance(each, EmptySpool) for each in out)
    (put,) = talk.put
    assert put.body == record(submitted()) + record(CANCEL) + record(report)


@pytest.mark.parametrize("end", [Wanted(Wish.INTERRUPT, ""), Tick(CONNECT_S, "")])
def test_what_the_former_had_not_delivered_is_kept_when_attaching_ends_too_early(end):
    talk = attach(confirmed=5, given=5, former=(submitted(), CANCEL))
    assert not talk.conversation.spool_done
    assert isinstance(talk.decide(end)[-1], Finish | GiveUp)
    assert not talk.conversation.spool_done
    talk = attach(confirmed=5, given=5, former=(submitted(), CANCEL))
    talk.end()
    assert not talk.conversation.spool_done
    talk.ack(3)
    assert talk.conversation.spool_done


def test_a_spool_that_was_overtaken_elsewhere_is_emptied():
    talk = Talk(4, (submitted(), CANCEL))
    talk.welcome(accepted=2, confirmed=2, given=2)
    talk.events(1, EXECUTOR, Channel.SIGNALS, submitted(), attached(3, "three", 2))
    out = talk.end()
    assert isinstance(out[0], EmptySpool)
    (report,) = [each.event for each in out if isinstance(each, Report)]
    assert report.number == 3
    assert [put.header.first for put in talk.put] == [3]


def test_what_was_accepted_and_is_damaged_in_the_journal_is_not_waited_for():
    talk = Talk(2)
    talk.welcome(accepted=2, confirmed=0, given=0)
    lost = events.Loss(time=1.0, stream="executor/signals", first=2, last=2, count=1, detail="damaged in the journal")
    talk.events(1, EXECUTOR, Channel.SIGNALS, submitted())
    talk.events(2, BROKER, Channel.SIGNALS, lost)
    assert [each.event.number for each in talk.end() if isinstance(each, Report)] == [3]


def test_what_was_accepted_and_is_not_on_disk_yet_is_waited_for():
    talk = Talk(2)
    talk.welcome(accepted=2, confirmed=0, given=0)
    talk.events(1, EXECUTOR, Channel.SIGNALS, submitted())
    assert talk.end() == []
    talk.decide(Tick(0.0))
    assert talk.read()["after"] == 1
    talk.events(2, EXECUTOR, Channel.SIGNALS, CANCEL)
    assert [type(each) for each in talk.end()] == [Report, Send]


def test_a_broker_that_is_restarted_meanwhile_is_read_on():
    talk = attach(confirmed=4, given=6)
    talk.welcome(accepted=1, confirmed=2, given=8)
    assert (talk.read()["follow"], talk.read()["after"]) == (False, 5)
    talk.end()
    assert talk.read()["after"] == 2
    talk.events(8, RANK, Channel.LOG, log("a"))
    assert talk.called() == [("/log/1", True)]


@pytest.mark.parametrize("confirmed", [5, 6])
def test_of_an_execution_that_has_ended_nothing_is_reported(confirmed):
    talk = attach(confirmed=confirmed, given=6)
    talk.events(6, BROKER, Channel.SIGNALS, state("COMPLETED"), time=UNIX - 10)
    out = talk.end()
    assert not any(isinstance(each, Report) for each in out)
    if confirmed == 5:
        assert talk.read()["after"] == 5
        out = talk.events(6, BROKER, Channel.SIGNALS, state("COMPLETED"), first=2, time=UNIX - 10)
        assert talk.called() == [("nals/2", True)]
    (finish,) = [each for each in out if isinstance(each, Finish)]
    assert finish.state == "COMPLETED"
    assert talk.conversation.duration_s(UNIX + 500) == pytest.approx(20)


def test_the_time_limit_goes_on_from_the_launch_by_the_broker_s_clock():
    talk = attach(confirmed=5, given=5, time_limit_s=40.0)
    talk.end()
    assert talk.conversation.deadline == pytest.approx(T0 + 10)
    talk.now = T0 + 10
    (report,) = [each.event for each in talk.decide(Tick(0.0)) if isinstance(each, Report)]
    assert report.cause == "time_limit"


@pytest.mark.parametrize(
    ("source", "word", "limited"),
    [
        (EXECUTOR, events.LauncherGone(time=1.0, reason="killed"), True),
        (LAUNCHER, events.LauncherEnded(time=1.0, exit_code=0), False),
        (BROKER, state("LOST"), False),
    ],
)
def test_the_time_limit_goes_on_where_ranks_may_have_outlived_their_launcher_and_only_there(source, word, limited):
    talk = attach(confirmed=5, given=5, time_limit_s=40.0)
    talk.events(6, source, Channel.SIGNALS, word)
    talk.end()
    talk.decide(Tick(0.0, ""))
    assert not any(isinstance(each, Report) for each in talk.out)
    talk.now = T0 + 10.5
    talk.decide(Tick(0.0, ""))
    asked = [each.event for each in talk.out if isinstance(each, Report)]
    assert [(each.kind, each.cause) for each in asked] == [("control_requested", "time_limit")] * limited


def test_what_a_former_executor_asked_for_counts():
    talk = attach(confirmed=5, given=5, former=(submitted(),), grace_s=3.0)
    talk.events(6, EXECUTOR, Channel.SIGNALS, CANCEL)
    talk.end()
    (report,) = [each.event for each in talk.decide(Wanted(Wish.INTERRUPT, "")) if isinstance(each, Report)]
    assert (report.action, report.grace_s) == ("kill", 3.0)


def test_a_cancellation_waits_until_it_is_known_what_there_is_and_an_interrupt_lets_go():
    talk = attach(confirmed=5, given=5)
    assert talk.decide(Wanted(Wish.CANCEL, "enough")) == []
    reported = [each.event.kind for each in talk.end() if isinstance(each, Report)]
    assert reported == ["executor_attached", "control_requested"]
    (finish,) = attach(confirmed=5, given=5).decide(Wanted(Wish.INTERRUPT, ""))
    assert (finish.state.final, finish.interrupted) == (False, True)


def test_a_launcher_that_cannot_be_watched_is_gone_when_no_agent_is_heard():
    talk = attach(confirmed=5, given=5)
    talk.end()

    def listing(**contact) -> list:
        (asked,) = [each for each in talk.sent if each.command == Command.LIST]
        header = Header(request=asked.header.request)
        return talk.take(Message(Command.LISTING, header, encode_json(executions=[{"contact": contact}])))

    talk.now += SILENT_S
    talk.decide(Tick(0.0))
    listing(**{"executor": "alive", "agent:0": "suspect"})
    talk.now += LOST_S
    assert not any(isinstance(each, Report) for each in talk.decide(Tick(0.0)))
    listing(**{"executor": "alive", "agent:0": "silent"})
    talk.now += LOST_S
    talk.decide(Tick(0.0))
    (report,) = [each.event for each in talk.end_of_look() if isinstance(each, Report)]
    assert report.reason == "the launcher on lab cannot be watched from here, and no agent was heard for 120 s"
    assert not talk.supervisor.blind


@pytest.mark.parametrize("silent_s", [CONNECT_S])
def test_a_broker_that_does_not_tell_what_there_was_is_not_waited_for(silent_s):
    talk = Talk(2)
    talk.welcome()
    talk.decide(Tick(silent_s))
    assert talk.supervisor.phase is Phase.OVER


def test_when_it_is_not_known_whose_record_has_our_number_it_is_said_again_behind_it():
    talk = attach(confirmed=5, given=5)
    talk.end()
    talk.decide(Wanted(Wish.CANCEL, "enough"))
    talk.welcome(accepted=2, since=2.0)  # the broker was killed, and somebody has said number 2
    reported = [each.event for each in talk.out if isinstance(each, Report)]
    assert [event.kind for event in reported] == ["executor_attached", "control_requested"]
    assert reported[0].number == 3
    assert [put.header.first for put in talk.put] == [3]
    talk.ack(4)
    talk.welcome(accepted=4, since=3.0)
    assert not any(isinstance(each, Report) for each in talk.out)


def test_a_broker_that_says_welcome_twice_has_our_number_from_us():
    talk = attach(confirmed=5, given=5)
    talk.end()
    talk.welcome(accepted=2)  # two HELLOs have crossed: it has taken our number 2 in between
    assert not any(isinstance(each, Report) for each in talk.out)


def lost(first: int, last: int) -> events.Loss:
    return events.Loss(time=1.0, stream="executor/signals", count=last - first + 1, first=first, last=last, detail="")


def test_a_request_that_was_damaged_in_the_journal_is_made_again_once():
    talk = Talk()
    talk.welcome()
    talk.ack(1)
    talk.decide(Wanted(Wish.CANCEL, "enough"))
    talk.events(2, BROKER, Channel.SIGNALS, lost(1, 2))
    (again,) = [each.event for each in talk.out if isinstance(each, Report)]
    assert (again.kind, again.action, again.reason) == ("control_requested", "cancel", "enough")
    assert [put.header.first for put in talk.put] == [3]
    talk.events(3, BROKER, Channel.SIGNALS, lost(1, 2))
    assert not any(isinstance(each, Report) for each in talk.out)  # it is said already, behind what was lost
    talk.events(4, BROKER, Channel.SIGNALS, lost(3, 3))
    assert [each.event for each in talk.out if isinstance(each, Report)] == [again]


def test_what_the_former_may_have_been_given_before_our_takeover_was_on_disk_is_marked():
    talk = attach(confirmed=5, given=5)
    talk.end()
    talk.welcome(accepted=1, confirmed=6, given=6)  # the broker was killed, and listened to the former one again
    talk.ack(2)
    talk.events(6, RANK, Channel.LOG, log("given to the former one"))
    assert talk.called() == [("/log/1", True)]
    talk.welcome(accepted=2, confirmed=6, given=7)  # now it knows us: what it gave, it gave to us
    talk.events(7, RANK, Channel.LOG, log("new"), first=2)
    assert talk.called() == [("/log/2", False)]


def test_an_executor_that_is_behind_finds_the_launchers_last_word_in_the_journal():
    talk = attach(confirmed=5, given=5)
    talk.end()
    talk.decide(Watching())
    talk.decide(LauncherEnded(None))
    talk.now += LAUNCHER_WORD_S
    talk.decide(Tick(0.0))
    asked = talk.look()
    talk.events(6, RANK, Channel.LOG, log("one of many that wait"))
    ended = events.LauncherEnded(time=1.0, exit_code=0)
    header = asked._replace(channel=Channel.SIGNALS, source=LAUNCHER, first=2, count=1, position=9, sequence=900)
    talk.take(Message(Command.EVENTS, header, record(ended)))
    assert [(each.command, each.header.sequence) for each in talk.sent] == [(Command.CREDIT, 6)]
    talk.take(Message(Command.END, asked))
    talk.now += LAUNCHER_WORD_S
    assert talk.decide(Tick(0.0)) == []
    talk.events(900, LAUNCHER, Channel.SIGNALS, ended, first=2)
    assert talk.called() == [("nals/2", False)], "it is heard in its turn"


def test_the_look_for_the_last_word_is_repeated_when_the_broker_was_restarted():
    talk = running()
    talk.decide(LauncherEnded(0))
    talk.now += LAUNCHER_WORD_S
    talk.decide(Tick(0.0))
    before = talk.look()
    assert talk.decide(Tick(0.0)) == []
    talk.welcome(accepted=1)
    talk.decide(Tick(0.0))
    assert talk.take(Message(Command.END, before)) == []
    talk.now += LAUNCHER_WORD_S
    busy = Message(
        Command.REFUSED, Header(request=talk.conversation._word_request), encode_json(code="busy", message="later")
    )
    assert talk.take(busy) == []
    talk.decide(Tick(0.0))
    assert [each.event.kind for each in talk.end_of_look() if isinstance(each, Report)] == ["launcher_gone"]


def test_what_another_journal_brings_of_streams_not_seen_since_attaching_is_marked():
    talk = attach(confirmed=5, given=5)
    talk.end()
    talk.events(6, RANK, Channel.LOG, log("new"))
    assert talk.called() == [("/log/1", False)]
    talk.welcome("another journal", accepted=2)
    talk.ack(3)
    talk.events(1_000_000_007, RANK, Channel.RESULTS, events.Result(time=1.0, name="first"), first=1)
    assert talk.called() == [("ults/1", True)], "the former Executor may have had it"
    talk.events(1_000_000_008, RANK, Channel.LOG, log("new"), log("newer"), first=1)
    assert talk.called() == [("/log/2", False)]


# --- the records of a spool -------------------------------------------------------------------------------


def test_records_are_numbered_by_their_place_and_by_what_an_attached_executor_says():
    own = OwnRecords([record(event) for event in (submitted(), CANCEL)])
    assert (own.base, own.next_number) == (0, 3)
    elsewhere = OwnRecords([record(event) for event in (attached(3, "three", 7), CANCEL)])
    assert (elsewhere.base, elsewhere.next_number) == (6, 9)
    with_gap = OwnRecords([record(event) for event in (submitted(), attached(2, "two", 4), CANCEL)])
    assert (with_gap.base, len(with_gap.records)) == (3, 2)


def test_the_owner_of_a_spool_is_who_wrote_to_it_last():
    assert owner_of([]) == 0
    assert owner_of([record(submitted()), record(CANCEL)]) == 1
    assert owner_of([record(submitted()), record(attached(4, "four", 2)), b"\x1enonsense\n"]) == 4


def test_an_attached_executor_that_has_heard_the_launchers_end_gives_up_some_time():
    """It cannot see the launcher's process: without this it would wait for ever for a broker that has gone."""
    talk = attach(confirmed=5, given=5)
    talk.end()
    ended = events.LauncherEnded(time=1.0, exit_code=0)
    talk.events(9, LAUNCHER, Channel.SIGNALS, ended, first=2)
    talk.now += DRAIN_S / 2
    talk.decide(Tick(DRAIN_S / 2))
    assert talk.supervisor.phase is Phase.SUPERVISING
    talk.now += DRAIN_S
    assert isinstance(talk.decide(Tick(DRAIN_S * 1.5))[-1], GiveUp)
