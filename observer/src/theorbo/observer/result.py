"""`theorbo result`: what an execution has found out, shown or saved as files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.observer.npy import npy_header
from theorbo.observer.results import read_results
from theorbo.observer.saving import MANIFEST, Names, make_directory, refuse_existing, write_file
from theorbo.observer.states import state_of
from theorbo.schemas.choosing import View, chosen
from theorbo.schemas.errors import ExitStatus, ProtocolError, Refused, UsageError
from theorbo.schemas.events import Data, Part, Result
from theorbo.schemas.fetching import attachment_of, chunk, chunks
from theorbo.schemas.frames import Header
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.presentation import as_object, first_line, json_line, origin, part_text, visible
from theorbo.schemas.records import LF, RS, Attachment, encode_record
from theorbo.schemas.states import State

_EPILOG = """\
EXECUTION is an id, or so many digits from its beginning or end that no other is meant; theorbo ps --all
shows them. Of an execution that is still running you get what there is so far.

With --save every part becomes a file: .npy, .png, .json, .html, .txt ..., named after result and part (and
rank, where several ranks report the same name), and manifest.json says what is what. Parts that are
references to files stay where they are; the manifest has their path, size and SHA-256. With --json: one
object a line for each result, as theorbo tail --json has it, with shape and dtype of arrays, and the file
where one was saved.

Exit status 1 if there is no result (yet), 6 if a part cannot be had.

examples:
  theorbo result 3f2a91bc
  theorbo result 3f2a91bc --save catalogue/
  theorbo result 3f2a91bc --json | jq '.parts[] | select(.name == "count") | .value'
"""

_NPY = "application/x-npy"
_NPY_BEGINNING_BYTES = 10 * 1024 + 12  # numpy reads no longer headers
_SHOWN_VALUE = 200  # characters of a JSON value that are shown


class _Described(NamedTuple):
    """A part, with what is only known from its bytes, and the file it is or will be saved as."""

    part: Part
    fields: dict[str, Any]
    problem: str | None


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    if options.force and options.save is None:
        raise UsageError("--force says that files may be overwritten; it needs --save DIR")
    link = open_link(options.broker)
    try:
        view = chosen(link, options.execution)
        if not options.json:
            print(_heading(view))
        _say_whether_it_runs(view)
        command = _Command(link, view, with_data=options.all, as_json=options.json)
        if options.save is None:
            command.show()
        else:
            command.save(options.save, overwrite=options.force)
    finally:
        link.close()
    if not command.found:
        _say("there is no result" + (": " + visible(first_line(str(view["reason"]))) if view.get("reason") else ""))
        return ExitStatus.FAILED
    return ExitStatus.UNAVAILABLE if command.problems else ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo result",
        description="Show or save the results of an execution, while it runs or afterwards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("execution", metavar="EXECUTION", help="id of the execution, or some of its digits")
    parser.add_argument("--save", metavar="DIR", type=Path, help="write all parts as files into this directory")
    parser.add_argument("--force", action="store_true", help="with --save: overwrite files that are there")
    parser.add_argument("--all", action="store_true", help="also what was reported as data on the way")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each result")
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


def _say(text: str) -> None:
    print(f"theorbo result: {text}", file=sys.stderr, flush=True)


def _heading(view: View) -> str:
    names = [str(view.get("task")), state_of(view)]
    names += [f"{name} {view[name]}" for name in ("experiment", "run") if view.get(name)]
    return visible(f"{view['execution']}: {', '.join(names)}")


def _say_whether_it_runs(view: View) -> None:
    if view.get("state") in [state.value for state in State if not state.final]:
        _say(f"the execution is {state_of(view)}; this is what there is so far")


class _Command:
    """One call of the command, once the execution is known."""

    def __init__(self, link: Link, view: View, *, with_data: bool, as_json: bool) -> None:
        self._link = link
        self._view = view
        self._execution = bytes.fromhex(str(view["execution"]))
        self._with_data = with_data
        self._as_json = as_json
        self.found = 0
        self.problems = 0

    def _results(self) -> Iterator[tuple[Header, Result | Data]]:
        return read_results(self._link, self._view, with_data=self._with_data)

    def show(self) -> None:
        for header, event in self._results():
            self.found += 1
            self._print(header, event, [self._described(part) for part in event.parts])

    def save(self, directory: Path, *, overwrite: bool) -> None:
        """Two passes: first all names, so that nothing is written if one of the files is there already."""
        make_directory(directory)
        given = _names(self._results())
        if not overwrite:
            refuse_existing(directory, [MANIFEST, *(name for row in given for name in row if name)])
        manifest: list[dict[str, Any]] = []
        for row, (header, event) in zip(given, self._results(), strict=True):
            self.found += 1
            parts = []
            for name, part in zip(row, event.parts, strict=True):
                described = self._described(part)
                if name and not described.problem:
                    described = self._saved(directory, name, described, overwrite=overwrite)
                parts.append(described)
            self._print(header, event, parts)
            shown = [{**_plain(item.part), **item.fields, **_problem(item)} for item in parts]
            summary = event.summary if isinstance(event, Result) else ""
            manifest.append(
                {"kind": event.kind, "name": event.name, "summary": summary, "source": str(header.source or ""),
                 "rank": header.source.rank if header.source else None, "position": header.position,
                 "time": event.time, "parts": [{k: v for k, v in part.items() if k != "value"} for part in shown]}
            )  # fmt: skip
        if self.found:
            keys = ("execution", "task", "experiment", "run", "state", "reason")
            whole = {**{key: self._view.get(key, "") for key in keys}, "results": manifest}
            text = json.dumps(whole, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            write_file(directory, MANIFEST, [text], overwrite=overwrite)

    def _described(self, part: Part) -> _Described:
        if part.problem or part.sha256 is None or part.path is not None:
            return _Described(part, {}, part.problem)
        try:
            attachment = attachment_of(part.sha256, part.size or 0)
            if part.mime == _NPY:
                size = min(attachment.size, _NPY_BEGINNING_BYTES)
                header = npy_header(chunk(self._link, self._execution, attachment, 0, size))
                if header:
                    return _Described(part, {"shape": list(header.shape), "dtype": header.dtype}, None)
        except (Refused, ProtocolError, UsageError) as error:
            return self._failed(part, {}, error)
        return _Described(part, {}, None)

    def _failed(self, part: Part, fields: dict[str, Any], error: Exception) -> _Described:
        self.problems += 1
        _say(visible(f"{part.name or part.mime}: {error}"))
        return _Described(part, fields, str(error))

    def _saved(self, directory: Path, name: str, described: _Described, *, overwrite: bool) -> _Described:
        part, fields, _ = described
        try:
            size = write_file(directory, name, self._pieces(part), overwrite=overwrite)
        except (Refused, ProtocolError) as error:
            return self._failed(part, fields, error)
        return _Described(part, {**fields, "file": name, "size": size}, None)

    def _pieces(self, part: Part) -> Iterable[bytes]:
        if part.sha256 is not None:
            return chunks(self._link, self._execution, Attachment(part.sha256, part.size or 0))
        if part.text is not None:
            return [part.text.encode("utf-8", "backslashreplace")]
        return [json.dumps(part.value, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n"]

    def _print(self, header: Header, event: Result | Data, parts: list[_Described]) -> None:
        if self._as_json:
            shown = [{**_plain(item.part), **item.fields, **_problem(item)} for item in parts]
            print(json_line({**as_object(header, self._view, event), "parts": shown}))
            return
        summary = event.summary if isinstance(event, Result) else ""
        who = f"{origin(header, self._view)} " if (self._view.get("ranks") or 0) > 1 else ""
        print(visible(f"{who}{event.name}: {summary}".rstrip(": ")))
        for item in parts:
            print(f"  {visible(_sentence(item))}")


def _names(results: Iterable[tuple[Header, Result | Data]]) -> list[list[str | None]]:
    """For each result the file names of its parts; what is a reference or was not sent becomes no file.

    What several ranks call the same has the rank in its name, whichever of them was first.
    """
    known = [
        (header.source.rank if header.source else None, event.name, [_becomes_file(part) for part in event.parts])
        for header, event in results
    ]
    ranks: dict[str, set[int | None]] = {}
    for rank, name, _ in known:
        ranks.setdefault(name, set()).add(rank)
    names = Names()
    return [
        [part and names.give(name, *part, rank if len(ranks[name]) > 1 else None) for part in parts]
        for rank, name, parts in known
    ]


def _becomes_file(part: Part) -> tuple[str, str] | None:
    return None if part.problem or part.path is not None else (part.name, part.mime)


def _plain(part: Part) -> dict[str, Any]:
    fields = part.model_dump(mode="json", exclude_none=True, exclude={"problem"})
    inline = part.sha256 is None and part.path is None and part.text is None and not part.problem
    return {**fields, "value": part.value} if inline else fields


def _problem(item: _Described) -> Mapping[str, str]:
    return {"problem": item.problem} if item.problem else {}


def _sentence(item: _Described) -> str:
    part, fields, problem = item
    if part.path is None and part.sha256 is None and not part.problem:
        value = part.text if part.text is not None else _json(part.value)
        shown = value if len(value) <= _SHOWN_VALUE else f"{value[:_SHOWN_VALUE]}… ({len(value)} characters)"
        text = f"{part.name} = {shown}" if part.name else shown
    else:
        text = part_text(part)
    if "shape" in fields:
        text += f", shape {tuple(fields['shape'])}, dtype {fields['dtype']}"
    if problem and not part.problem:
        text += f": {problem}"
    return text + (f" -> {fields['file']}" if "file" in fields else "")


def _json(value: Any) -> str:
    return encode_record({"value": value}).strip(RS + LF).decode()[len('{"value":') : -1]
