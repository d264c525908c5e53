"""`theorbo agent`: delivers the spool of one node and execution to the broker. The skin of `agent_core`.

One thread, one loop: look at the files that changed, read, send, perform what the core decided, wait for
inotify, the broker, a signal, `theorbo launch`, or the next tick. It needs pyzmq and inotify_simple.

It may die at any time: the next agent takes over from the checkpoint and its predecessor's own records, with a
higher epoch, by which the broker tells the two apart. One that is *fenced* (another has taken over) ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from theorbo.schemas import __version__
from theorbo.schemas.command import guarded
from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import ExitStatus, Refused, Unavailable, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Message
from theorbo.schemas.limits import (
    BUSY_EVENTS,
    BUSY_NAP_S,
    CHECKPOINT_S,
    CONNECT_S,
    GRACE_S,
    LOOK_S,
    PRESSURE_S,
    SPOOL_BYTES,
    UNDELIVERED_S,
    USAGE_S,
)
from theorbo.schemas.link import Link
from theorbo.schemas.names import Source, SourceKind, Speaker, new_incarnation
from theorbo.schemas.records import split_body
from theorbo.schemas.spool import checked_execution, take_epoch, tell_cancelled
from theorbo.task_runtime import processes
from theorbo.task_runtime.agent_core import AgentCore, Life
from theorbo.task_runtime.agent_process import LEAVE
from theorbo.task_runtime.agent_spool import NodeSpool
from theorbo.task_runtime.agent_usage import sample
from theorbo.task_runtime.instructions import AgentInstruction, Complain, Forget, Inspect, Report, TellLauncher
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.time_limit import TimeLimit
from theorbo.task_runtime.usage import Sample, usage

READY = b"ready\n"
"""Said to `theorbo launch` once the broker has welcomed us. Then, when ranks are being ended:
`ending SECONDS` (the grace); and `fenced`, by one that is. When the other end closes, the launch has died."""


class Agent:
    """One agent, from `run` to its exit status."""

    def __init__(
        self, spool: Path, broker: Path, node: int, launcher: socket.socket | None, spool_bytes: int = SPOOL_BYTES,
        time_limit: TimeLimit | None = None,
    ) -> None:  # fmt: skip
        """Raises UsageError or Unavailable, if there is no such spool, or another agent delivers it."""
        execution, source = checked_execution(spool.name), Source(SourceKind.AGENT, node)
        self._spool = NodeSpool(spool, source)
        self._broker, self._launcher, self._host = broker, launcher, socket.gethostname()
        epoch = take_epoch(spool, least=_last_epoch(self._spool.own_records) + 1)
        self._speaker = Speaker(execution, source, epoch, new_incarnation())
        self._takes_over = bool(self._spool.own_records)
        self._core = AgentCore(
            execution, node, self._spool.checkpoint, self._spool.own_records, spool_bytes, time_limit
        )
        self._spool.attach(self._core, self._perform)
        self._link: Link | None = None
        self._stopped = False
        self._alone = launcher is None  # nobody tells us the end, nor removes the spool
        self._started_at = time.time() - time.monotonic()
        self._look_at = self._checkpoint_at = self._pressure_at = self._usage_at = 0.0
        self._sample: Sample | None = None
        self._progress_at = self._now()  # when something was acknowledged last, or the ranks had ended
        self._said_ready = False
        self._polled: Any = None  # what pollers were made for

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Deliver until the end. Raises Refused, ProtocolError, UsageError or Unavailable."""
        self._wakeup = _wake_on_signals(self._on_signal)
        speaker = self._speaker
        who = (self._host, __version__, speaker.epoch, speaker.incarnation)
        self._perform(self._core.start(*who, now=self._now()))
        self._perform(self._core.resumed(self._now()))
        try:
            if not self._takes_over:
                self._open_link()
            while self._core.life is not Life.CLOSED:
                if self._stopped:
                    self._spool.save()
                    print(f"theorbo agent: told to end; the rest is in {self._spool.path}", file=sys.stderr)
                    return ExitStatus.UNAVAILABLE
                busy = self._round()
                self._wait(nap=busy)
        except Refused as refusal:
            if refusal.code != ErrorCode.FENCED:
                raise
            self._tell_launcher(b"fenced\n")
            words = f"another agent has taken over, so this one ends; the spool stays: {self._spool.path} ({refusal})"
            raise Refused(refusal.code, words) from None
        finally:
            if self._link:
                self._link.close()
        if self._alone:
            self._spool.remove()
        return ExitStatus.COMPLETED

    def _now(self) -> float:
        """Unix time, as it was at the start, by a clock that is never set back: else nothing would be due for long."""
        return self._started_at + time.monotonic()

    def _round(self) -> bool:
        """Everything that can be done now. Tells whether there was much to read."""
        now = self._now()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._tick(now)
        for message in self._link.receive() if self._link else []:
            self._perform(self._core.handle(message, now))
            if message.command == Command.WELCOME:
                self._say_ready()
            elif message.command == Command.ACK:
                self._progress_at = now
        events = self._spool.read(time.time())
        self._perform(self._core.advance(now))
        self._spool.write_reports()
        self._signal_ranks(now)
        if now >= self._checkpoint_at or self._core.wants_checkpoint:
            self._checkpoint_at = now + CHECKPOINT_S
            self._spool.save()
        if now >= self._pressure_at:
            self._pressure_at = now + PRESSURE_S
            self._spool.adjust_pressure(now)
        if now >= self._usage_at and self._core.life is Life.DELIVERING:
            self._usage_at = now + USAGE_S
            self._report_usage()
        self._perform([*self._core.outgoing(now)])
        return events >= BUSY_EVENTS

    def _wait(self, *, nap: bool) -> None:
        if self._polled != (self._link and self._link.socket, self._launcher):
            self._make_pollers()
        if nap:
            self._poll(self._napping, BUSY_NAP_S)
        elif self._core.next_read() is None and self._core.life is not Life.CLOSED:
            self._poll(self._awake, min(self._look_at, self._core.control.look_at) - self._now())
        self._spool.look_at_changes()

    def _poll(self, poller: zmq.Poller, timeout_s: float) -> None:
        ready = dict(poller.poll(max(0, int(timeout_s * 1000) + 1)))
        if self._wakeup.fileno() in ready:
            self._wakeup.recv(4096)
        if self._launcher and self._launcher.fileno() in ready:
            told = self._launcher.recv(4096)
            self._stopped = self._stopped or LEAVE in told
            if not told:
                self._launcher.close()
                self._launcher, self._alone = None, True

    def _make_pollers(self) -> None:
        """Two: while napping after much work, changes in the spool do not wake us."""
        self._polled = (self._link and self._link.socket, self._launcher)
        sockets = [self._link.socket] if self._link else []
        self._napping = self._poller(*sockets)
        self._awake = self._poller(*sockets, self._spool.fileno())

    def _poller(self, *more: Any) -> zmq.Poller:
        poller = zmq.Poller()
        for descriptor in (self._wakeup.fileno(), *([self._launcher.fileno()] if self._launcher else []), *more):
            poller.register(descriptor, zmq.POLLIN)
        return poller

    def _tick(self, now: float) -> None:
        if self._link:
            self._link.tick()
        else:
            with contextlib.suppress(UsageError, Unavailable):  # the broker writes its file when it is back
                self._link = Link(self._broker, self._speaker)
        delivering = self._core.life is Life.DELIVERING
        self._spool.look_at_everything()
        if self._alone and delivering and not processes.users_of_spool(self._spool.path):
            self._spool.look_at_everything()
            self._core.end()
        if delivering:
            self._progress_at = now
        elif self._alone and now - self._progress_at > UNDELIVERED_S:
            self._spool.save()
            again = shlex.join(["theorbo", "agent", "--spool", str(self._spool.path), "--broker", str(self._broker)])
            raise Unavailable(
                f"the ranks have ended, and no broker has taken anything for {UNDELIVERED_S:.0f} s. Nothing is lost: "
                f"the rest is in {self._spool.path}; deliver it by {again}"
            )

    # --- the broker -------------------------------------------------------------------------------

    def _open_link(self) -> None:
        """A first agent must be welcomed. One that takes over tries for ever: the spool keeps everything."""
        self._link = Link(self._broker, self._speaker)
        self._core.welcomed(self._link.wait_welcome(CONNECT_S))
        self._say_ready()

    def _say_ready(self) -> None:
        if not self._said_ready:
            self._said_ready = True
            self._tell_launcher(READY)

    def _tell_launcher(self, line: bytes) -> None:
        if self._launcher:
            with contextlib.suppress(OSError):  # it has died; we shall see
                self._launcher.send(line)

    # --- what the core decided ----------------------------------------------------------------------

    def _perform(self, instructions: list[AgentInstruction]) -> None:
        for instruction in instructions:
            self._perform_one(instruction)

    def _perform_one(self, it: AgentInstruction) -> None:
        if isinstance(it, Message):
            self._send(it)
        elif isinstance(it, SendChunk):
            self._send(self._core.chunk(it, self._spool.attachment_bytes(it)))
        elif isinstance(it, Report):
            self._spool.report(it.fields)
        elif isinstance(it, Forget):
            self._spool.forget(it.attachment)
        elif isinstance(it, SendSignal):
            processes.send_signal(it.process, it.number)
        elif isinstance(it, Inspect):
            found = {rank: list(filter(None, map(processes.inspect, many))) for rank, many in it.members.items()}
            self._perform(self._core.inspected(found))
        elif isinstance(it, TellLauncher):
            tell_cancelled(self._spool.path)
            self._tell_launcher(f"ending {it.grace_s:.3f}\n".encode())
        elif isinstance(it, Complain):
            print(f"theorbo agent: {it.text}", file=sys.stderr)

    def _send(self, message: Message) -> None:
        if self._link:
            self._link.send(message)

    def _signal_ranks(self, now: float) -> None:
        """The process table is read only when something is to be done to ranks."""
        if now >= self._core.control.look_at:
            self._perform(self._core.signals_due(processes.process_table(), now))
            self._spool.write_reports()

    def _report_usage(self) -> None:
        """A rate needs two samples: the first is taken soon after the first rank has started."""
        ranks = self._core.control.ranks.values()
        if not ranks:
            self._sample, self._usage_at = None, 0.0
            return
        former, self._sample = self._sample, sample(processes.members(ranks, processes.process_table()))
        if former:
            quiet = {rank.rank: self._spool.quiet_s(Source(SourceKind.RANK, rank.rank)) for rank in ranks}
            self._spool.write_usage({"host": self._host, **usage(former, self._sample, quiet)})

    # --- signals ------------------------------------------------------------------------------------

    def _on_signal(self, *_: object) -> None:
        """A batch scheduler signals everything at once. While somebody keeps us, what ranks leave at their end is still
        to be delivered; our keeper says when it is time to go (`LEAVE`).
        """
        if not self._launcher:
            self._stopped = True


def _last_epoch(own_records: bytes) -> int:
    """The highest epoch that stands in what earlier agents have reported."""
    epochs = [0]
    for text in split_body(own_records):
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            fields = json.loads(text)
            if fields.get("kind") == "agent_started":
                epochs.append(int(fields.get("epoch", 1)))
    return max(epochs)


def _wake_on_signals(handler: Any) -> socket.socket:
    """A socket that becomes readable when SIGTERM or SIGINT has arrived."""
    ours, interpreters = socket.socketpair()
    interpreters.setblocking(False)
    signal.set_wakeup_fd(interpreters.detach())
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes is no reason to leave
    return ours


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
    parser.add_argument(
        "--spool-bytes", type=int, default=SPOOL_BYTES, metavar="N",
        help=f"bound of what is not delivered yet, {SPOOL_BYTES} if not given; beyond it log and metrics are dropped",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit-s", type=float, metavar="SECONDS", help="of the execution, kept also when its Executor is gone"
    )
    parser.add_argument(
        "--grace-s", type=float, default=GRACE_S, metavar="SECONDS",
        help=f"between SIGTERM and SIGKILL when it is over, {GRACE_S:g} if not given",
    )  # fmt: skip
    parser.add_argument("--launcher-fd", type=int, metavar="N", help=argparse.SUPPRESS)  # a socket; see READY
    arguments = parser.parse_args(argv)
    limit_s = arguments.time_limit_s
    time_limit = None if limit_s is None else TimeLimit(limit_s, arguments.grace_s)
    launcher = None if arguments.launcher_fd is None else socket.socket(fileno=arguments.launcher_fd)
    if launcher:
        launcher.set_inheritable(False)
    agent = Agent(
        arguments.spool.absolute(), arguments.broker, arguments.node, launcher, arguments.spool_bytes,
        time_limit,
    )  # fmt: skip
    return agent.run()


if __name__ == "__main__":
    sys.exit(guarded("agent", lambda: main(sys.argv[1:])))
