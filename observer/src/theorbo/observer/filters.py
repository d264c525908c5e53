"""What an observer wants to see: which executions, channels and kinds; and which topics that means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from theorbo.schemas.errors import UsageError
from theorbo.schemas.names import KIND_CHANNELS, OUTPUT_KIND, Channel, topic


class Filter(NamedTuple):
    """All that is None wants everything. Names are compared exactly."""

    experiment: str | None = None
    run: str | None = None
    task: str | None = None
    execution: bytes | None = None
    kinds: frozenset[str] | None = None
    channels: frozenset[Channel] = frozenset(Channel)
    """Signals are followed always, for they tell states; `wants` still leaves them out where not wanted."""

    @classmethod
    def of(
        cls,
        experiment: str | None = None,
        run: str | None = None,
        task: str | None = None,
        execution: str | None = None,
        kinds: Iterable[str] | None = None,
        channels: Iterable[str] | None = None,
    ) -> Filter:
        """A filter from what people write. Raises UsageError for what no execution or channel can be."""
        wanted = None if kinds is None else frozenset(kinds)
        named = _channels(channels) if channels is not None else frozenset(Channel)
        if wanted is not None:
            named &= _channels_of_kinds(wanted)
        return cls(experiment, run, task, execution_bytes(execution) if execution else None, wanted, named)

    @property
    def followed(self) -> frozenset[Channel]:
        """The channels to subscribe to."""
        return self.channels | {Channel.SIGNALS}

    def topics(self) -> list[bytes]:
        """Prefixes of the topics that may hold what is wanted; what they hold too much is left to `admits`."""
        parts = [self.experiment, self.run, self.task, self.execution.hex() if self.execution else None]
        known = parts.index(None) if None in parts else len(parts)
        prefixes = []
        for channel in sorted(self.followed):
            whole = topic(channel, *((part or "") for part in parts)).split(b"/")
            prefixes.append(b"/".join(whole[: 1 + known]) + b"/")
        return prefixes

    def admits(self, view: Mapping[str, Any]) -> bool:
        """Whether the execution of this view is wanted."""
        return (
            (self.execution is None or self.execution.hex() == view.get("execution"))
            and (self.experiment is None or self.experiment == view.get("experiment"))
            and (self.run is None or self.run == view.get("run"))
            and (self.task is None or self.task == view.get("task"))
        )

    def wants(self, channel: int, kind: str) -> bool:
        """Whether an event is wanted."""
        return channel in self.channels and (self.kinds is None or kind in self.kinds)


def execution_bytes(text: str) -> bytes:
    """The id of an execution from its 32 hexadecimal digits (dashes are allowed). Raises UsageError."""
    try:
        value = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != 16:
        raise UsageError(f"{text!r} is no execution: 32 hexadecimal digits are wanted; theorbo ps --all lists them")
    return value


def _channels(names: Iterable[str]) -> frozenset[Channel]:
    found = set()
    for name in names:
        try:
            found.add(Channel[name.upper()])
        except KeyError:
            known = ", ".join(channel.text for channel in Channel)
            raise UsageError(f"there is no channel {name!r}; there are {known}") from None
    return frozenset(found)


def _channels_of_kinds(kinds: Collection[str]) -> frozenset[Channel]:
    """Where events of these kinds may be. A kind that we do not know travels on the channel of foreign kinds."""
    found: set[Channel] = set()
    for kind in kinds:
        if kind == OUTPUT_KIND:
            found |= {Channel.STDOUT, Channel.STDERR}
        else:
            found.add(KIND_CHANNELS.get(kind, Channel.LOG))
    if "invalid" in kinds:
        found = set(Channel)
    return frozenset(found)
