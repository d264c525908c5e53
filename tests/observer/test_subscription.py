"""The observer's half of the conversation, message by message."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from theorbo.observer.filters import Filter
from theorbo.observer.subscription import Subscription
from theorbo.observer.values import (
    Batch,
    Finished,
    Missed,
    Snapshot,
    Subscribe,
    Unsubscribe,
)
from theorbo.schemas.errors import ProtocolError, Refused
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import ANSWER_S, LISTING_ROWS, REPAIR_CREDIT_BYTES, SUSPECT_S
from theorbo.schemas.names import BROKER, Channel, Source, SourceKind, topic
from theorbo.schemas.records import encode_record

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
NAMES = {"task": "galaxies", "experiment": "mfx1", "run": "12"}


def view(execution: bytes = A, state: str = "RUNNING", **heads: int) -> dict[str, Any]:
    return {"execution": execution.hex(), **NAMES, "state": state, "heads": heads}


def live(position: int, execution: bytes = A, channel: Channel = Channel.LOG, **fields: Any) -> Message:
    header = Header(
        execution=execution, channel=channel, source=Source(SourceKind.RANK, 0), first=position, count=1,
        position=position, sequence=1000 + position,
    )  # fmt: skip
    name = topic(channel, "mfx1", "12", "galaxies", execution.hex())
    return Message(name, header, encode_record({"kind": "log", "time": 1.0, "text": str(position), **fields}))


def state_changed(position: int, state: str) -> Message:
    fields = {"kind": "state_changed", "state": state, "previous": "RUNNING"}
    message = live(position, channel=Channel.SIGNALS, **fields)
    return message._replace(header=message.header._replace(source=BROKER))


def beacon(broker: str = "one", **heads: dict[str, int]) -> Message:
    named = {name.encode().hex() * 16: channels for name, channels in heads.items()}
    return Message(b"beacon/", Header(), encode_json(broker=broker, time=1.0, heads=named))


class Peer:
    """The broker's side, as far as a test spells it out."""

    def __init__(self, wanted: Filter | None = None, **options: Any) -> None:
        self.now = 0.0
        self.reading = 0  # request of the READ of the past
        self.subscription = Subscription(
            wanted or Filter(), map(str, itertools.count(1)).__next__, itertools.count(1).__next__, **options
        )
        self.out: list[Any] = []
        self.take(self.subscription.join("one", self.now))

    def take(self, instructions: list[Any]) -> list[Any]:
        self.out = instructions
        return instructions

    def publish(self, message: Message) -> list[Any]:
        return self.take(self.subscription.published(message, self.now))

    def answer(self, command: bytes, header: Header, **fields: Any) -> list[Any]:
        return self.take(self.subscription.answered(Message(command, header, encode_json(**fields)), self.now))

    def sent(self, command: bytes) -> list[Message]:
        return [item for item in self.out if isinstance(item, Message) and item.command == command]

    def nonce(self) -> bytes:
        return next(item.topic for item in self.out if isinstance(item, Subscribe) and item.topic[:6] == b"nonce/")

    def confirm(self) -> Peer:
        """Answer both nonces, until LIST is sent."""
        self.publish(Message(self.nonce()))
        self.publish(Message(self.nonce()))
        return self

    def list(self, *views: dict[str, Any], sequence: int = 1000) -> list[Any]:
        header = self.sent(Command.LIST)[0].header
        return self.answer(Command.LISTING, header._replace(sequence=sequence), executions=list(views))


def events(instructions: list[Any]) -> list[tuple[bytes, int]]:
    return [(item.header.execution, item.header.position) for item in instructions if isinstance(item, Batch)]


def test_joining_subscribes_first_and_lists_when_that_is_active_for_certain():
    peer = Peer(Filter.of(experiment="mfx1", channels=["log"]))
    first = peer.nonce()
    assert {item.topic for item in peer.out} == {b"signals/mfx1/", b"log/mfx1/", b"beacon/", first}
    peer.publish(Message(first))
    assert Unsubscribe(first) in peer.out
    assert not peer.sent(Command.LIST)
    peer.publish(Message(first))
    assert peer.out == []
    peer = Peer(Filter.of(experiment="mfx1")).confirm()
    assert decode_json(peer.sent(Command.LIST)[0].body) == {"all": True, "limit": LISTING_ROWS, "experiment": "mfx1"}


def test_the_snapshot_comes_first_then_what_came_meanwhile_and_is_not_in_it():
    peer = Peer().confirm()
    request = peer.out
    assert events(peer.publish(live(3)) + peer.publish(live(4))) == []
    peer.out = request
    out = peer.list(view(A, log=3), view(B, "COMPLETED", log=7))
    snapshot = next(item for item in out if isinstance(item, Snapshot))
    assert [item["execution"] for item in snapshot.views] == [A.hex()]
    assert events(out[out.index(snapshot) :]) == [(A, 4)]
    assert events(peer.publish(live(5))) == [(A, 5)]


def test_a_named_execution_is_in_the_snapshot_even_if_it_has_ended():
    peer = Peer(Filter.of(execution=A.hex()), until_ended=True).confirm()
    out = peer.list(view(A, "COMPLETED", log=3))
    assert any(isinstance(item, Snapshot) and len(item.views) == 1 for item in out)
    assert out[-1] == Finished()


def test_a_full_listing_is_followed_by_one_of_the_open_executions():
    peer = Peer().confirm()
    many = [view(number.to_bytes(16, "big"), "COMPLETED", log=1) for number in range(LISTING_ROWS)]
    peer.list(*many)
    assert decode_json(peer.sent(Command.LIST)[0].body)["all"] is False
    out = peer.list(view(A, log=3))
    assert [item["execution"] for item in next(i for i in out if isinstance(i, Snapshot)).views] == [A.hex()]


def test_a_gap_is_read_with_credit_that_is_renewed_when_half_of_it_is_used():
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.publish(live(20))
    read = peer.sent(Command.READ)[0]
    wish = decode_json(read.body)
    assert wish == {"channel": "log", "first": 4, "last": 19, "credit": REPAIR_CREDIT_BYTES}
    credited = []
    for position in range(4, 20):
        batch = live(position, text="x" * 60_000)
        header = batch.header._replace(request=read.header.request)
        out = peer.take(peer.subscription.answered(Message(Command.EVENTS, header, batch.body), 0.0))
        assert events(out)[0] == (A, position)
        credited += [(message.header.count, message.header.sequence) for message in peer.sent(Command.CREDIT)]
    assert events(out) == [(A, 19), (A, 20)]
    size = len(live(4, text="x" * 60_000).body)
    assert [sequence for _, sequence in credited] == [1012]
    assert REPAIR_CREDIT_BYTES // 2 <= credited[0][0] < REPAIR_CREDIT_BYTES // 2 + size + 10


def test_a_gap_that_is_refused_is_told():
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.publish(live(6))
    read = peer.sent(Command.READ)[0]
    out = peer.answer(Command.REFUSED, read.header, code="unknown_execution", message="it is forgotten")
    missed = next(item for item in out if isinstance(item, Missed))
    assert missed[1:] == (Channel.LOG, 4, 5, "it is forgotten")
    assert events(out) == [(A, 6)]


@pytest.mark.parametrize("code", ["busy", "journal"])
def test_a_gap_that_cannot_be_read_now_is_asked_for_again_and_is_no_loss(code):
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.publish(live(6))
    read = peer.sent(Command.READ)[0]
    assert peer.answer(Command.REFUSED, read.header, code=code, message="later") == []
    peer.take(peer.subscription.tick(ANSWER_S + 1))
    assert len(peer.sent(Command.READ)) == 1


def test_an_execution_that_only_the_beacon_names_is_asked_for_and_read_from_its_beginning():
    peer = Peer(Filter.of(task="galaxies")).confirm()
    peer.list()
    peer.publish(beacon(b={"log": 2}, c={"log": 9}))
    asked = {message.header.execution: message.header for message in peer.sent(Command.LIST)}
    assert asked.keys() == {B, C}
    peer.answer(Command.LISTING, asked[C], executions=[{**view(C, log=9), "task": "peaks"}])
    assert not peer.sent(Command.READ)
    peer.answer(Command.LISTING, asked[B], executions=[view(B, log=2)])
    assert {"first": 1, "last": 2}.items() <= decode_json(peer.sent(Command.READ)[0].body).items()
    assert peer.publish(beacon(b={"log": 2}, c={"log": 10})) == []


def test_after_a_silence_of_the_beacon_everything_is_listed_again_and_nothing_comes_twice():
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.now = SUSPECT_S + 1
    peer.publish(beacon(a={"log": 4}))
    assert len(peer.sent(Command.READ)) == 1  # what it names is not left for later
    peer.confirm()
    out = peer.list(view(A, log=4), view(B, "COMPLETED", log=2))
    assert not any(isinstance(item, Snapshot) for item in out)
    assert [message.header.execution for message in peer.sent(Command.READ)] == [B]


def test_a_restarted_broker_is_asked_again_for_what_was_under_way():
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.publish(live(6))
    old = peer.sent(Command.READ)[0].header.request
    peer.answer(Command.WELCOME, Header(), broker="one")
    assert peer.sent(Command.READ)[0].header.request != old
    assert peer.nonce()


def test_a_broker_with_another_journal_begins_everything_again():
    peer = Peer().confirm()
    peer.list(view(A, log=3))
    peer.answer(Command.WELCOME, Header(), broker="two")
    out = peer.confirm().list(view(A, log=1))
    assert any(isinstance(item, Snapshot) for item in out)
    assert events(peer.publish(live(2))) == [(A, 2)]
    assert peer.publish(beacon("one", a={"log": 50})) == []


def test_the_latest_are_never_read_from_the_journal():
    peer = Peer(policy="latest").confirm()
    peer.list(view(A, log=3))
    out = peer.publish(live(6))
    missed = next(item for item in out if isinstance(item, Missed))
    assert missed[1:4] == (Channel.LOG, 4, 5)
    assert events(out) == [(A, 6)]
    assert not peer.sent(Command.READ)
    assert any(isinstance(item, Missed) for item in peer.publish(beacon(a={"log": 9})))


def past(peer: Peer, position: int, sequence: int, execution: bytes = A) -> list[Any]:
    """An answer to the READ of the past."""
    batch = live(position, execution)
    header = batch.header._replace(request=peer.reading, sequence=sequence)
    return peer.take(peer.subscription.answered(Message(Command.EVENTS, header, batch.body), peer.now))


def since(**options: Any) -> Peer:
    """Joined, with the past of A up to position 3 asked for."""
    peer = Peer(since=17.0, **options).confirm()
    out = peer.list(view(A, log=3))
    assert not any(isinstance(item, Snapshot) for item in out)
    (read,) = peer.sent(Command.READ)
    peer.reading = read.header.request
    assert decode_json(read.body)["since"] == 17.0
    return peer


def test_the_past_comes_before_the_snapshot_and_what_follows_after_it():
    peer = since()
    assert events(peer.publish(live(4)) + peer.publish(beacon(a={"log": 4}))) == []
    assert events(past(peer, 2, 900)) == [(A, 2)]
    assert events(past(peer, 3, 901)) == [(A, 3)]
    out = peer.answer(Command.END, Header(request=peer.reading))
    assert isinstance(out[0], Snapshot)
    assert events(out) == [(A, 4)]
    assert events(peer.publish(live(5))) == [(A, 5)]


@pytest.mark.parametrize(
    ("others", "seen", "finished"), [([], True, True), ([view(B)], True, False), ([], False, False)]
)
def test_until_ended_is_content_with_the_past_if_nothing_that_it_has_seen_goes_on(others, seen, finished):
    peer = Peer(since=17.0, until_ended=True).confirm()
    peer.list(view(A, "COMPLETED", log=3), *others)
    peer.reading = peer.sent(Command.READ)[0].header.request
    if seen:
        assert events(past(peer, 3, 901)) == [(A, 3)]
    out = peer.answer(Command.END, Header(request=peer.reading))
    assert (out[-1] == Finished()) == finished


def test_in_the_past_an_unknown_execution_is_asked_for_and_left_out_if_it_is_not_wanted():
    peer = since(wanted=Filter.of(task="galaxies"))
    past(peer, 1, 900, B)
    (asked,) = peer.sent(Command.LIST)
    assert asked.header.execution == B
    assert events(peer.answer(Command.LISTING, asked.header, executions=[view(B, "COMPLETED", log=1)])) == [(B, 1)]
    past(peer, 1, 901, C)
    (asked,) = peer.sent(Command.LIST)
    foreign = {**view(C, "COMPLETED", log=1), "task": "peaks"}
    assert events(peer.answer(Command.LISTING, asked.header, executions=[foreign])) == []
    past(peer, 1, 902, b"d" * 16)
    (asked,) = peer.sent(Command.LIST)
    peer.answer(Command.REFUSED, asked.header, code="unknown_execution", message="retention has removed it")
    assert any(isinstance(item, Snapshot) for item in peer.answer(Command.END, Header(request=peer.reading)))


def test_a_broker_that_is_restarted_while_the_past_is_read_is_asked_for_the_rest():
    peer = since()
    past(peer, 2, 900)
    peer.answer(Command.WELCOME, Header(), broker="one")
    peer.confirm()
    peer.list(view(A, log=4), sequence=1100)
    (read,) = peer.sent(Command.READ)
    assert decode_json(read.body)["after"] == 900
    peer.reading = read.header.request
    assert events(past(peer, 3, 901) + past(peer, 4, 1001)) == [(A, 3), (A, 4)]
    assert isinstance(peer.answer(Command.END, Header(request=peer.reading))[0], Snapshot)


def test_a_broker_with_another_journal_gives_another_snapshot_and_not_the_past_again():
    peer = since()
    past(peer, 3, 901)
    peer.answer(Command.END, Header(request=peer.reading))
    peer.answer(Command.WELCOME, Header(), broker="two")
    out = peer.confirm().list(view(A, log=1))
    assert any(isinstance(item, Snapshot) for item in out)
    assert not peer.sent(Command.READ)


def test_a_broker_with_another_journal_while_the_past_is_read_is_asked_for_the_rest_of_it():
    peer = since()
    past(peer, 2, 901)
    peer.answer(Command.WELCOME, Header(), broker="two")
    peer.confirm()
    peer.list(view(A, log=2), sequence=1_000_000_950)
    (read,) = peer.sent(Command.READ)
    assert decode_json(read.body)["after"] == 901
    peer.reading = read.header.request
    assert events(past(peer, 2, 1_000_000_901)) == [(A, 2)]  # it was given again: an observer starts anew
    out = peer.answer(Command.END, Header(request=peer.reading))
    assert isinstance(out[0], Snapshot)


def test_a_past_that_cannot_be_read_now_is_asked_for_again():
    peer = since()
    peer.answer(Command.REFUSED, Header(request=peer.reading), code="busy", message="later")
    peer.take(peer.subscription.tick(ANSWER_S + 1))
    assert len(peer.sent(Command.READ)) == 1


def test_a_past_that_cannot_be_read_is_an_error():
    peer = since()
    with pytest.raises(Refused, match="not yours"):
        peer.answer(Command.REFUSED, Header(request=peer.reading), code="not_allowed", message="not yours")


@pytest.mark.parametrize("lost", ["first nonce", "second nonce", "listing"])
def test_a_lost_answer_begins_the_joining_again(lost):
    peer = Peer()
    if lost != "first nonce":
        peer.publish(Message(peer.nonce()))
    if lost == "listing":
        peer.publish(Message(peer.nonce()))
    peer.take(peer.subscription.tick(ANSWER_S + 1))
    assert any(isinstance(item, Snapshot) for item in peer.confirm().list(view(A, log=1)))


@pytest.mark.parametrize("policy", ["latest", "complete"])
def test_until_ended_asks_when_the_end_may_be_among_what_was_missed(policy):
    peer = Peer(until_ended=True, policy=policy).confirm()
    peer.list(view(signals=3))
    out = peer.publish(beacon(a={"signals": 5}))
    if policy == "complete":
        out = peer.answer(Command.REFUSED, peer.sent(Command.READ)[0].header, code="unknown_command", message="")
    assert [(item.first, item.last) for item in out if isinstance(item, Missed)] == [(4, 5)]
    (asked,) = peer.sent(Command.LIST)
    peer.answer(Command.LISTING, asked.header, executions=[view(signals=5)])
    assert Finished() not in peer.out, "it was something else"
    peer.publish(beacon(a={"signals": 6}))
    (asked,) = peer.sent(Command.LIST)
    peer.answer(Command.LISTING, asked.header, executions=[view(A, "COMPLETED", signals=6)])
    if policy == "complete":
        assert Finished() not in peer.out
        peer.publish(state_changed(6, "COMPLETED"))
        (asked,) = peer.sent(Command.LIST)
        peer.answer(Command.LISTING, asked.header, executions=[view(A, "COMPLETED", signals=6)])
    assert Finished() in peer.out


@pytest.mark.parametrize("named", [True, False])
def test_until_ended_does_not_wait_for_what_retention_has_removed_meanwhile(named):
    peer = Peer(Filter.of(execution=A.hex() if named else None), until_ended=True).confirm()
    peer.list(view(signals=3))
    peer.take(peer.subscription.join("one", peer.now))
    peer.confirm()
    peer.list()
    (asked,) = peer.sent(Command.LIST)
    if named:
        with pytest.raises(Refused, match="retention has removed it"):
            peer.answer(Command.REFUSED, asked.header, code="unknown_execution", message="")
    else:
        assert Finished() in peer.answer(Command.REFUSED, asked.header, code="unknown_execution", message="")


def test_until_ended_finds_the_end_of_what_is_too_old_for_the_list():
    peer = Peer(until_ended=True).confirm()
    peer.list(view(signals=3))
    peer.take(peer.subscription.join("one", peer.now))
    peer.confirm()
    peer.list()
    (asked,) = peer.sent(Command.LIST)
    assert Finished() in peer.answer(Command.LISTING, asked.header, executions=[view(A, "COMPLETED", signals=3)])


def test_until_ended_waits_for_the_events_that_are_still_missing():
    peer = Peer(until_ended=True).confirm()
    peer.list(view(A, log=3, signals=4))
    peer.publish(state_changed(5, "COMPLETED"))
    header = peer.sent(Command.LIST)[0].header
    out = peer.answer(Command.LISTING, header, executions=[view(A, "COMPLETED", log=4, signals=5)])
    assert Finished() not in out
    assert peer.publish(live(4))[-1] == Finished()


@pytest.mark.parametrize(
    "message",
    [
        Message(b"log/x", live(1).header, b""),
        Message(live(1).command, Header(), b""),
        Message(b"beacon/", Header(), b"[1]"),
        Message(b"beacon/", Header(), b'{"broker":"one","heads":{"zz":1}}'),
        Message(b"beacon/", Header(), b'{"broker":"one","heads":[1]}'),
        Message(topic(Channel.LOG, "", "", "t", B.hex()), live(1).header, live(1).body),
    ],
)
def test_what_is_malformed_in_the_live_stream_is_passed_over(message):
    peer = Peer().confirm()
    peer.list(view(A, log=0))
    assert peer.publish(message) == []


def test_a_malformed_listing_is_an_error_of_the_broker():
    peer = Peer().confirm()
    with pytest.raises(ProtocolError, match="LISTING"):
        peer.answer(Command.LISTING, peer.sent(Command.LIST)[0].header, executions=[1])
