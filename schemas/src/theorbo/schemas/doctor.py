"""`theorbo doctor`: why this host does not reach the broker, or cannot run Tasks, and what mends it. Needs pyzmq."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, List, NamedTuple, Optional  # noqa: UP035 - Python 3.9 evaluates these

import zmq

from theorbo.schemas import __version__
from theorbo.schemas.connection import (
    BROKER_VARIABLE,
    KEY_VARIABLE,
    Connection,
    KeyPair,
    default_connection_file,
    key_file,
)
from theorbo.schemas.errors import ExitStatus, TheorboError, Unavailable
from theorbo.schemas.file_systems import file_system
from theorbo.schemas.findings import (
    OK,
    TROUBLE,
    WARNING,
    Finding,
    Spool,
    on_launchers,
    on_limits,
    on_spool,
    on_talk,
    on_versions,
    summary,
)
from theorbo.schemas.limits import DOCTOR_S
from theorbo.schemas.search import host_of, numeric
from theorbo.schemas.spool import default_root, own_directory
from theorbo.schemas.talking import look_up, reach, talk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_EPILOG = """\
Run it where something does not work: on a compute node as the job would (srun --pty theorbo doctor), on a
login node, on the broker's own host. Each line is one thing that was looked at: ok, warning (it works, or is not
always needed) or trouble, with the command that mends it below. Nothing is changed.

Where one of several addresses of the broker answers, the others are only warned of.

Exit status: 0 all well, 8 trouble, 2 wrong usage.

examples:
  theorbo doctor
  theorbo doctor --broker /etc/theorbo/connection.json --python /opt/analysis/bin/python
  srun -N2 --ntasks-per-node=1 theorbo doctor --json | jq 'select(.verdict == "trouble")'
"""

_MARKS = {OK: "ok", WARNING: "WARNING", TROUBLE: "TROUBLE"}


def main(argv: list[str]) -> int:
    """Run the command."""
    options = _parser().parse_args(argv)
    findings: list[Finding] = []
    for found in _examined(options):
        findings.append(found)
        _show(found, as_json=options.json)
    bad = any(found.verdict == TROUBLE for found in findings)
    if options.json:
        print(json.dumps({"check": "all", "verdict": TROUBLE if bad else OK, "text": summary(findings), "fix": ""}))
    else:
        print(f"theorbo doctor on {platform.node()}: {summary(findings)}")
    return ExitStatus.TROUBLE if bad else ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo doctor",
        description="Find out why this host does not reach the broker, or cannot run Tasks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    parser.add_argument("--spool-root", metavar="DIR", help="where spools are made (default: as theorbo run has it)")
    parser.add_argument("--python", metavar="PATH", help="the Python in which Tasks are to run")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _show(found: Finding, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found._asdict()), flush=True)
        return
    print(f"{_MARKS[found.verdict]:<8} {found.check}: {found.text}")
    if found.fix:
        print(f"{'':<9}fix: {found.fix}")
    sys.stdout.flush()


def _examined(options: argparse.Namespace) -> Iterator[Finding]:
    """In the order in which one thing needs the other."""
    yield on_versions(_parts(), platform.python_version(), zmq.zmq_version(), curve=bool(zmq.has("curve")))
    yield from _broker(options.broker)
    yield from _spool(Path(options.spool_root) if options.spool_root else default_root())
    soft = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    yield from on_limits(*(-1 if value == resource.RLIM_INFINITY else value for value in soft))
    if options.python:
        yield _python(options.python)
    beside = os.pathsep.join([str(Path(options.python or sys.executable).parent), os.environ.get("PATH", "")])
    programs = {name: shutil.which(name, path=beside) for name in ("mpiexec", "mpirun", "srun")}
    yield on_launchers(programs, os.environ.get("SLURM_JOB_ID", ""))


def _parts() -> dict[str, str]:
    found = {each.metadata["Name"]: each.version for each in distributions() if each.metadata["Name"]}
    parts = {name: version for name, version in found.items() if name.startswith("theorbo-")}
    return {"theorbo-schemas": __version__, **parts}


# --- the broker --------------------------------------------------------------------------------------


def _broker(given: str | None) -> Iterator[Finding]:
    named = given or os.environ.get(BROKER_VARIABLE)
    path = Path(named) if named else default_connection_file()
    check = f"connection file {path}"
    if not named and not _is_there(path):
        text = "no broker is named, and none of your own runs here"
        fix = f"export {BROKER_VARIABLE}=FILE    # the connection.json of the facility's broker; or: theorbo broker"
        yield Finding(check, TROUBLE, text, fix)
        return
    try:
        connection = Connection.load(path)
    except Unavailable as error:  # of another protocol version
        version = json.loads(path.read_text()).get("version")
        yield Finding(check, TROUBLE, str(error), f"pip install 'theorbo-task-runtime[agent]=={version}'")
        return
    except TheorboError as error:
        fix = f"export {BROKER_VARIABLE}=FILE    # connection.json, which lies beside the broker's journal; or copy it"
        yield Finding(check, TROUBLE, str(error), fix)
        return
    if not connection.router or len(connection.publisher) == 0:
        yield Finding(check, TROUBLE, "it names no address", f"copy it again from {connection.host}")
        return
    yield Finding(check, OK, f"of a broker on {connection.host}, pid {connection.pid}, version {connection.version}")
    pair = None
    if connection.public_key:
        found, pair = _key(connection)
        yield found
    yield from _conversations(connection, pair, path)
    yield from _live_streams(connection)


def _key(connection: Connection) -> tuple[Finding, KeyPair | None]:
    path = key_file()
    check = f"key {path}"
    of_yours = f"export {KEY_VARIABLE}=FILE    # yours, whose public half is in authorized_keys on {connection.host}"
    anew = f"mv {path} {path}.bad && theorbo ps    # makes a new one, to be put on the broker's list"
    if not _is_there(path):
        text = "there is none: one would be made here, and the broker would not know it"
        return Finding(check, TROUBLE, text, of_yours), None
    try:
        open_to_others = bool(path.stat().st_mode & 0o077)
        pair = KeyPair.load(path)
        public = zmq.curve_public(pair.secret.encode()).decode()
    except OSError as error:
        return Finding(check, TROUBLE, f"cannot be read: {error.strerror}", of_yours), None
    except TheorboError as error:
        fix = f"chmod 600 {path}" if open_to_others else anew if os.access(path, os.R_OK) else of_yours
        return Finding(check, TROUBLE, str(error), fix), None
    except (ValueError, zmq.ZMQError):
        public = ""
        pair = KeyPair("", "")
    if public != pair.public or not public:
        return Finding(check, TROUBLE, "its two halves do not belong together", anew), None
    return Finding(check, OK, f"public half {pair.public}"), pair


def _is_there(path: Path) -> bool:
    """Or whether it is cannot be seen: why, is told by whoever reads it."""
    try:
        return path.exists()
    except OSError:
        return True


def _user() -> str:
    """As which the broker's list is to have us: a word."""
    try:
        return "_".join(getpass.getuser().split())
    except (OSError, KeyError):  # a container's
        return f"uid{os.getuid()}"


class _Tried(NamedTuple):
    """What came of one address."""

    findings: List[Finding]  # noqa: UP006
    reached: Optional[bool] = None  # noqa: UP045
    """Whether a broker has answered; None: whether nothing of it is trouble."""

    @property
    def well(self) -> bool:
        if self.reached is None:
            return all(found.verdict != TROUBLE for found in self.findings)
        return self.reached


def _numbers(addresses: Iterable[str], names: list[Finding]) -> list[str]:
    """Each address once, with numbers; `names` gets what became of names."""
    found: list[str] = []
    for address in addresses:
        if numeric(address):
            found.append(address)
        else:
            stands_for, finding = look_up(address)
            names.append(finding)
            found += stands_for
    return list(dict.fromkeys(found))


def _conversations(connection: Connection, pair: KeyPair | None, path: Path) -> Iterator[Finding]:
    names: list[Finding] = []
    addresses = _for_this_host(_numbers(connection.router, names), connection)
    tried = [_Tried([finding]) for finding in names if finding.verdict == TROUBLE]
    yield from (finding for finding in names if finding.verdict != TROUBLE)
    for address in addresses:
        findings = [reach(address, connection.host)]
        reached = False
        if findings[0].verdict == OK and (pair or not connection.public_key):
            heard = talk(address, connection.public_key, pair)
            public = pair.public if pair else ""
            said = on_talk(address, heard, __version__, str(path), connection.host, _user(), public)
            reached = heard.outcome == "welcome"
            known = reached and any(each.reached for each in tried)
            findings += said[:1] if known else said  # version and clock are the same at every address
            if reached and not known and heard.broker != connection.broker:
                text = "the broker has another journal than when the connection file was written"
                fix = f"copy the file again from {connection.host}"
                findings.append(Finding(f"broker {address}", WARNING, text, fix))
        elif findings[0].verdict == OK:
            reached = True  # as far as one gets without a key
        tried.append(_Tried(findings, reached))
    yield from _softened(tried)


def _live_streams(connection: Connection) -> Iterator[Finding]:
    names: list[Finding] = []
    addresses = _numbers((live for live in connection.publisher if live not in connection.router), names)
    told = {f"name {host_of(address)}" for address in connection.router}
    tried = [_Tried([name]) for name in names if name.verdict == TROUBLE and name.check not in told]
    reached = [_Tried([reach(address, connection.host)]) for address in _for_this_host(addresses, connection)]
    yield from _softened([*tried, *reached])


def _for_this_host(addresses: list[str], connection: Connection) -> list[str]:
    """Without the loopback addresses of another machine, unless there are no others (a relay of this one's own)."""
    if connection.host == socket.gethostname():
        return addresses
    return [address for address in addresses if not _is_loopback(address)] or addresses


def _is_loopback(address: str) -> bool:
    return address.startswith(("tcp://127.", "tcp://[::1]"))


def _softened(tried: Iterable[_Tried]) -> Iterator[Finding]:
    """One address that is well is enough: trouble at the others is a warning."""
    all_tried = list(tried)
    well = any(each.well for each in all_tried)
    for each in all_tried:
        for found in each.findings:
            soften = well and not each.well and found.verdict == TROUBLE
            yield found._replace(verdict=WARNING, text=f"{found.text} (another address answers)") if soften else found


# --- this host ---------------------------------------------------------------------------------------


def _spool(root: Path) -> list[Finding]:
    return on_spool(_looked_at(root), os.getuid())


def _looked_at(root: Path) -> Spool:
    mine = root / f"theorbo-{os.getuid()}"
    try:
        made = not mine.exists()
        own_directory(mine)
        try:
            with tempfile.TemporaryFile(dir=mine) as file:
                file.write(b"!")
                file.flush()
            status = os.statvfs(mine)
            kind = file_system(mine)
        finally:
            if made:
                mine.rmdir()
    except TheorboError as error:
        return Spool(str(root), str(error).partition(";")[0])
    except OSError as error:
        return Spool(str(root), f"cannot write there: {error.strerror}")
    return Spool(str(root), "", status.f_bavail * status.f_frsize, kind)


def _python(path: str) -> Finding:
    check = f"Python {path}"
    fix = "theorbo run --python PATH    # of a Python 3.9 or later"
    try:
        done = subprocess.run(
            [path, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, timeout=DOCTOR_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(
            check, WARNING, f"it did not start within {DOCTOR_S:g} s (a cold file system?)", f"time {path} -V"
        )
    except OSError as error:
        return Finding(check, TROUBLE, f"cannot be executed: {error.strerror}", fix)
    version = done.stdout.strip()
    if done.returncode or not version.replace(".", "").isdigit():
        return Finding(check, TROUBLE, "it is no Python", fix)
    if tuple(map(int, version.split("."))) < (3, 9):
        return Finding(check, TROUBLE, f"it is Python {version}; Tasks need 3.9 or later", fix)
    return Finding(check, OK, f"Python {version}")


if __name__ == "__main__":
    from theorbo.schemas.command import guarded

    sys.exit(guarded("doctor", lambda: main(sys.argv[1:])))
