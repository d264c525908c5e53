"""`theorbo broker`: arguments in, exit status out."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theorbo.schemas.connection import default_connection_file, state_directory
from theorbo.schemas.errors import ExitStatus, TheorboError
from theorbo.schemas.limits import HANDOVER_S, JOURNAL_AGE_S, JOURNAL_BYTES

if TYPE_CHECKING:
    from theorbo.broker.server import Server

_EPILOG = """\
examples:
  theorbo broker                                  for this machine, journal in the state directory
  theorbo broker --bind tcp://0.0.0.0:5580        for other machines as well
  theorbo broker --config /etc/theorbo.toml --check-config

Others find it by its connection file (--broker FILE, or THEORBO_BROKER). Who may connect stands in
STATE/authorized_keys. SIGTERM ends it in good order; what was acknowledged is in the journal in any case.
"""


def main(argv: list[str]) -> int:
    """Run the broker until it is told to end. Raises TheorboError."""
    arguments = _parser().parse_args(argv)
    ready = _Ready(arguments.ready_fd)
    try:
        return _run(arguments, ready)
    except TheorboError as error:
        from theorbo.broker.place import AlreadyRunning

        ready.say("busy" if isinstance(error, AlreadyRunning) else "error", str(error))
        raise


def _run(arguments: argparse.Namespace, ready: _Ready) -> int:
    # What takes long to import is imported where it is needed: `theorbo run` waits for an embedded broker.
    if arguments.embedded:
        plan, level = _embedded_plan(), "info"
    else:
        from theorbo.broker import settings

        flags = {
            name: value
            for name, value in vars(arguments).items()
            if name in settings.BrokerSettings.model_fields and value is not None
        }
        effective = settings.load(arguments.config, flags)
        if arguments.check_config:
            print(settings.effective(effective), end="")
            return ExitStatus.COMPLETED
        plan, level = settings.plan(effective), effective.log_level
    from theorbo.broker import logs
    from theorbo.broker.server import Server

    log = logs.configure(level)
    server = Server(plan, log) if plan.embedded else _patiently(lambda: Server(plan, log))
    ready.say("ready", str(plan.connection))
    log.info("broker is ready", router=server.connection.router, connection=str(plan.connection), pid=os.getpid())
    server.run()
    return ExitStatus.COMPLETED


def _patiently(start: Callable[[], Server]) -> Server:
    """Start, after waiting for a broker that ends by itself when nobody needs it. Raises AlreadyRunning."""
    from theorbo.broker.place import AlreadyRunning

    try:
        return start()
    except AlreadyRunning as error:
        if not error.embedded:
            raise
        print(f"theorbo broker: waiting {HANDOVER_S:g} s for pid {error.pid}, your own broker, to end", file=sys.stderr)
        with contextlib.suppress(OSError):  # it has ended, or the kernel is old
            other = os.pidfd_open(error.pid)
            select.select([other], [], [], HANDOVER_S)
            os.close(other)
    return start()


def _embedded_plan() -> Any:
    from theorbo.broker.server import Plan

    return Plan(
        state=state_directory().absolute(),
        connection=default_connection_file().absolute(),
        bind="",
        publisher="",
        retention_age_s=JOURNAL_AGE_S,
        retention_bytes=JOURNAL_BYTES,
        embedded=True,
    )


class _Ready:
    """Tells whoever started us that we are ready, or why not."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def say(self, status: str, words: str) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, f"{status} {words}".encode())
            os.close(self._descriptor)
            self._descriptor = None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo broker",
        description="Run the broker in the middle: it journals what Tasks report, tells their Executors and "
        "everybody who watches, and computes the state of every execution. Ends on SIGTERM or Ctrl-C.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, help="settings, TOML (docs/configuration.md lists them)")
    add("--check-config", action="store_true", help="print the effective settings and exit")
    add("--bind", metavar="ADDRESS", help="for conversations, tcp://ADDRESS:PORT; live streams get the next port")
    add("--publisher", metavar="ADDRESS", help="for live streams, if it is not to be the next port")
    add("--state", metavar="DIR", help="directory of journal, attachments and keys, on a local disk")
    add("--connection", metavar="FILE", help="where to write the connection file")
    add("--retention-days", metavar="N", help="keep ended executions this long")
    add("--retention-bytes", metavar="N", help="keep the journal below this size")
    add("--lost-after", "--lost-after-s", metavar="S", dest="lost_after_s", help="an execution without a word is LOST")
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    add("--embedded", action="store_true", help=argparse.SUPPRESS)
    add("--ready-fd", metavar="N", type=int, help=argparse.SUPPRESS)
    return parser


def run_module() -> int:
    """`python -m theorbo.broker`."""
    try:
        return main(sys.argv[1:])
    except TheorboError as error:
        print(f"theorbo broker: {error}", file=sys.stderr)
        return error.exit_status
