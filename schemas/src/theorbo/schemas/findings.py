"""What `theorbo doctor` makes of what it has found out: words, and the command that mends it. Pure."""

from __future__ import annotations

import shlex
from typing import List, NamedTuple, Optional  # noqa: UP035 - Python 3.9 evaluates these

from theorbo.schemas.file_systems import NETWORK_FILE_SYSTEMS
from theorbo.schemas.frames import PROTOCOL_VERSION
from theorbo.schemas.limits import (
    CLOCK_TROUBLE_S,
    CLOCK_WARNING_S,
    DISK_RESERVE_BYTES,
    GIB,
    MIB,
    OPEN_FILES,
    PROCESSES,
    SPOOL_BYTES,
)

OK, WARNING, TROUBLE = "ok", "warning", "trouble"


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    verdict: str
    """`ok`, `warning` (it works, or may not be needed), `trouble` (it is in the way)."""
    text: str
    fix: str = ""
    """The command that mends it, or what is to be done."""


class Spool(NamedTuple):
    """What there is to know about the place of spools."""

    root: str
    problem: str = ""
    """Why no directory of ours alone can be made there."""
    free_bytes: int = 0
    file_system: str = ""


class Talk(NamedTuple):
    """What came of talking with a broker at one address."""

    outcome: str
    """`welcome`, `refused` (by its words), `protocol`, `key` (not on its list), `server_key`, `mechanism`, `no_zmtp`,
    `silent`.
    """
    round_trip_s: float = 0.0
    version: str = ""
    broker: str = ""
    """Id of its journal."""
    offset_s: float = 0.0
    """Its clock is so much ahead of ours."""
    words: str = ""
    """Of a refusal, or of what hinders it."""


def on_versions(parts: dict[str, str], python: str, libzmq: str, *, curve: bool) -> Finding:
    """`parts` has the version of each distribution of Theorbo that is installed here."""
    shown = f"Theorbo {', '.join(sorted(set(parts.values())))}, Python {python}, libzmq {libzmq}"
    if not curve:
        return Finding(
            "versions", TROUBLE, f"{shown}: this libzmq cannot encrypt (it has no CURVE)",
            "pip install --force-reinstall --only-binary pyzmq pyzmq",
        )  # fmt: skip
    if len(set(parts.values())) > 1:
        newest = max(parts.values(), key=lambda text: [int(n) if n.isdigit() else 0 for n in text.split(".")])
        named = ", ".join(f"{name} {version}" for name, version in sorted(parts.items()))
        wrong = " ".join(f"'{name}=={newest}'" for name, version in sorted(parts.items()) if version != newest)
        return Finding("versions", WARNING, f"{shown}: the parts differ: {named}", f"pip install {wrong}")
    return Finding("versions", OK, shown)


def on_talk(address: str, talk: Talk, version: str, file: str, host: str, user: str, public_key: str) -> list[Finding]:
    """`version` is ours; `file` the connection file, written on `host`; `user` we are, and have the `public_key`."""
    check, trip = f"broker {address}", f"{talk.round_trip_s * 1000:.1f} ms"
    again = f"copy the connection file of the broker that runs now from {host} to {file}"
    line = shlex.quote(f"{user} {public_key}")  # a key may have $, ! and others that mean something to a shell
    entry = f"echo {line} >> authorized_keys    # beside the journal, on {host}"
    if talk.outcome == "welcome":
        found = [Finding(check, OK, f"the broker answers within {trip}")]
        if talk.words:
            found.append(
                Finding(check, WARNING, f"the broker waits: {talk.words}", f"see to it on {host}; nothing is lost")
            )
        if talk.version != version:
            found.append(
                Finding(
                    "version of the broker", WARNING,
                    f"the broker is version {talk.version}, this host {version}; they understand one another (protocol "
                    f"{PROTOCOL_VERSION})", f"pip install 'theorbo-task-runtime[agent]=={talk.version}'",
                )
            )  # fmt: skip
        else:
            found.append(Finding("version of the broker", OK, f"{talk.version}, as here"))
        return [*found, on_clock(talk.offset_s, talk.round_trip_s)]
    others = {
        "refused": (f"the broker refuses: {talk.words}", "do what it says"),
        "protocol": (
            f"it speaks another version of the protocol: {talk.words}",
            f"pip install 'theorbo-task-runtime[agent]=={talk.version or 'VERSION'}'    # as the broker's: theorbo "
            f"--version on {host}",
        ),
        "key": (f"this user's key is not on the broker's list ({public_key})", entry),
        "server_key": (
            "the broker there has another key than the connection file says: the file is old, or of another broker",
            again,
        ),
        "mechanism": ("what listens there does not encrypt as the connection file says: it is another broker", again),
        "no_zmtp": ("what listens there is no broker", again),
        "silent": (
            "it accepts connections and says nothing: a firewall or proxy in between, or a broker that is stopped",
            f"theorbo doctor    # on {host}; if all is well there, let the firewall pass TCP to {address}",
        ),
    }
    text, fix = others[talk.outcome]
    return [Finding(check, TROUBLE, text, fix)]


def on_clock(offset_s: float, round_trip_s: float) -> Finding:
    """The broker's clock is `offset_s` ahead of ours, as exactly as half the round trip."""
    away_s = max(0.0, abs(offset_s) - round_trip_s / 2)
    way = "behind" if offset_s > 0 else "ahead of"
    if away_s <= CLOCK_WARNING_S:
        return Finding("clock", OK, f"within {max(abs(offset_s), round_trip_s / 2, 0.001):.3f} s of the broker's")
    how_much = f"{abs(offset_s):.1f} s" if away_s < 600 else f"{abs(offset_s) / 3600:.1f} h"
    verdict = TROUBLE if away_s > CLOCK_TROUBLE_S else WARNING
    return Finding(
        "clock", verdict, f"this host's clock is {how_much} {way} the broker's: times of events will be wrong",
        "sudo timedatectl set-ntp true && sudo chronyc makestep    # on the host whose clock is wrong: compare date -u",
    )  # fmt: skip


def on_spool(spool: Spool, user: int) -> list[Finding]:
    """`user` is our uid."""
    check = f"spool {spool.root}"
    elsewhere = (
        "export THEORBO_SPOOL_ROOT=DIRECTORY    # on a local disk, writable for you (or: theorbo run --spool-root)"
    )
    if spool.problem:
        return [Finding(check, TROUBLE, spool.problem, elsewhere)]
    found = []
    if spool.file_system in NETWORK_FILE_SYSTEMS:
        found.append(
            Finding(
                check, TROUBLE,
                f"it is on a network file system ({spool.file_system}), where what ranks report is not safe", elsewhere,
            )
        )  # fmt: skip
    if spool.file_system == "tmpfs":
        found.append(
            Finding(
                check, WARNING, "it is in memory (tmpfs), and counts as the job's; a full one kills ranks", elsewhere
            )
        )
    free = f"{spool.free_bytes / GIB:.1f} GiB" if spool.free_bytes >= GIB else f"{spool.free_bytes / MIB:.0f} MiB"
    if spool.free_bytes < DISK_RESERVE_BYTES:
        found.append(
            Finding(
                check, TROUBLE, f"only {free} are free", f"du -sh {spool.root}/theorbo-{user}/*    # or {elsewhere}"
            )
        )
    elif spool.free_bytes < SPOOL_BYTES:
        found.append(
            Finding(
                check, WARNING, f"{free} are free: less than what one execution may leave while the broker is away",
                f"theorbo run --spool-bytes {spool.free_bytes // 2}",
            )
        )  # fmt: skip
    return found or [Finding(check, OK, f"writable, {spool.file_system or 'unknown file system'}, {free} free")]


def on_limits(open_files: int, processes: int) -> list[Finding]:
    """The soft limits of this process; -1 is no limit."""
    found = []
    if 0 <= open_files < OPEN_FILES:
        found.append(
            Finding(
                "open files", WARNING, f"a process may have {open_files} files open; an agent of many ranks needs more",
                f"ulimit -n {OPEN_FILES}    # for good: nofile in /etc/security/limits.conf",
            )
        )  # fmt: skip
    if 0 <= processes < PROCESSES:
        found.append(
            Finding(
                "processes", WARNING, f"you may have {processes} processes on this host; each rank takes two",
                f"ulimit -u {PROCESSES}    # for good: nproc in /etc/security/limits.conf",
            )
        )  # fmt: skip
    words = [
        f"{'no limit of' if n < 0 else n} {name}" for n, name in ((open_files, "open files"), (processes, "processes"))
    ]
    return found or [Finding("limits", OK, ", ".join(words))]


def on_launchers(found: dict[str, Optional[str]], job: str) -> Finding:  # noqa: UP045
    """`found` has the path of each launcher that is here; `job` is the number of the Slurm job that we are in."""
    there = {name: path for name, path in found.items() if path}
    if job and "srun" not in there:
        return Finding("launchers", TROUBLE, f"this is Slurm job {job}, and srun is not on PATH", "module load slurm")
    if not there:
        return Finding(
            "launchers", WARNING, f"none of {', '.join(found)} is on PATH: Tasks with MPI ranks cannot be started here",
            "module load mpich    # or: pip install mpich, beside the Task's Python",
        )  # fmt: skip
    return Finding("launchers", OK, ", ".join(there.values()))


def summary(findings: List[Finding]) -> str:  # noqa: UP006
    """The last line."""
    bad = [each.check for each in findings if each.verdict == TROUBLE]
    doubts = sum(each.verdict == WARNING for each in findings)
    also = f", {doubts} warning{'s' * (doubts != 1)}" if doubts else ""
    return f"trouble: {', '.join(dict.fromkeys(bad))}{also}" if bad else f"all well{also}"
