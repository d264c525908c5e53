from __future__ import annotations

import hashlib
import os
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from theorbo.broker.attachments import Attachments
from theorbo.broker.values import Chunk, ChunkRead, ChunkStored, ReadChunk, Refer, Reference, StoreChunk
from theorbo.schemas.frames import Command, Header, Message, decode_json
from theorbo.schemas.limits import ATTACHMENT_BYTES

from .bus import RUN, Bus

PAYLOAD = bytes(range(256)) * 100
DIGEST = hashlib.sha256(PAYLOAD).digest()
WHOLE = Reference(RUN, DIGEST, len(PAYLOAD))


class Shelf:
    """Attachments in a directory, and what they report."""

    def __init__(self, directory: Path) -> None:
        self.reports: queue.Queue[ChunkStored | ChunkRead] = queue.Queue()
        self.files = Attachments(directory, self.reports.put)

    def store(self, offset: int, data: bytes, reference: Reference = WHOLE) -> ChunkStored:
        self.files.store(StoreChunk(b"A", Chunk(reference, offset, data)))
        return self.reports.get(timeout=10)

    def read(self, first: int, count: int, size: int | None = len(PAYLOAD)) -> bytes | None:
        self.files.read(ReadChunk(b"O", Header(first=first, count=count), DIGEST), size)
        return self.reports.get(timeout=10).data


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "attachments")
    yield shelf
    shelf.files.close()


def test_chunks_become_a_file_named_by_its_digest(shelf, tmp_path):
    assert shelf.store(0, PAYLOAD[:10000])[2:4] == (10000, False)
    assert shelf.store(10000, PAYLOAD[10000:])[2:4] == (len(PAYLOAD), True)
    name = DIGEST.hex()
    assert (tmp_path / "attachments" / name[:2] / name).read_bytes() == PAYLOAD
    assert list((tmp_path / "attachments" / "parts").iterdir()) == []


@pytest.mark.parametrize("offset", [0, 9999, 10001])
def test_a_chunk_that_does_not_continue_is_answered_with_how_far_it_is(shelf, offset):
    shelf.store(0, PAYLOAD[:10000])
    assert shelf.store(offset, PAYLOAD[offset : offset + 100])[2:4] == (10000, False)
    assert shelf.store(10000, PAYLOAD[10000:]).complete


def test_an_empty_chunk_asks_how_far_it_is(shelf):
    assert shelf.store(0, b"").received == 0
    shelf.store(0, PAYLOAD[:10])
    assert shelf.store(0, b"").received == 10


def test_a_restarted_broker_goes_on_with_a_part(shelf, tmp_path):
    shelf.store(0, PAYLOAD[:10000])
    shelf.files.close()
    again = Shelf(tmp_path / "attachments")
    assert again.store(0, b"").received == 10000
    assert again.store(10000, PAYLOAD[10000:]).complete
    again.files.close()
    shelf.files = again.files


def test_an_attachment_that_is_there_is_not_sent_again(shelf):
    shelf.store(0, PAYLOAD)
    other = WHOLE._replace(execution=b"another one.....")
    assert shelf.store(0, b"", other).complete


def test_bytes_that_do_not_have_the_digest_are_refused_and_not_kept(shelf, tmp_path):
    wrong = shelf.store(0, b"x" * len(PAYLOAD))
    assert wrong.refusal[0] == "malformed"
    assert shelf.store(0, b"").received == 0
    assert shelf.store(0, PAYLOAD).complete


def test_an_empty_attachment_is_one(shelf):
    nothing = Reference(RUN, hashlib.sha256(b"").digest(), 0)
    assert shelf.store(0, b"", nothing).complete


def test_pieces_can_be_read(shelf):
    shelf.store(0, PAYLOAD)
    assert shelf.read(100, 50) == PAYLOAD[100:150]
    assert shelf.read(len(PAYLOAD) - 5, 50) == PAYLOAD[-5:]
    assert shelf.read(0, 50, size=None) is None


def test_what_somebody_was_just_told_of_is_not_removed(shelf):
    """Its reference may be on the way to the journal while retention removes the last one that is there."""
    shelf.store(0, PAYLOAD)
    shelf.files.remove(DIGEST)
    assert shelf.read(0, 4) == PAYLOAD[:4]


def test_what_nobody_refers_to_is_removed(shelf, tmp_path):
    shelf.store(0, PAYLOAD)
    shelf.files.close()
    later = Shelf(tmp_path / "attachments")
    assert list(later.files.digests()) == [DIGEST]
    later.files.remove(DIGEST)
    assert later.read(0, 4) is None
    later.files.close()
    shelf.files = later.files


def test_what_is_old_is_forgotten_while_the_broker_runs(tmp_path, monkeypatch, wait_for):
    """Who was told that an attachment is there, and parts that nobody goes on with."""
    monkeypatch.setattr("theorbo.broker.attachments.PROMISE_S", 0.05)
    shelf = Shelf(tmp_path / "attachments")
    shelf.store(0, PAYLOAD)
    shelf.store(0, b"its beginning", WHOLE._replace(sha256=b"a" * 32))
    (part,) = (tmp_path / "attachments" / "parts").iterdir()
    os.utime(part, (1.0, 1.0))
    assert wait_for(lambda: not part.exists() and not shelf.files._promised, "what is old to be forgotten")
    assert not shelf.files._begun
    shelf.files.close()


class TestConversation:
    @pytest.fixture
    def bus(self) -> Bus:
        bus = Bus()
        bus.submit()
        return bus

    def attach(self, bus: Bus, offset: int, data: bytes, size: int = len(PAYLOAD), claim: int | None = None) -> None:
        header = Header(execution=RUN, first=offset, count=len(data) if claim is None else claim, position=size)
        bus.say(b"A", Message(Command.ATTACH, header, DIGEST + data))

    def test_a_sender_hears_that_it_is_stored_when_the_reference_is_on_disk(self, bus):
        self.attach(bus, 0, PAYLOAD)
        assert bus.instructions[-1] == StoreChunk(b"A", Chunk(WHOLE, 0, PAYLOAD))
        bus.give(ChunkStored(b"A", WHOLE, len(PAYLOAD), complete=True))
        assert bus.instructions[-1] == Refer(WHOLE)
        assert bus.to(b"A", Command.STORED) == []
        bus.commit()
        (stored,) = bus.to(b"A", Command.STORED)
        assert (stored.header.first, stored.header.position, stored.body) == (len(PAYLOAD), len(PAYLOAD), DIGEST)

    def test_a_part_is_answered_with_how_far_it_is(self, bus):
        bus.give(ChunkStored(b"A", WHOLE, 100, complete=False))
        assert bus.to(b"A", Command.STORED)[0].header.first == 100

    def test_what_could_not_be_stored_is_refused(self, bus):
        bus.give(ChunkStored(b"A", WHOLE, 0, complete=False, refusal=("journal", "disk full")))
        assert bus.refusals(b"A") == ["journal"]

    def test_a_refusal_says_which_attachment_it_is_about(self, bus):
        """Its sender gives up this one, and none of those of the same size that it sends at the same time."""
        bus.give(ChunkStored(b"A", WHOLE, 0, complete=False, refusal=("malformed", "it has another digest")))
        (refused,) = bus.to(b"A", Command.REFUSED)
        assert (refused.header.execution, refused.header.position) == (RUN, WHOLE.size)
        assert decode_json(refused.body)["sha256"] == DIGEST.hex()

    def test_an_attachment_over_the_limit_is_refused(self, bus):
        self.attach(bus, 0, b"x", size=ATTACHMENT_BYTES + 1)
        assert bus.refusals(b"A") == ["too_large"]

    @pytest.mark.parametrize(("offset", "claim"), [(0, 7), (len(PAYLOAD), 3), (2**63, 3)])
    def test_numbers_that_do_not_fit_are_refused(self, bus, offset, claim):
        self.attach(bus, offset, b"abc", claim=claim)
        assert bus.refusals(b"A") == ["malformed"]

    def test_an_unknown_attachment_is_refused(self, bus):
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.FETCH, Header(request=4, execution=RUN, count=10), DIGEST))
        wish = bus.instructions[-1]
        bus.give(ChunkRead(wish.peer, wish.header, 0, None))
        assert bus.refusals(b"O") == ["unknown_attachment"]
        assert bus.to(b"O", Command.REFUSED)[0].header.request == 4


def test_a_wrong_size_for_a_digest_that_is_there_is_refused(shelf):
    """It would be noted for the execution; whoever fetched the attachment would find it damaged."""
    shelf.store(0, PAYLOAD)
    assert shelf.store(0, b"", WHOLE._replace(size=5)).refusal[0] == "malformed"
    assert shelf.store(0, b"", WHOLE._replace(size=ATTACHMENT_BYTES)).refusal[0] == "malformed"
    assert shelf.store(0, b"").complete


def test_the_names_of_new_directories_reach_the_disk_too(shelf, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    shelf.store(0, PAYLOAD)
    directory = tmp_path / "attachments"
    assert synced[1:] == [str(directory), str(directory / DIGEST.hex()[:2])]


def test_a_part_that_a_crash_has_damaged_is_asked_for_again(shelf, tmp_path):
    """REFUSED would make the agent give the attachment up: parts are not synced, zeros may be left of them."""
    part = tmp_path / "attachments" / "parts" / f"{RUN.hex()}-{DIGEST.hex()}"
    part.write_bytes(bytes(10000))
    again = shelf.store(10000, PAYLOAD[10000:])
    assert (again.received, again.complete, again.refusal) == (0, False, None)
    assert shelf.store(0, PAYLOAD).complete
