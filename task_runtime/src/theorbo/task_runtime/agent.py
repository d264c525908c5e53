"""`theorbo agent`: delivers the spool of one node and execution to the broker. The skin of `agent_core`.

One thread, one loop: look at the files that changed, read, send, perform what the core decided, wait for
inotify, the broker, a signal, `theorbo launch`, or the next tick. It needs pyzmq and inotify_simple.

It may die at any time: the next agent takes over from the checkpoint and its predecessor's own records.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import inotify_simple  # type: ignore[import-untyped]
import zmq

from theorbo.schemas import __version__
from theorbo.schemas.command import guarded
from theorbo.schemas.connection import write_whole
from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import ExitStatus, Unavailable, UsageError
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.limits import (
    BUSY_EVENTS,
    BUSY_NAP_S,
    CHECKPOINT_S,
    CONNECT_S,
    LOOK_S,
    OWN_RECORDS_BYTES,
)
from theorbo.schemas.link import Link
from theorbo.schemas.names import Source, SourceKind, Speaker, new_incarnation
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import (
    ATTACHMENTS,
    CHECKPOINT,
    END,
    PRESSURE,
    Pressure,
    append,
    checked_execution,
    open_append,
    own_directory,
    spool_files,
    spool_name,
)
from theorbo.task_runtime import processes
from theorbo.task_runtime.agent_core import (
    AgentCore,
    AgentInstruction,
    Complain,
    Forget,
    Life,
    Report,
    TellLauncher,
)
from theorbo.task_runtime.file_space import punch_hole, reserve
from theorbo.task_runtime.rank_ending import SendSignal

READY = b"ready\n"
"""Said to `theorbo launch` once the broker has welcomed us. Then, when ranks are being ended:
`ending SECONDS` (the grace). When the other end closes, the launch has died."""

_WATCHED = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO
_READS_AT_ONCE = 16  # then it is time to send, and to listen


class Agent:
    """One agent, from `run` to its exit status."""

    def __init__(self, spool: Path, broker: Path, node: int, launcher: socket.socket | None) -> None:
        """Raises UsageError or Unavailable, if there is no such spool, or another agent delivers it."""
        self._execution = checked_execution(spool.name)
        if not spool.is_dir():
            raise UsageError(f"there is no spool {spool}")
        own_directory(spool)
        self._spool, self._broker, self._launcher = spool, broker, launcher
        own = spool / spool_name(Source(SourceKind.AGENT, node))
        self._own = open_append(own)
        try:
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when we die, however that happens
        except OSError:
            raise Unavailable(f"another agent is delivering {spool}") from None
        with contextlib.suppress(OSError):
            reserve(self._own, OWN_RECORDS_BYTES)
        own_records = own.read_bytes()
        self._takes_over = bool(own_records)
        # until the spool has an epoch file
        self._speaker = Speaker(self._execution, Source(SourceKind.AGENT, node), 1, new_incarnation())
        self._core = AgentCore(self._execution, node, _load_json(spool / CHECKPOINT), own_records)
        self._reports: deque[bytes] = deque()  # to be written to our own file
        self._checkpoint: Any = None  # as last written
        self._can_free = True
        self._pressure = Pressure.FREE
        self._stopped = False
        self._alone = launcher is None  # nobody tells us the end, nor removes the spool
        self._started_at = time.time() - time.monotonic()
        self._look_at = self._checkpoint_at = self._signals_at = 0.0
        self._known_ranks: set[int] = set()
        self._said_ready = False
        self._polled: Any = None  # the socket for which pollers were made

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Deliver until the end. Raises Refused, ProtocolError, UsageError or Unavailable."""
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self._inotify.add_watch(self._spool, _WATCHED)
        self._wakeup = _wake_on_signals(self._on_signal)
        self._perform(self._core.start(socket.gethostname(), __version__))
        self._link = self._open_link()
        try:
            while self._core.life is not Life.CLOSED:
                if self._stopped:
                    self._save_checkpoint()
                    print(f"theorbo agent: ended by a signal; the rest is in {self._spool}", file=sys.stderr)
                    return ExitStatus.UNAVAILABLE
                busy = self._round()
                self._wait(nap=busy)
        finally:
            self._link.close()
        if self._alone:
            shutil.rmtree(self._spool, ignore_errors=True)
        return ExitStatus.COMPLETED

    def _now(self) -> float:
        """Unix time, as it was at the start, by a clock that is never set back: else nothing would be due for long."""
        return self._started_at + time.monotonic()

    def _round(self) -> bool:
        """Everything that can be done now. Tells whether there was much to read."""
        now = self._now()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._tick()
        for message in self._link.receive():
            self._perform(self._core.handle(message, now))
            if message.command == Command.WELCOME:
                self._say_ready()
        events = self._read(time.time())
        self._perform(self._core.advance(now))
        self._write_reports()
        self._signal_ranks(now)
        self._perform(self._core.outgoing(now))
        if now >= self._checkpoint_at or self._core.wants_checkpoint:
            self._checkpoint_at = now + CHECKPOINT_S
            self._save_checkpoint()
        return events >= BUSY_EVENTS

    def _wait(self, *, nap: bool) -> None:
        if self._link.socket is not self._polled:
            self._make_pollers()
        if nap:
            self._poll(self._napping, BUSY_NAP_S)
        elif self._core.next_read() is None and self._core.life is not Life.CLOSED:
            until = min(self._look_at, self._signals_at) if self._core.ending.requested else self._look_at
            self._poll(self._awake, until - self._now())
        self._look_at_changes()

    def _poll(self, poller: zmq.Poller, timeout_s: float) -> None:
        ready = dict(poller.poll(max(0, int(timeout_s * 1000) + 1)))
        if self._wakeup.fileno() in ready:
            self._wakeup.recv(4096)
        if self._launcher and self._launcher.fileno() in ready and not self._launcher.recv(4096):
            self._launcher.close()
            self._launcher, self._alone, self._polled = None, True, None

    def _make_pollers(self) -> None:
        """Two: while napping after much work, changes in the spool do not wake us."""
        self._polled = self._link.socket
        self._napping = self._poller(self._link.socket)
        self._awake = self._poller(self._link.socket, self._inotify.fileno())

    def _poller(self, *more: Any) -> zmq.Poller:
        poller = zmq.Poller()
        for descriptor in (self._wakeup.fileno(), *([self._launcher.fileno()] if self._launcher else []), *more):
            poller.register(descriptor, zmq.POLLIN)
        return poller

    def _tick(self) -> None:
        self._link.tick()
        self._look_at_everything()
        if self._alone and self._core.life is Life.DELIVERING and not processes.users_of_spool(self._spool):
            self._look_at_everything()
            self._core.end()
        self._adjust_pressure()

    # --- the broker -------------------------------------------------------------------------------

    def _open_link(self) -> Link:
        """A first agent must be welcomed. One that takes over tries for ever: the spool keeps everything."""
        while not self._stopped:
            try:
                link = Link(self._broker, self._speaker)
            except (UsageError, Unavailable):
                if not self._takes_over:
                    raise
                self._poll(self._poller(), LOOK_S)  # the broker writes its file when it is back
                continue
            if not self._takes_over:
                try:
                    link.wait_welcome(CONNECT_S)
                except BaseException:
                    link.close()
                    raise
                self._core.delivery.welcomed()
                self._say_ready()
            return link
        raise Unavailable(f"ended by a signal before a broker answered; the rest is in {self._spool}")

    def _say_ready(self) -> None:
        if not self._said_ready:
            self._said_ready = True
            self._tell_launcher(READY)

    def _tell_launcher(self, line: bytes) -> None:
        if self._launcher:
            with contextlib.suppress(OSError):  # it has died; we shall see
                self._launcher.send(line)

    # --- the spool --------------------------------------------------------------------------------

    def _look_at_changes(self) -> None:
        names = {event.name for event in self._inotify.read(timeout=0)}
        if "" in names:  # the queue of events has overflowed
            self._look_at_everything()
            return
        self._look_at_files(names)
        if END in names:
            self._look_at_everything()

    def _look_at_everything(self) -> None:
        ended = (self._spool / END).exists()  # before the sizes: what was written before the end counts
        self._look_at_files({path.name for path, _, _ in spool_files(self._spool)})
        if ended:
            self._core.end()

    def _look_at_files(self, names: set[str]) -> None:
        """See `AgentCore.outputs_beside`."""
        for name in names:
            self._look_at_file(name)
        for name in names:
            for output in self._core.outputs_beside(name):
                self._look_at_file(output)

    def _look_at_file(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a file that is written and renamed has gone by now
            self._perform(self._core.resize(name, os.stat(self._spool / name).st_size))  # noqa: PTH116 - often

    def _read(self, now: float) -> int:
        offered = 0
        for _ in range(_READS_AT_ONCE):
            wanted = self._core.next_read()
            if wanted is None:
                break
            with (self._spool / wanted.file.name).open("rb", buffering=0) as file:
                chunk = os.pread(file.fileno(), wanted.length, wanted.offset)
            before = sum(wanted.file.counts.values())
            self._perform(self._core.take(wanted.file, chunk, now))
            offered += sum(wanted.file.counts.values()) - before
            if len(chunk) < wanted.length:  # it has been truncated just now
                self._look_at_file(wanted.file.name)
        return offered

    def _save_checkpoint(self) -> None:
        checkpoint = self._core.checkpoint()
        if checkpoint != self._checkpoint:
            try:
                write_whole(self._spool / CHECKPOINT, json.dumps(checkpoint), 0o600)
            except Unavailable:
                return  # a full disk: a second agent would read, and the broker drop, a little more
            self._checkpoint = checkpoint
            self._core.checkpoint_written()
            self._free()

    def _free(self) -> None:
        for file, offset, length in self._core.to_free() if self._can_free else ():
            with (self._spool / file.name).open("r+b", buffering=0) as opened:
                self._can_free = punch_hole(opened.fileno(), offset, length)
            if not self._can_free:
                return
            file.freed = offset + length

    def _adjust_pressure(self) -> None:
        attachment_bytes = 0
        with os.scandir(self._spool / ATTACHMENTS) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile by the rank that stores it
                    attachment_bytes += entry.stat().st_size
        pressure = self._core.pressure(attachment_bytes, can_free=self._can_free)
        if pressure != self._pressure:
            with (self._spool / PRESSURE).open("r+b", buffering=0) as file:  # in place: writers have it mapped
                file.write(pressure)
            self._pressure = pressure

    # --- what the core decided ----------------------------------------------------------------------

    def _perform(self, instructions: list[Any]) -> None:
        for instruction in instructions:
            self._perform_one(instruction)

    def _perform_one(self, it: AgentInstruction) -> None:
        if isinstance(it, Message):
            self._link.send(it)
        elif isinstance(it, SendChunk):
            self._link.send(self._core.chunk(it, self._attachment_bytes(it)))
        elif isinstance(it, Report):
            self._reports.append(encode_record({**it.fields, "time": time.time(), "pid": os.getpid()}))
        elif isinstance(it, Forget):
            (self._spool / ATTACHMENTS / it.attachment.sha256).unlink(missing_ok=True)
        elif isinstance(it, SendSignal):
            processes.send_signal(it.process, it.number)
        elif isinstance(it, TellLauncher):
            self._signals_at = 0.0
            self._tell_launcher(f"ending {it.grace_s:.3f}\n".encode())
        elif isinstance(it, Complain):
            print(f"theorbo agent: {it.text}", file=sys.stderr)

    def _write_reports(self) -> None:
        """What does not fit on a full disk is tried again at the next round."""
        while self._reports:
            try:
                append(self._own, self._reports[0])
            except OSError:
                return
            self._reports.popleft()
            self._perform(self._core.written(os.fstat(self._own).st_size))

    def _attachment_bytes(self, wanted: SendChunk) -> bytes | None:
        path = self._spool / ATTACHMENTS / wanted.attachment.sha256
        try:
            with path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), wanted.length, wanted.offset)
        except OSError:
            return None

    def _signal_ranks(self, now: float) -> None:
        """The process table is read when it matters: a request, a rank more or less, SIGKILL due, a tick."""
        ending, ranks = self._core.ending, set(self._core.ranks)
        if ending.kill_at is None or (ranks == self._known_ranks and now < self._signals_at):
            return
        self._known_ranks = ranks
        self._signals_at = min(now + LOOK_S, ending.kill_at if ending.kill_at > now else now + LOOK_S)
        self._perform(self._core.signals_due(processes.process_table(), now))
        self._write_reports()

    # --- signals ------------------------------------------------------------------------------------

    def _on_signal(self, *_: object) -> None:
        self._stopped = True


def _wake_on_signals(handler: Any) -> socket.socket:
    """A socket that becomes readable when SIGTERM or SIGINT has arrived."""
    ours, interpreters = socket.socketpair()
    interpreters.setblocking(False)
    signal.set_wakeup_fd(interpreters.detach())
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes is no reason to leave
    return ours


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    parser = argparse.ArgumentParser(
        prog="theorbo agent",
        description="Deliver what the ranks of an execution have left in a spool directory of this node to the "
        "broker, until all have ended and everything is in the journal. theorbo launch starts it; by hand it "
        "delivers what was left behind when no broker could be reached, and removes the spool afterwards.",
        epilog="example:\n  theorbo agent --spool /tmp/theorbo-1000/0197... --broker connection.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--spool", type=Path, required=True, metavar="DIR", help="ROOT/theorbo-UID/EXECUTION")
    parser.add_argument("--broker", type=Path, required=True, metavar="FILE", help="the broker's connection file")
    parser.add_argument("--node", type=int, default=0, metavar="N", help="number of this node in the execution")
    parser.add_argument("--launcher-fd", type=int, metavar="N", help=argparse.SUPPRESS)  # a socket; see READY
    arguments = parser.parse_args(argv)
    launcher = None if arguments.launcher_fd is None else socket.socket(fileno=arguments.launcher_fd)
    if launcher:
        launcher.set_inheritable(False)
    return Agent(arguments.spool.absolute(), arguments.broker, arguments.node, launcher).run()


if __name__ == "__main__":
    sys.exit(guarded("agent", lambda: main(sys.argv[1:])))
