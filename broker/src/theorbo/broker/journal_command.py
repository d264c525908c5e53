"""`theorbo journal`: look after a journal without a broker. Arguments in, exit status out."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from theorbo.broker import check, recovery
from theorbo.broker.export import Export, chosen
from theorbo.broker.journal_files import journal_at, journal_place, open_to_read
from theorbo.broker.journal_reader import JournalReader
from theorbo.broker.place import Lock
from theorbo.broker.schema import JournalDamaged, is_damage, open_journal
from theorbo.broker.values import Note
from theorbo.schemas.errors import ExitStatus, Unavailable
from theorbo.schemas.names import Channel
from theorbo.schemas.points_in_time import point_in_time
from theorbo.schemas.presentation import json_line

_EPILOG = """\
examples:
  theorbo journal check                            your own journal
  theorbo journal check /var/lib/theorbo --json    another broker's, for a script
  theorbo journal export 3f2a91bc -o run.jsonl     all events of one execution
  theorbo journal export --since 2h | jq .         what was journaled in the last two hours
  theorbo journal compact                          give free space back to the disk; the broker must not run
  theorbo journal recover                          keep what is good of a damaged journal; put a backup into service

The journal is a SQLite file, journal.sqlite in the broker's state directory (theorbo broker --state; default:
THEORBO_STATE, else ~/.local/state/theorbo). check and export only read, also while a broker is at work, and
also a copy. Its tables are described in docs/journal.md.
"""

_CHECK = """\
What is looked at: the structure of the file and its indexes; the checksum of every row; that positions have no gaps in
each execution and channel; that every number of each stream is there once, or is told as lost by a loss event.
Exit status: 0 sound, 1 damaged, 6 cannot be read at all. While a broker is at work, its write-ahead log grows
until the check has ended: look at a backup instead, if the journal is large.

examples:
  theorbo journal check
  theorbo journal check backup/journal.sqlite --json | jq .problems
"""

_EXPORT = """\
Each line is one event, as theorbo tail --json shows it; theorbo schema prints their JSON Schema. With names of
executions (digits from the beginning or end of the id will do) one follows the other; without, all events come in
the order of the journal. TIME is like 2026-11-22T14:30, or how long ago: 30s, 10m, 2h, 3d.
Exit status: 0, or 1 if damaged batches were left out (they are told on stderr).

examples:
  theorbo journal export > everything.jsonl
  theorbo journal export 3f2a91bc 77ab01d2 --since 3d -o two.jsonl
  theorbo journal export --journal backup/journal.sqlite | jq -r 'select(.kind=="log").text'
"""

_COMPACT = """\
Retention gives space back in small steps, at the end of the file. This writes the whole file anew, without any free
space in it, and needs as much room as the journal has for the time being. The journal is checked first (theorbo
journal check); a damaged one stays as it is.

example:
  theorbo journal compact /var/lib/theorbo
"""

_RECOVER = """\
A broker does this by itself when it starts with a journal that is damaged. All that is readable goes into a new file;
the damaged one is kept beside it. What is missing is told to the executions by loss events.

A backup that is put into service needs it too, for senders and readers know of events that came after the backup:
a sound journal only gets a new identity, by which they notice, and deliver again what they still have.

example:
  cp backup/journal.sqlite /var/lib/theorbo/ && theorbo journal recover /var/lib/theorbo
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="theorbo journal", description="Look after a broker's journal.", epilog=_EPILOG, formatter_class=raw
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, what: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", epilog=epilog, formatter_class=raw
        )

    place = {
        "nargs": "?",
        "type": Path,
        "metavar": "DIR|FILE",
        "help": "state directory, or journal (default: your own)",
    }
    one = command("check", "say whether a journal is as it was written", _CHECK)
    one.add_argument("place", **place)  # type: ignore[arg-type]
    one.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    one.set_defaults(run=_check)
    one = command("export", "write the events of a journal as lines of JSON", _EXPORT)
    one.add_argument("executions", nargs="*", metavar="EXECUTION", help="only of these")
    one.add_argument("--since", metavar="TIME", help="only what was journaled at that time or later")
    one.add_argument("-o", "--output", metavar="FILE", type=Path, help="write here; the file appears when it is whole")
    one.add_argument("--journal", metavar="DIR|FILE", type=Path, help="state directory, or journal (default: your own)")
    one.set_defaults(run=_export)
    one = command("compact", "write a journal anew without free space", _COMPACT)
    one.add_argument("place", **place)  # type: ignore[arg-type]
    one.set_defaults(run=_compact)
    one = command("recover", "keep what is good of a damaged journal, or put a backup into service", _RECOVER)
    one.add_argument("place", **place)  # type: ignore[arg-type]
    one.set_defaults(run=_recover)
    return parser


# --- check -----------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    path = journal_at(options.place)
    found, about = _checked(path)
    if options.json:
        print(json_line({**about, **found._asdict(), "problems": [each._asdict() for each in found.problems]}))
    else:
        print("\n".join(check.report(path, found)))
    return ExitStatus.FAILED if found.problems else ExitStatus.COMPLETED


def _checked(path: Path) -> tuple[check.Checked, dict[str, object]]:
    """What the check finds. Raises Unavailable."""
    progress = _Progress()
    about: dict[str, object] = {"journal": str(path), "sound": False, "bytes": path.stat().st_size, "broker": None}
    try:
        connection = open_to_read(path)
    except JournalDamaged as damaged:
        problem = check.Problem(check.STRUCTURE, damaged.problem)
        return check.Checked(0, 0, 0, 0, 0, [problem]), about
    try:
        found = check.check(connection, lambda look, done: progress.show(f"{look}: {done}"))
        with contextlib.suppress(sqlite3.Error, JournalDamaged):
            about["broker"] = JournalReader(connection, path).identity()
        return found, {**about, "sound": not found.problems}
    finally:
        progress.end()
        connection.close()


class _Progress:
    """One line on a terminal that says how far a long look is."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()
        self._width = 0
        self._terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._terminal and time.monotonic() - self._shown_at > _PROGRESS_S:
            self._shown_at = time.monotonic()
            self._width = max(self._width, len(text))
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)


_PROGRESS_S = 0.5


# --- export ----------------------------------------------------------------------------------------


def _export(options: argparse.Namespace) -> int:
    since = 0.0 if options.since is None else point_in_time(options.since, time.time())
    path = journal_at(options.journal)
    connection = open_to_read(path)
    progress = _Progress()
    try:
        executions = chosen(connection, options.executions)
        export = Export(connection, JournalReader(connection, path))
        with _output(options.output) as file:
            for line in export.lines(executions, since):
                file.write(line + "\n")
                if options.output:
                    progress.show(f"{export.events} events")
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalDamaged(path, str(error)) from None
        raise Unavailable(f"cannot read journal {path}: {error}") from None
    finally:
        progress.end()
        connection.close()
    for batch in export.damaged:
        channel = (
            Channel(batch.channel).text if batch.channel in set(Channel) else batch.channel
        )  # it may be the damage
        what = f"{batch.source}/{channel}, numbers {batch.first} to {batch.last}"
        print(
            f"theorbo journal: left out, for it is damaged: execution {batch.execution.hex()}, {what}", file=sys.stderr
        )
    return ExitStatus.FAILED if export.damaged else ExitStatus.COMPLETED


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[str]]:
    """stdout, or a file that gets its name when all is in it. Raises Unavailable."""
    if path is None:
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a pipe, or /dev/stdout: no file may take its place
            with path.open("w") as file:
                yield file
        else:
            with _whole(path) as file:
                yield file
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from None


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# --- compact and recover -----------------------------------------------------------------------------


def _compact(options: argparse.Namespace) -> int:
    path = journal_at(options.place)
    with _alone(path):
        found, _ = _checked(path)
        for problem in found.problems:
            if problem.look in (check.STRUCTURE, check.CHECKSUMS):  # VACUUM may succeed all the same, and keep no copy
                raise JournalDamaged(path, problem.text)
        before = path.stat().st_size
        connection = open_journal(path)
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            if is_damage(error):
                raise JournalDamaged(path, str(error)) from None
            raise Unavailable(
                f"cannot compact {path}: {error}; it needs as much free space as the journal has"
            ) from None
        finally:
            connection.close()
    after = path.stat().st_size
    print(f"{path} had {_size(before)}, and has {_size(after)} now")
    return ExitStatus.COMPLETED


def _recover(options: argparse.Namespace) -> int:
    path = journal_place(options.place)
    if not recovery.is_marked(path):  # else a recovery may have been killed when the old file was away already
        path = journal_at(options.place)
    with _alone(path):
        if not recovery.is_marked(path):
            found, _ = _checked(path)
            if not found.problems:
                recovery.renew(path)
                print(
                    f"{path} is sound: {found.batches} batches; it has a new identity now, so that senders and readers"
                )
                print("notice, and what they still have of what is missing is delivered again")
                return ExitStatus.COMPLETED
            recovery.mark(path, found.problems[0].text, time.time())
        salvaged = recovery.recover(path, time.time(), _say)
        journal_at(path)  # somebody may have moved it away
    if salvaged:
        print(
            f"kept {salvaged.rows} batches of {salvaged.executions} executions; "
            f"{salvaged.lost_events} events are lost, and told so to their executions"
        )
    return ExitStatus.COMPLETED


def _say(note: Note) -> None:
    fields = ", ".join(f"{name} {value}" for name, value in note.fields.items())
    print(f"theorbo journal: {note.text}: {fields}", file=sys.stderr)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No broker may use the journal meanwhile. Raises AlreadyRunning."""
    lock = Lock(path.parent, embedded=False)
    try:
        yield
    finally:
        lock.release()


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
