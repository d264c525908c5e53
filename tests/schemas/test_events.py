"""Events: closed, frozen types; newer and broken writers do not stop a reader."""

import json
import typing

import pytest
from pydantic import ValidationError

from theorbo.schemas import events
from theorbo.schemas.names import KIND_CHANNELS, OUTPUT_KIND
from theorbo.schemas.records import encode_record, split_body


def kinds_with_a_class():
    union, _ = typing.get_args(events.KnownEvent)
    return {member.model_fields["kind"].default: member for member in typing.get_args(union)}


def test_every_kind_has_a_class_and_every_class_has_a_channel():
    assert set(kinds_with_a_class()) == set(KIND_CHANNELS) | {OUTPUT_KIND}


def test_an_event_comes_back_from_its_record_as_it_was():
    event = events.RankEnded(time=3.5, pid=7, exit_code=None, signal="SIGSEGV", max_rss_bytes=1024)
    record = encode_record(events.record_fields(event))
    [text] = split_body(record)
    assert events.decode_event(text) == event


def test_the_kind_stands_first_in_a_record():
    assert next(iter(events.record_fields(events.Log(time=1.0, text="hello")))) == "kind"


def test_fields_that_this_version_does_not_know_are_ignored():
    event = events.decode_event(b'{"kind":"log","time":1,"text":"hello","colour":"green"}')
    assert event == events.Log(time=1.0, text="hello")


def test_a_kind_that_this_version_does_not_know_is_kept_whole():
    event = events.decode_event(b'{"kind":"telegram","time":1.5,"pid":3,"words":["stop"]}')
    assert isinstance(event, events.UnknownEvent)
    assert (event.kind, event.time, event.fields["words"]) == ("telegram", 1.5, ["stop"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"kind":"log","time":1}', "text"),
        (b'{"kind":"metric","time":1,"name":"x","value":"much"}', "value"),
        (b'{"kind":"rank_ended","time":"noon"}', "time"),
        (b'{"time":1}', "kind"),
        (b"[]", ""),
        (b"nonsense", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
        (b'{"kind":7,"time":1}', ""),
    ],
)
def test_a_record_that_is_not_what_its_kind_demands_is_an_invalid_event_which_says_why(text, problem):
    event = events.decode_event(text)
    assert isinstance(event, events.InvalidEvent)
    assert problem in event.problem
    assert event.text == text.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize(("text", "value"), [("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf")])
def test_numbers_that_json_does_not_have_travel_as_strings(text, value):
    record = encode_record({"kind": "metric", "time": 1.0, "name": "loss", "value": float(value)})
    [line] = split_body(record)
    assert json.loads(line)["value"] == text
    assert str(events.decode_event(line).value) == value


def test_an_event_cannot_be_changed():
    event = events.Log(time=1.0, text="hello")
    with pytest.raises(ValidationError, match="frozen"):
        event.text = "bye"
