"""Golden bytes: the code and docs/protocol.md are both held to the files that lie beside this one.

`messages.json` has messages with every field of their header spelled out, and the header's bytes as
they travel, one group of digits for each field; `malformed_headers.json` has what must be refused;
`records.json` has records as they stand in a spool. Whoever writes another client can test it with them.
These files are not generated: a change of the code that needs a change here is a change of the protocol.
"""

import json
import re
import struct
from pathlib import Path

import pytest

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.events import decode_event
from theorbo.schemas.frames import HEADER_BYTES, Command, ErrorCode, Header, Message, decode_message
from theorbo.schemas.names import KIND_CHANNELS, Channel, Source, SourceKind, Stream
from theorbo.schemas.records import RecordReader, channel_of, encode_record, split_body

HERE = Path(__file__).parent
PROTOCOL = (HERE.parents[1] / "docs" / "protocol.md").read_text()

MESSAGES = json.loads((HERE / "messages.json").read_text())
MALFORMED = json.loads((HERE / "malformed_headers.json").read_text())
RECORDS = json.loads((HERE / "records.json").read_text())


def by_meaning(cases):
    return pytest.mark.parametrize("golden", cases, ids=[case["meaning"] for case in cases])


def body_of(golden):
    return bytes.fromhex(golden["body_hex"]) if "body_hex" in golden else golden["body"].encode()


def header_of(fields):
    """The fields of a golden header as the code has them."""
    fields = dict(fields)
    kind, index = fields.pop("source_kind", 0), fields.pop("source_index", 0)
    execution = bytes.fromhex(fields.pop("execution", "00" * 16))
    return Header(execution=execution, source=Source(SourceKind(kind), index) if kind else None, **fields)


def documented_header():
    """Names and sizes of the header's fields, from the table in docs/protocol.md."""
    section = PROTOCOL.split("### Header")[1].split("###")[0]
    return [(name, int(size)) for name, size in re.findall(r"^\| ([a-z ]+) \| (\d+) \|", section, re.MULTILINE)]


@by_meaning(MESSAGES)
def test_a_message_is_encoded_into_the_golden_bytes(golden):
    message = Message(golden["command"].encode(), header_of(golden["fields"]), body_of(golden))
    assert message.encode() == (golden["command"].encode(), bytes.fromhex(golden["header"]), body_of(golden))


@by_meaning(MESSAGES)
def test_the_golden_bytes_are_decoded_into_the_message(golden):
    frames = [golden["command"].encode(), bytes.fromhex(golden["header"]), body_of(golden)]
    assert decode_message(frames) == Message(frames[0], header_of(golden["fields"]), frames[2])


@by_meaning(MESSAGES)
def test_who_reads_the_document_alone_reads_the_same(golden):
    """A reader of its own, which knows of the header what its table in docs/protocol.md says."""
    rest = bytes.fromhex(golden["header"])
    read = {}
    for name, size in documented_header():
        field, rest = rest[:size], rest[size:]
        read[name.replace(" ", "_")] = field
    assert rest == b""
    assert (read.pop("magic"), read.pop("version")) == (b"TB", b"\x01")
    assert read.pop("execution").hex() == golden["fields"].get("execution", "0" * 32)
    assert struct.unpack("!d", read.pop("time")) == (golden["fields"].get("time", 0.0),)
    assert {name: int.from_bytes(field, "big") for name, field in read.items()} == {
        name: golden["fields"].get(name, 0) for name in read
    }


def test_the_document_tells_the_headers_size_and_numbers():
    assert sum(size for _, size in documented_header()) == HEADER_BYTES
    assert f"header, {HEADER_BYTES} bytes" in PROTOCOL
    for number, name in [*((c.value, c.text) for c in Channel), *((k.value, k.name.lower()) for k in SourceKind)]:
        assert re.search(rf"\b{number} {name}\b", PROTOCOL), f"{number} {name}"


def test_every_command_has_a_golden_message_and_stands_in_the_document():
    commands = {value.decode() for name, value in vars(Command).items() if not name.startswith("_")}
    assert commands <= {golden["command"] for golden in MESSAGES}
    documented = {
        word
        for cell in re.findall(r"^\| ([A-Z]+(?:, [A-Z]+)*) \|", PROTOCOL, re.MULTILINE)
        for word in cell.split(", ")
    }
    assert documented == commands


def test_every_error_code_stands_in_the_document():
    codes = {value for name, value in vars(ErrorCode).items() if not name.startswith("_")}
    section = PROTOCOL.split("## Error codes")[1]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == codes


@by_meaning([golden for golden in MESSAGES if golden["command"] in ("PUT", "EVENTS", "CONTROL") and golden["body"]])
def test_the_body_holds_as_many_records_as_the_header_counts_on_their_channel(golden):
    texts = split_body(body_of(golden))
    assert len(texts) == golden["fields"]["count"]
    assert {channel_of(b"\x1e" + text + b"\n") for text in texts} == {golden["fields"]["channel"]}


@by_meaning(MALFORMED)
def test_what_is_no_header_of_this_version_is_refused_by_its_code(golden):
    with pytest.raises(ProtocolError) as refused:
        Header.decode(bytes.fromhex(golden["header"]))
    assert refused.value.code == golden["code"]


@by_meaning(RECORDS["ours"])
def test_a_record_is_written_as_the_golden_one(golden):
    fields = dict(golden["fields"])
    if fields.get("value") == "-Infinity":
        fields["value"] = float("-inf")
    assert encode_record(fields) == golden["record"].encode()


@by_meaning(RECORDS["ours"] + RECORDS["of_other_writers"])
def test_a_golden_record_is_found_on_its_channel_and_decoded_as_its_kind(golden):
    [piece], damages = RecordReader().feed(golden["record"].encode(), final=True)
    assert not damages
    assert piece.channel.text == golden["channel"]
    [text] = split_body(piece.record)
    event = decode_event(text)
    fields = golden.get("fields", {})
    assert event.kind == (fields or golden)["kind"]
    for name, value in fields.items():
        decoded = event.model_dump(mode="json", exclude_unset=True)[name]
        assert decoded == (float("-inf") if value == "-Infinity" else value), name


def test_every_kind_has_a_golden_record():
    assert {golden["fields"]["kind"] for golden in RECORDS["ours"]} == set(KIND_CHANNELS)


def test_the_streams_in_golden_records_are_streams():
    for golden in RECORDS["ours"]:
        for name in golden["fields"].get("streams", {}):
            assert str(Stream.parse(name)) == name
