"""Messages of the wire: what was encoded is decoded, and what is no message is refused by its code.

The bytes themselves are held by the golden messages under tests/wire.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import (
    HEADER_BYTES,
    PROTOCOL_VERSION,
    Command,
    ErrorCode,
    Header,
    Message,
    decode_json,
    decode_message,
    encode_json,
)
from theorbo.schemas.names import Channel, Source, SourceKind

U32, U64 = 2**32 - 1, 2**64 - 1

sources = st.none() | st.builds(Source, st.sampled_from(SourceKind), st.integers(0, U32))
headers = st.builds(
    Header,
    request=st.integers(0, U32),
    execution=st.binary(min_size=16, max_size=16),
    channel=st.just(0) | st.sampled_from(Channel),
    source=sources,
    first=st.integers(0, U64),
    count=st.integers(0, U32),
    position=st.integers(0, U64),
    sequence=st.integers(0, U64),
    time=st.floats(allow_nan=False),
    flags=st.integers(0, 255),
)


@given(headers)
def test_a_header_that_was_encoded_is_decoded_as_it_was(header):
    data = header.encode()
    assert len(data) == HEADER_BYTES
    assert Header.decode(data) == header


@given(st.binary(max_size=32), headers, st.binary(max_size=200))
def test_a_message_that_was_encoded_is_decoded_as_it_was(command, header, body):
    message = Message(command, header, body)
    assert decode_message(list(message.encode())) == message


@given(st.binary(max_size=80))
def test_any_other_bytes_are_a_header_or_a_protocol_error_and_nothing_else(data):
    try:
        assert Header.decode(data).encode() == data
    except ProtocolError as error:
        assert error.code in (ErrorCode.MALFORMED, ErrorCode.VERSION)  # noqa: PT017 - both ends are allowed


def test_the_number_of_the_last_event_follows_from_first_and_count():
    assert Header(first=5, count=3).last == 7


@pytest.mark.parametrize("length", [0, 2, HEADER_BYTES - 1, HEADER_BYTES + 1])
def test_a_header_of_the_wrong_length_is_malformed_and_the_length_is_said(length):
    data = (Header().encode() + b"\0")[:length]
    with pytest.raises(ProtocolError, match=f"{length} bytes") as refused:
        Header.decode(data)
    assert refused.value.code == ErrorCode.MALFORMED


def test_a_header_that_begins_otherwise_is_malformed():
    with pytest.raises(ProtocolError, match="does not begin with b'TB'") as refused:
        Header.decode(b"XX" + Header().encode()[2:])
    assert refused.value.code == ErrorCode.MALFORMED


@pytest.mark.parametrize("rest", [b"", b"whatever a later version has here", b"\0" * 200])
def test_another_protocol_version_is_recognised_whatever_follows_and_both_versions_are_said(rest):
    with pytest.raises(ProtocolError, match=rf"version 9, this side version {PROTOCOL_VERSION}") as refused:
        Header.decode(b"TB\x09" + rest)
    assert refused.value.code == ErrorCode.VERSION


@pytest.mark.parametrize(("offset", "value"), [(4, 99), (5, 77)])
def test_an_unknown_channel_or_kind_of_source_is_malformed(offset, value):
    data = bytearray(Header().encode())
    data[offset] = value
    with pytest.raises(ProtocolError, match=str(value)) as refused:
        Header.decode(bytes(data))
    assert refused.value.code == ErrorCode.MALFORMED


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_message_has_three_frames(count):
    with pytest.raises(ProtocolError, match=f"message has {count} frames, expected 3"):
        decode_message([b""] * count)


def test_a_json_body_comes_back_as_it_was():
    assert decode_json(encode_json(role="agent", heads={"a": {"log": 3}})) == {
        "role": "agent",
        "heads": {"a": {"log": 3}},
    }


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"3", b"null"])
def test_a_body_that_is_no_json_object_is_malformed(body):
    with pytest.raises(ProtocolError, match="body is") as refused:
        decode_json(body)
    assert refused.value.code == ErrorCode.MALFORMED


def test_commands_are_upper_case_ascii_and_all_different():
    commands = [value for name, value in vars(Command).items() if not name.startswith("_")]
    assert len(set(commands)) == len(commands)
    assert all(command.isalpha() and command.isupper() and command.isascii() for command in commands)
