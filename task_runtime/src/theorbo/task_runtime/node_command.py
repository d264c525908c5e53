"""The commands that start nodes, as `theorbo launch` sees them: processes, and lines to and from them. A skin."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from theorbo.schemas.launch_plan import NodeStart
from theorbo.schemas.limits import GOODBYE_S, LAUNCHER_STDERR_BYTES
from theorbo.task_runtime.node_protocol import LAST_WORDS, NodePlan, Said, decode_said, encode_line
from theorbo.task_runtime.wrapper import NOT_FOUND

NAMED_CHARACTERS = 40  # of a command in an error: enough for `ssh HOST`


class NodeCommand:
    """`ssh HOST python -m theorbo.task_runtime.node …`, or srun with the same."""

    def __init__(self, start: NodeStart) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._down = self._up = self._words_fd = -1
        self._text = self._words = b""
        self._left: set[int] = set()  # nodes that have not said their last word
        self.open: set[int] = set()
        """Its stdout and stderr, to be watched, as long as they are open."""

    @property
    def name(self) -> str:
        """What it is called in errors."""
        words = shlex.join(self._start.command)
        return words if len(words) <= NAMED_CHARACTERS else f"{words[: NAMED_CHARACTERS - 1]}…"

    def start(self, plan: NodePlan) -> None:
        """Start it and give it the plan. Raises OSError."""
        by_shell = Path(*self._start.command[:1]).name == "ssh"  # which hands it to a shell there
        python = shlex.quote(sys.executable) if by_shell else sys.executable
        program = [python, "-P", "-m", "theorbo.task_runtime.node", "--number", str(self._start.first)]
        if self._start.nodes > 1:
            program.append("--several")
        self._text = self._words = b""
        self._left = set(range(self._start.first, self._start.first + self._start.nodes))
        process = subprocess.Popen(
            [*self._start.command, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0, cwd="/",
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._down, self._up, self._words_fd = (
            os.dup(pipe.fileno()) for pipe in (process.stdin, process.stdout, process.stderr)
        )
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        for descriptor in (self._up, self._words_fd):
            os.set_blocking(descriptor, False)
        self.open = {self._up, self._words_fd}
        self.tell(plan._asdict())

    def tell(self, fields: dict[str, object]) -> None:
        """One line down, to all nodes of this command. They may be gone."""
        if self._down < 0:
            return
        with contextlib.suppress(OSError):
            os.write(self._down, encode_line(fields))

    def said(self) -> list[Said]:
        """The lines that nodes have said since. What else came on stdout is kept for `words`."""
        self._text += self._read(self._up)
        *lines, self._text = self._text.split(b"\n")
        said = []
        for line in lines:
            known = decode_said(line)
            if known:
                said.append(known)
                if known.says in LAST_WORDS:
                    self._left.discard(known.node)
            else:
                self._words = (self._words + line + b"\n")[-LAUNCHER_STDERR_BYTES:]
        if not self._left:
            self.close_down()  # some commands end only when there is nothing more to be handed on
        return said

    def read_words(self) -> None:
        """What it has written to stderr since."""
        self._words = (self._words + self._read(self._words_fd))[-LAUNCHER_STDERR_BYTES:]

    def words(self) -> str:
        """The last line that is none of a node."""
        last = self._words.decode(errors="replace").strip().rpartition("\n")[2].strip()
        return last.removeprefix("theorbo node: ")

    def ended(self) -> int | None:
        """The status of a process that has just ended; None if it runs, or was seen to end."""
        status = self._process.poll() if self._process else None
        if status is not None:
            self._process = None
        return status

    def close(self) -> None:
        """Let go of the pipes of a process that has ended."""
        for descriptor in (self._down, self._up, self._words_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.open = set()
        self._down = self._up = self._words_fd = -1

    def end(self) -> None:
        """End the process, and what it may have started on this machine."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self, until: float) -> None:
        """Wait for its end until then (by the monotonic clock); then end it."""
        if self._process:
            try:
                self._process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.end()
                self._process.wait()

    def close_down(self) -> None:
        """Nothing more will be told."""
        if self._down >= 0:
            os.close(self._down)
            self._down = -1

    def _read(self, descriptor: int) -> bytes:
        """Everything that is there now."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            while descriptor in self.open:
                more = os.read(descriptor, 65536)
                text += more
                if not more:
                    self.open.remove(descriptor)
        return text


class Head(Protocol):
    """Who watches descriptors, and wants to know what nodes say."""

    def watch(self, descriptor: int, reader: Callable[[], None]) -> None:
        """Call `reader` when there is something to read."""

    def unwatch(self, descriptor: int) -> None:
        """No more."""

    def on_said(self, said: Said) -> None:
        """A node has said something."""

    def on_command_ended(self, index: int, status: int, words: str, name: str) -> None:
        """A command has ended, or could not be started."""


class NodeCommands:
    """All commands of a plan, by their place in it."""

    def __init__(self, starts: Sequence[NodeStart], head: Head) -> None:
        self._commands = [NodeCommand(start) for start in starts]
        self._head = head

    def start(self, index: int, plan: NodePlan) -> None:
        """Start one, a first or a second time."""
        command = self._commands[index]
        try:
            command.start(plan)
        except OSError as error:
            why = f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
            self._head.on_command_ended(index, NOT_FOUND, why, command.name)
        else:
            for descriptor in command.open:
                self._head.watch(descriptor, lambda: self._read(command))

    def tell(self, fields: dict[str, object]) -> None:
        """One line down, to all nodes."""
        for command in self._commands:
            command.tell(fields)

    def end(self, index: int) -> None:
        """End one; its end is told as any other."""
        self._commands[index].end()

    def reap(self) -> None:
        """A child has ended: tell of the commands that have."""
        for index, command in enumerate(self._commands):
            status = command.ended()
            if status is not None:
                self._read(command)  # what was said before
                for descriptor in command.open:
                    self._head.unwatch(descriptor)
                command.close()
                self._head.on_command_ended(index, status, command.words(), command.name)

    def stop(self) -> None:
        """Wait for the end of all, a little; then end them."""
        for command in self._commands:
            command.close_down()
        until = time.monotonic() + GOODBYE_S
        for command in self._commands:
            command.stop(until)

    def _read(self, command: NodeCommand) -> None:
        watched = set(command.open)
        command.read_words()
        for said in command.said():
            self._head.on_said(said)
        for descriptor in watched - command.open:
            self._head.unwatch(descriptor)
