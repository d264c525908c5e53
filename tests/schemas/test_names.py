"""The words of the wire: sources, streams, names and topics."""

import pytest

from theorbo.schemas.names import (
    BROKER,
    EXECUTOR,
    LAUNCHER,
    Channel,
    Source,
    SourceKind,
    Stream,
    checked_name,
    topic,
)

EXECUTION = "0190" + "0" * 28


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (Source(SourceKind.RANK, 3), "rank:3"),
        (Source(SourceKind.AGENT, 0), "agent:0"),
        (EXECUTOR, "executor"),
        (LAUNCHER, "launcher"),
        (BROKER, "broker"),
    ],
)
def test_a_source_is_written_as_people_read_it_and_read_back(source, text):
    assert str(source) == text
    assert Source.parse(text) == source


@pytest.mark.parametrize(
    "text", ["", "rank", "rank:", "rank:x", "rank:-1x", "RANK:1", "rank: 1", "node:1", "rank:0:1", "executor:5"]
)
def test_what_is_no_source_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="is no source; examples: rank:0"):
        Source.parse(text)


def test_only_a_rank_has_a_rank():
    assert Source(SourceKind.RANK, 7).rank == 7
    assert Source(SourceKind.AGENT, 7).rank is None


@pytest.mark.parametrize("channel", list(Channel))
def test_a_stream_is_written_as_source_and_channel_and_read_back(channel):
    stream = Stream(Source(SourceKind.RANK, 12), channel)
    assert str(stream) == f"rank:12/{channel.name.lower()}"
    assert Stream.parse(str(stream)) == stream


@pytest.mark.parametrize("text", ["rank:0", "rank:0/", "rank:0/mail", "nobody/log"])
def test_what_is_no_stream_is_refused(text):
    with pytest.raises(ValueError, match="is no s"):
        Stream.parse(text)


@pytest.mark.parametrize("text", ["Galaxies", "mfx100905124", "r 0012", "größe/5", "x" * 200])
def test_a_name_may_hold_anything_that_can_be_printed(text):
    assert checked_name("task", text) == text


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "tab\t", "\x7f", "nul\0"])
def test_a_name_that_is_empty_too_long_or_has_control_characters_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"experiment .*1 to 200 characters"):
        checked_name("experiment", text)


def test_a_topic_is_a_path_that_ends_with_a_slash():
    assert topic(Channel.LOG, "mfx1", "12", "Galaxies", EXECUTION) == f"log/mfx1/12/Galaxies/{EXECUTION}/".encode()


def test_a_subscription_to_one_experiment_does_not_match_another_that_begins_alike():
    assert not topic(Channel.LOG, "mfx10", "1", "T", EXECUTION).startswith(b"log/mfx1/")


@pytest.mark.parametrize(
    ("component", "escaped"),
    [("", b"-"), ("-", b"%2D"), ("a/b", b"a%2Fb"), ("50%", b"50%25"), ("a\x01", b"a%01"), ("é", "é".encode())],
)
def test_what_would_be_read_as_structure_is_escaped_in_a_topic(component, escaped):
    assert topic(Channel.SIGNALS, component, "1", "T", EXECUTION).split(b"/")[1] == escaped


def test_different_names_never_share_a_topic():
    names = ["", "-", "%2D", "a/b", "a%2Fb", "a", "a%", "%"]
    assert len({topic(Channel.LOG, name, "1", "T", EXECUTION) for name in names}) == len(names)
