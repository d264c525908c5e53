"""Stacks of ranks on request: who is asked for them by signal, and what is told of the others. Pure.

Tasks, and programs that call `theorbo.task_runtime.install`, answer `STACKS_SIGNAL` by writing their stacks to stderr
(see `stacks_signal`). Anybody else would be killed by it: so only those get it that have a handler for it. Of the
others it is told what the kernel shows.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from theorbo.schemas.limits import PROCESSES_TOLD
from theorbo.task_runtime.processes import Inspection
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.stacks_signal import STACKS_SIGNAL


class Dump(NamedTuple):
    """What follows from the inspection of ranks."""

    signals: list[SendSignal]
    detail: str
    """What was asked of whom, and what the others do."""


def decide(found: Mapping[int, list[Inspection]]) -> Dump:
    """Whom to ask, by rank, and the text that says so."""
    asked: dict[int, list[Inspection]] = {}
    others: list[tuple[int, Inspection]] = []
    for rank, inspections in sorted(found.items()):
        for each in inspections:
            if each.catches(STACKS_SIGNAL) and not each.process.is_stopped:
                asked.setdefault(rank, []).append(each)
            else:
                others.append((rank, each))
    number = sum(map(len, asked.values()))
    parts = [f"stacks of {ranks_text(asked)} ({number} processes) go to stderr"] if asked else []
    parts += [f"rank {rank}: {_told(each)}" for rank, each in others[:PROCESSES_TOLD]]
    if len(others) > PROCESSES_TOLD:
        parts.append(f"and {len(others) - PROCESSES_TOLD} processes more")
    signals = [
        SendSignal(each.process, cast(signal.Signals, STACKS_SIGNAL)) for many in asked.values() for each in many
    ]
    return Dump(signals, "; ".join(parts) or "no rank runs on this node")


def _told(it: Inspection) -> str:
    """What the kernel shows of a process: `process 71 (sleep) waits in hrtimer_nanosleep, state S, 1 thread`."""
    waits = f" waits in {it.wait_channel}," if it.wait_channel else ""
    threads = f"{it.threads} thread" + ("" if it.threads == 1 else "s")
    stopped = ": it is stopped, and can be asked when it goes on" if it.process.is_stopped else ""
    return f"process {it.process.pid} ({it.command}){waits} state {it.process.state}, {threads}{stopped}"


def ranks_text(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-3, 7`: short, however many they are in a row."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], rank]
        else:
            spans.append([rank])
    shown = [str(span[0]) if len(span) == 1 else f"{span[0]}-{span[1]}" for span in spans[:PROCESSES_TOLD]]
    more = ", …" if len(spans) > PROCESSES_TOLD else ""
    plural = "" if len(spans) == 1 and len(spans[0]) == 1 else "s"
    return f"rank{plural} {', '.join(shown)}{more}"
