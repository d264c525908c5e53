"""`theorbo schema`: the JSON Schema (2020-12) of a line of `--json`, for all kinds of event, and for the lines that
are none. Needs pydantic.

It is made from the models of `events` and the fields that `presentation.as_object` puts before them. A number that an
event gives may be one of the strings "NaN", "Infinity" and "-Infinity", for JSON has no such numbers.
"""

from __future__ import annotations

import argparse
import json
import typing
from typing import Any

from theorbo.schemas import __version__, events
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.names import Channel

_EPILOG = """\
Of this form are the lines of theorbo tail, replay, run and attach with --json, and of theorbo journal export: events,
and those of kind snapshot, missed, verification (of tail and replay), outcome (the last one of run and attach) and
request_outcome (the last one of cancel, stop, continue and stacks).
A line of a kind that this version does not know has the same first fields, and any others.

examples:
  theorbo schema > theorbo-line.schema.json
  theorbo schema | jq -r '."$defs" | keys[]'            which kinds there are
  theorbo schema | jq '."$defs".metric.properties'      what a metric has
"""

_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_PLACE: dict[str, Any] = {
    "execution": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "id of the execution"},
    "task": {"type": "string"},
    "experiment": {"type": "string"},
    "run": {"type": "string", "description": "the data-acquisition run"},
    "source": {"type": "string", "description": "who reports: rank:3, agent:0, executor, launcher, broker"},
    "rank": {"type": ["integer", "null"], "description": "null unless a rank reports"},
    "channel": {"enum": ["", *(channel.text for channel in Channel)]},
    "number": {"type": "integer", "minimum": 0, "description": "in the stream (execution, source, channel)"},
    "position": {"type": "integer", "minimum": 0, "description": "in (execution, channel), without gaps"},
    "kind": {"type": "string"},
    "time": {"type": "number", "description": "Unix time in seconds, of the writer's clock"},
}
_SOMETIMES: dict[str, Any] = {
    "sequence": {"type": "integer", "minimum": 1, "description": "place of its batch in the journal"},
    "journaled": {"type": "number", "description": "Unix time in seconds at which it was on the broker's disk"},
    "late": {"const": True, "description": "it came after the final state"},
    "redelivered": {"const": True, "description": "a hook may have been called for it before"},
}

_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_NO_EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "snapshot": (
        "The present state of an execution, with the fields of theorbo ps --json.",
        {**_PLACE, "state": {"type": "string"}},
    ),
    "missed": (
        "Events that could not be had: of the channel the positions from `position` to `last`.",
        {**_PLACE, "last": _COUNT, "reason": {"type": "string"}},
    ),
    "verification": (
        "The last line with --verify: whether all has come, once.",
        {
            **_PLACE,
            "execution": {"const": ""},
            "ok": {"type": "boolean"},
            "verdict": {"type": "string"},
            "events": _COUNT,
            "problems": _TEXTS,
            "streams": _OBJECTS,
            "channels": _OBJECTS,
        },
    ),
    "outcome": (
        "The last line of run and attach: how it has ended, or was let go of.",
        {
            **{name: _PLACE[name] for name in ("execution", "task", "experiment", "run", "kind")},
            "state": {"type": "string"},
            "reason": {"type": "string"},
            "final": {"type": "boolean", "description": "false if the Task goes on"},
            "exit_status": _COUNT,
            "duration_s": {"type": "number"},
            "redelivered": _COUNT,
            "results": _OBJECTS,
        },
    ),
    "request_outcome": (
        "The last line of cancel, stop, continue and stacks: who has answered, and how it stands.",
        {
            **{name: _PLACE[name] for name in ("execution", "task", "experiment", "run", "kind", "time", "position")},
            "action": {"enum": ["cancel", "kill", "stop", "continue", "stacks"]},
            "state": {"type": "string"},
            "reason": {"type": "string"},
            "complete": {
                "type": "boolean",
                "description": "everybody has answered, and what was wanted has come about",
            },
            "answers": _OBJECTS,
            "missing": _OBJECTS,
        },
    ),
}
"""Lines that are no event: what they are, and the fields that each has."""


def line_schema() -> dict[str, Any]:
    """The schema, as an object that `json.dumps` takes."""
    models = [*typing.get_args(typing.get_args(events.KnownEvent)[0]), events.InvalidEvent]
    definitions: dict[str, Any] = {}
    kinds = []
    for model in models:
        own = model.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
        kind = str(model.model_fields["kind"].default)
        kinds.append(kind)
        definitions.update({name: _lenient(each) for name, each in own.pop("$defs", {}).items()})
        definitions[kind] = _of_kind(kind, model, own)
    for kind, (description, properties) in _NO_EVENTS.items():
        kinds.append(kind)
        definitions[kind] = {
            "description": description,
            "type": "object",
            "properties": {**properties, "kind": {"const": kind}},
            "required": list(properties),
        }
    definitions["unknown"] = {
        "description": "A kind that this version does not know, with its own fields.",
        "type": "object",
        "properties": {**_PLACE, **_SOMETIMES, "kind": {"type": "string", "not": {"enum": kinds}}},
        "required": list(_PLACE),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of theorbo --json, version {__version__}",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in [*kinds, "unknown"]],
        "$defs": definitions,
    }


def _of_kind(kind: str, model: type[events.EventBase], own: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _lenient(each) for name, each in own["properties"].items() if name not in _PLACE}
    return {
        "description": " ".join((model.__doc__ or "").split()),
        "type": "object",
        "properties": {**_PLACE, "kind": {"const": kind}, **_SOMETIMES, **fields},
        "required": [*_PLACE, *fields],
        "additionalProperties": False,
    }


def _lenient(schema: Any) -> Any:
    """Numbers may be those strings as well; titles that pydantic makes of names say nothing."""
    if isinstance(schema, list):
        return [_lenient(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        rest = {name: each for name, each in schema.items() if name not in ("type", "title")}
        return {**_NUMBER, **rest}
    return {
        name: {key: _lenient(each) for key, each in value.items()} if name == "properties" else _lenient(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str))
    }


def main(argv: list[str]) -> int:
    """Print it."""
    argparse.ArgumentParser(
        prog="theorbo schema",
        description="Print the JSON Schema (2020-12) of a line of --json.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    print(json.dumps(line_schema(), indent=1, ensure_ascii=False))
    return ExitStatus.COMPLETED
