"""The words of the wire: channels, sources, kinds of event, and which kind travels on which channel."""

from __future__ import annotations

import enum
import os
import re
from typing import NamedTuple


class Channel(enum.IntEnum):
    """Order holds within one (execution, source, channel); the number is the one in the header."""

    SIGNALS = 1
    LOG = 2
    METRICS = 3
    RESULTS = 4
    STDOUT = 5
    STDERR = 6

    @property
    def text(self) -> str:
        """The name that people read and that topics carry."""
        return self.name.lower()


class SourceKind(enum.IntEnum):
    """Who reports within an execution."""

    EXECUTOR = 1
    LAUNCHER = 2
    AGENT = 3
    RANK = 4
    BROKER = 5


class Source(NamedTuple):
    """One reporter within an execution: `rank:3`, `agent:0`, `executor`, `launcher`, `broker`."""

    kind: SourceKind
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    def __str__(self) -> str:
        """The name that people read."""
        name = self.kind.name.lower()
        return f"{name}:{self.index}" if self.kind in (SourceKind.RANK, SourceKind.AGENT) else name

    @property
    def rank(self) -> int | None:
        """The MPI rank, or None for all other sources."""
        return self.index if self.kind is SourceKind.RANK else None

    @classmethod
    def parse(cls, text: str) -> Source:
        """The inverse of `str()`. Raises ValueError for anything else."""
        name, _, index = text.partition(":")
        try:
            source = cls(SourceKind[name.upper()], int(index or 0))
        except (KeyError, ValueError):
            source = None
        if source is None or not 0 <= source.index < 2**32 or str(source) != text:
            raise ValueError(f"{text!r} is no source; examples: rank:0, agent:0, executor")
        return source


EXECUTOR = Source(SourceKind.EXECUTOR)
LAUNCHER = Source(SourceKind.LAUNCHER)
BROKER = Source(SourceKind.BROKER)


class Stream(NamedTuple):
    """The events of one source on one channel of an execution, numbered 1, 2, 3 … without gaps."""

    source: Source
    channel: Channel

    def __str__(self) -> str:
        """`rank:3/log`."""
        return f"{self.source}/{self.channel.text}"

    @classmethod
    def parse(cls, text: str) -> Stream:
        """The inverse of `str()`. Raises ValueError for anything else."""
        source, _, channel = text.partition("/")
        try:
            return cls(Source.parse(source), Channel[channel.upper()])
        except KeyError:
            raise ValueError(f"{text!r} is no stream; example: rank:0/log") from None


class Speaker(NamedTuple):
    """A process that speaks for a source of an execution: an Executor, or the agent of a node.

    The *epoch* fences off whoever comes back late: whoever takes over has a higher one than the process before, and
    the broker then refuses all that have a lower one, or the same with another incarnation.
    """

    execution: bytes
    source: Source
    epoch: int
    """1 of the first process, one more of each that took over."""
    incarnation: str
    """Of this very process: a text that no other has (see `new_incarnation`)."""


def new_incarnation() -> str:
    """16 random hexadecimal digits, for `Speaker.incarnation`."""
    return os.urandom(8).hex()  # not `secrets`: it loads OpenSSL, and every rank imports this module


KIND_CHANNELS = {
    # signals: these may change the state of an execution
    "execution_submitted": Channel.SIGNALS,
    "executor_attached": Channel.SIGNALS,
    "launcher_started": Channel.SIGNALS,
    "launcher_ended": Channel.SIGNALS,
    "launcher_gone": Channel.SIGNALS,
    "job_submitted": Channel.SIGNALS,
    "job_changed": Channel.SIGNALS,
    "node_lost": Channel.SIGNALS,
    "agent_started": Channel.SIGNALS,
    "agent_closed": Channel.SIGNALS,
    "agent_given_up": Channel.SIGNALS,
    "rank_started": Channel.SIGNALS,
    "rank_ended": Channel.SIGNALS,
    "task_failed": Channel.SIGNALS,
    "ranks_stopped": Channel.SIGNALS,
    "ranks_continued": Channel.SIGNALS,
    "control_requested": Channel.SIGNALS,
    "control_accepted": Channel.SIGNALS,
    "control_done": Channel.SIGNALS,
    "loss": Channel.SIGNALS,
    "state_changed": Channel.SIGNALS,
    "contact_changed": Channel.SIGNALS,
    "conservation": Channel.SIGNALS,
    # the rest
    "log": Channel.LOG,
    "progress": Channel.METRICS,
    "metric": Channel.METRICS,
    "usage": Channel.METRICS,
    "data": Channel.RESULTS,
    "result": Channel.RESULTS,
}
"""Kinds written as records. Lines of output (kind `output`) are made by the agent from the files that
hold a rank's stdout and stderr, and travel on the channels STDOUT and STDERR."""

_REPORTERS = frozenset({SourceKind.EXECUTOR, SourceKind.LAUNCHER, SourceKind.AGENT, SourceKind.RANK})

KIND_SOURCES = {
    "execution_submitted": frozenset({SourceKind.EXECUTOR}),
    "executor_attached": frozenset({SourceKind.EXECUTOR}),
    "launcher_started": frozenset({SourceKind.LAUNCHER}),
    "launcher_ended": frozenset({SourceKind.LAUNCHER}),
    "launcher_gone": frozenset({SourceKind.EXECUTOR}),
    "job_submitted": frozenset({SourceKind.EXECUTOR}),
    "job_changed": frozenset({SourceKind.EXECUTOR}),
    "node_lost": frozenset({SourceKind.LAUNCHER}),
    "agent_started": frozenset({SourceKind.AGENT}),
    "agent_closed": frozenset({SourceKind.AGENT}),
    "agent_given_up": frozenset({SourceKind.BROKER}),
    "rank_started": frozenset({SourceKind.RANK}),
    "rank_ended": frozenset({SourceKind.RANK}),
    "task_failed": frozenset({SourceKind.RANK}),
    "ranks_stopped": frozenset({SourceKind.AGENT}),
    "ranks_continued": frozenset({SourceKind.AGENT}),
    "control_requested": frozenset({SourceKind.EXECUTOR, SourceKind.BROKER, SourceKind.AGENT}),
    "control_accepted": frozenset({SourceKind.AGENT, SourceKind.EXECUTOR}),
    "control_done": frozenset({SourceKind.AGENT, SourceKind.EXECUTOR}),
    "loss": _REPORTERS | {SourceKind.BROKER},
    "state_changed": frozenset({SourceKind.BROKER}),
    "contact_changed": frozenset({SourceKind.BROKER}),
    "conservation": frozenset({SourceKind.BROKER}),
}
"""Who may report which signal. What another source says of this kind is kept, and is no evidence."""

OUTPUT_KIND = "output"

FOREIGN_CHANNEL = Channel.LOG
"""An unknown kind is delivered as it stands on this channel; whoever decodes it sees an `UnknownEvent`."""

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def checked_name(what: str, text: str) -> str:
    """`text`, if it can be the name of a task, experiment or run: 1 to 200 characters, none of control.

    Raises ValueError that names `what` and the text.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(f"{what} {text!r}: 1 to 200 characters are wanted, and no control characters")
    return text


def topic(channel: Channel, experiment: str, run: str, task: str, execution: str) -> bytes:
    """The topic of live events: `channel/experiment/run/task/execution/`, components escaped.

    Ends with a slash, so that a subscription to `log/mfx1/` does not match `log/mfx10/`. An empty
    component is written as `-`.
    """
    parts = (channel.text, experiment, run, task, execution)
    return ("/".join(_escape(part) for part in parts) + "/").encode()


def parse_topic(text: bytes) -> tuple[str, str, str, str, str]:
    """The inverse of `topic`: channel's name, experiment, run, task, execution. Raises ValueError."""
    try:
        channel, experiment, run, task, execution, end = (_unescape(part) for part in text.split(b"/"))
    except ValueError:
        raise ValueError(f"{text!r} is no topic of events") from None
    if end:
        raise ValueError(f"{text!r} is no topic of events: no slash at its end")
    return channel, experiment, run, task, execution


def _escape(component: str) -> str:
    """Percent-encoding (RFC 3986, section 2.1) of what would be read as structure."""
    if component in ("", "-"):
        return "-" if component == "" else "%2D"
    return "".join(
        c if c not in "/%" and c.isprintable() else "".join(f"%{b:02X}" for b in c.encode()) for c in component
    )


def _unescape(component: bytes) -> str:
    if component == b"-":
        return ""
    if b"%" not in component:  # for every live message this is asked five times
        return component.decode()
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match.group(1), 16)]), component).decode()
