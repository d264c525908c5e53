"""Write the pages of docs/ that say what the code says already: events.md, errors.md and limits.md.

    uv run python docs/generate.py

The tests compare the pages with what this makes, so that they are never out of date.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from theorbo.schemas import errors, events, limits
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


def limits_page() -> str:
    """The text of limits.md."""
    lines = [
        "# Limits",
        "",
        "<!-- Made by docs/generate.py from theorbo.schemas.limits; change that and run it. -->",
        "",
        "Every queue, window, wait and file is bounded, and its bound stands here: what it is for, why it is what it",
        "is, and what happens when it is reached. A name ends with its unit: `_BYTES`, `_CHARACTERS`, `_S` (seconds);",
        "all others are counts. Settings and options that change one name it as their default.",
    ]
    for section, names in _limit_sections().items():
        lines += ["", f"## {section.capitalize()}", "", "| limit | value | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {_quantity(name)} | {meaning} |" for name, meaning in names.items()]
    return "\n".join(lines) + "\n"


def _limit_sections() -> dict[str, dict[str, str]]:
    """By section, the limits in the order of the file, with what stands below each as a string."""
    source = inspect.getsource(limits)
    titles = {
        number: match.group(1)
        for number, line in enumerate(source.splitlines(), 1)
        if (match := re.match(r"# --- (.+?) -+$", line))
    }
    body = ast.parse(source).body
    found: dict[str, dict[str, str]] = {}
    for limit, text in itertools.pairwise(body):
        if not (isinstance(limit, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
            continue
        [name] = limit.targets
        assert isinstance(name, ast.Name)
        section = titles[max(number for number in titles if number < limit.lineno)]
        found.setdefault(section, {})[name.id] = " ".join(str(text.value.value).split()).replace("|", "\\|")
    return found


def _quantity(name: str) -> str:
    """The value of a limit with its unit, as people say it."""
    value = getattr(limits, name)
    if name.endswith("_BYTES"):
        for unit, size in (("GiB", limits.GIB), ("MiB", limits.MIB), ("KiB", limits.KIB)):
            if value % size == 0:
                return f"{value // size} {unit}"
        return f"{value} bytes"
    if name.endswith("_S"):
        for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
            if value >= 2 * size and value % size == 0:
                return f"{value / size:g} {unit}"
        return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
    if value > 10**12:
        return f"2^{value.bit_length() - 1}" if value.bit_count() == 1 else str(value)
    return f"{value:,} characters" if name.endswith("_CHARACTERS") else f"{value:,}"


PAGES = {HERE / "events.md": events_page, HERE / "errors.md": errors_page, HERE / "limits.md": limits_page}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
