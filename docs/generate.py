"""Write the pages of docs/ that say what the code says already: events.md and errors.md.

    uv run python docs/generate.py

The tests compare the pages with what this makes, so that they are never out of date.
"""

from __future__ import annotations

import ast
import inspect
import json
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from theorbo.schemas import errors, events
from theorbo.schemas.names import KIND_CHANNELS, Channel

HERE = Path(__file__).parent

CHANNEL_INTRODUCTIONS = {
    Channel.SIGNALS: "What may change the state of an execution. The broker opens this channel, and no other.",
    Channel.LOG: "Lines for people.",
    Channel.METRICS: "Numbers over time.",
    Channel.RESULTS: "What the Task has found out. Large values are attachments.",
}


def events_page() -> str:
    """The text of events.md."""
    lines = [
        "# Events",
        "",
        "<!-- Made by docs/generate.py from theorbo.schemas.events; change that and run it. -->",
        "",
        "Every record is a JSON object with `kind` (written first), `time` (Unix time in seconds, of the writer's",
        "clock) and mostly `pid` (of the writer); the tables list the fields beside these. A field with a default may",
        "be left out. How records are framed and numbered is told in [the protocol](protocol.md).",
    ]
    union, _ = typing.get_args(events.KnownEvent)
    models = {model.model_fields["kind"].default: model for model in typing.get_args(union)}
    for channel, introduction in CHANNEL_INTRODUCTIONS.items():
        lines += ["", f"## Channel {channel.text}", "", introduction]
        for kind, model in models.items():
            if KIND_CHANNELS.get(kind) is channel:
                lines += ["", f"### {kind}", "", *_described(model)]
    lines += ["", "## Channels stdout and stderr", "", "### output", "", *_described(events.Output)]
    lines += ["", "## Parts of a payload", "", "What the lists `parts` hold.", "", *_described(events.Part)]
    return "\n".join(lines) + "\n"


def _described(model: type[BaseModel]) -> list[str]:
    """The docstring of an event and the table of its own fields."""
    schema = model.model_json_schema()
    meanings = _field_docstrings(model)
    rows = []
    for name, field in schema["properties"].items():
        if name in ("kind", "time", "pid"):
            continue
        default = "" if name in schema.get("required", []) else f"`{json.dumps(field.get('default'))}`"
        rows.append(f"| `{name}` | {_json_type(field)} | {default} | {meanings.get(name, '')} |")
    table = ["| field | JSON | default | meaning |", "|---|---|---|---|", *rows] if rows else ["No fields of its own."]
    return [inspect.cleandoc(model.__doc__ or ""), "", *table]


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What stands as a string below each field."""
    [body] = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _json_type(field: dict[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "anyOf" in field:
        return " or ".join(_json_type(choice) for choice in field["anyOf"])
    if "$ref" in field:
        return "[part](#parts-of-a-payload)"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in field["enum"])
    match field.get("type"):
        case "array" if "prefixItems" in field:
            return "array of " + " and ".join(_json_type(item) for item in field["prefixItems"])
        case "array":
            return f"array of {_json_type(field['items'])}"
        case "object" if isinstance(field.get("additionalProperties"), dict):
            return f"object of {_json_type(field['additionalProperties'])}"
        case str(name):
            return name
        case _:
            return "anything"


def errors_page() -> str:
    """The text of errors.md."""
    tree = inspect.cleandoc(errors.__doc__ or "").partition("::")[2].strip("\n")
    lines = [
        "# Errors and exit statuses",
        "",
        "<!-- Made by docs/generate.py from theorbo.schemas.errors; change that and run it. -->",
        "",
        "Each error says whose fault it is, and its sentence names the value and the way out. A command prints that",
        "sentence as one line on stderr and ends with the error's exit status.",
        "",
        "```",
        inspect.cleandoc(tree),
        "```",
        "",
        "| error | who has to act | exit status | meaning |",
        "|---|---|---|---|",
    ]
    for error in vars(errors).values():
        if not (isinstance(error, type) and issubclass(error, errors.TheorboError)):
            continue
        meaning = " ".join((error.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{error.__name__}` | {error.fault.value} | {int(error.exit_status)} | {meaning} |")
    lines += ["", "## Exit statuses of `theorbo`", "", "| status | meaning |", "|---|---|"]
    lines += [f"| {int(status)} | {status.name} |" for status in errors.ExitStatus]
    lines += [
        "",
        "A command that was interrupted ends with 130, one whose reader went away (`theorbo tail | head`) with 141.",
        "",
        "The codes with which a broker refuses stand in [the protocol](protocol.md#error-codes).",
    ]
    return "\n".join(lines) + "\n"


PAGES = {HERE / "events.md": events_page, HERE / "errors.md": errors_page}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
