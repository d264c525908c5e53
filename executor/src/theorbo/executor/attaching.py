"""Taking up what another Executor has begun: whether that one still lives, and what it has left. A skin."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from theorbo.executor.own_records import owner_of
from theorbo.executor.own_spool import Held, OwnSpool, spool_directory
from theorbo.schemas.choosing import View, chosen
from theorbo.schemas.errors import Refused, Unavailable, UsageError
from theorbo.schemas.frames import ErrorCode
from theorbo.schemas.limits import HEARTBEAT_S, LET_GO_S, SUSPECT_S
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.names import EXECUTOR, Speaker, new_incarnation
from theorbo.schemas.presentation import visible
from theorbo.schemas.states import Contact, State


class TakenUp(NamedTuple):
    """An execution that is ours now."""

    link: Link
    speaker: Speaker
    spool: OwnSpool | None
    """May be None if the execution has ended: nothing will be reported."""
    former: list[bytes]
    """The records that were in the spool."""


def take_up(
    broker: str | None, execution: str, root: Path, *, take_over: bool, notice: Callable[[str], None]
) -> TakenUp:
    """Become the Executor of `execution` (its id, or enough digits of it); spools are below `root`.

    Raises UsageError if there is no such execution, or if its Executor lives and `take_over` does not say that it
    shall let go; Unavailable or Refused if somebody else was faster, or does not let go.
    """
    asking = open_link(broker)
    spool: OwnSpool | None = None
    try:
        view = chosen(asking, execution)
        ended = State(view["state"]).final
        if ended:
            spool = _left_behind(root, view)
        else:
            spool = _check_former(asking, view, root, take_over=take_over, notice=notice)
        speaker = Speaker(bytes.fromhex(view["execution"]), EXECUTOR, _epoch(view) + 1, new_incarnation())
        link = _said_hello(broker, speaker)
        try:
            if not ended and spool is None:
                spool = _former_spool(root, view)
            former = spool.records() if spool else []
        except BaseException:
            link.close()
            raise
    except BaseException:
        if spool:
            spool.close(remove=False)
        raise
    finally:
        asking.close()
    return TakenUp(link, speaker, spool, former)


def _left_behind(root: Path, view: View) -> OwnSpool | None:
    """What the Executor of an execution that has ended left here; nothing of it is needed any more."""
    try:
        return OwnSpool(root, view["execution"]) if spool_directory(root, view["execution"]).is_dir() else None
    except Held:
        return None


def _epoch(view: View) -> int:
    return int(view.get("executor_epoch") or 1)


def _check_former(
    asking: Link, view: View, root: Path, *, take_over: bool, notice: Callable[[str], None]
) -> OwnSpool | None:
    """The former Executor is dead, or is to be taken over from. Returns its spool, if that is here and free."""
    execution = view["execution"]
    spool = None
    if spool_directory(root, execution).is_dir():
        try:
            spool = OwnSpool(root, execution)
        except Held as held:
            if held.stopped:
                raise _stopped(execution, held) from None
            if not take_over:
                raise UsageError(
                    f"execution {execution} has an Executor: {held.who} on this machine; --take-over makes it let go"
                ) from None
            return None
    if spool and owner_of(spool.records()) == _epoch(view):
        return spool  # it was the broker's last, and has gone
    try:
        if not take_over:
            _wait_for_silence(asking, view, notice)
    except BaseException:
        if spool:
            spool.close(remove=False)
        raise
    return spool


def _wait_for_silence(asking: Link, view: View, notice: Callable[[str], None]) -> None:
    """Of an Executor that was killed elsewhere only its silence tells. Raises UsageError if it is heard."""
    execution = view["execution"]
    deadline = time.monotonic() + SUSPECT_S + 2 * HEARTBEAT_S
    told = False
    while view["contact"].get(str(EXECUTOR)) == Contact.ALIVE and not State(view["state"]).final:
        if time.monotonic() >= deadline:
            where = visible(str(view.get("executor_host") or view["host"]))
            raise UsageError(
                f"execution {execution} has an Executor on {where} that is alive; --take-over makes it let go"
            )
        if not told:
            told = True
            notice(f"its Executor was heard less than {SUSPECT_S:g} s ago; looking whether it is heard again")
        asking.receive(HEARTBEAT_S / 2)
        asking.tick()
        view = chosen(asking, execution)


def _said_hello(broker: str | None, speaker: Speaker) -> Link:
    try:
        return open_link(broker, speaker)
    except Refused as refusal:
        if refusal.code != ErrorCode.FENCED:
            raise
        raise Refused(
            refusal.code,
            f"another Executor has attached to execution {speaker.execution.hex()} at the same time, and was faster; "
            "theorbo ps tells whether it lives",
        ) from None


def _former_spool(root: Path, view: View) -> OwnSpool:
    """The spool, as soon as the former Executor, which is fenced now, has let go of it."""
    try:
        return OwnSpool(root, view["execution"], wait_s=LET_GO_S)
    except Held as held:
        raise _stopped(view["execution"], held) from None


def _stopped(execution: str, held: Held) -> Unavailable:
    why = "is stopped" if held.stopped else f"has not let go within {LET_GO_S:g} s"
    ways = f"continue or end it (kill -CONT {held.pid}, kill -KILL {held.pid})" if held.pid else "end it"
    return Unavailable(f"{held}, and {why}; {ways}, then attach to execution {execution} again")
