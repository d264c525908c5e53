"""Starting the user's own broker, where no other is named. Standard library only."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from importlib.util import find_spec

from theorbo.schemas.connection import state_directory
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.limits import BROKER_LOG_BYTES, CONNECT_S


def start_own_broker() -> str:
    """Start the user's own broker, which ends by itself when nobody needs it; returns when it is ready.

    If another broker has the state directory nothing is done, and its words are returned. Raises Unavailable
    with the broker's own words.
    """
    if find_spec("theorbo.broker") is None:
        raise Unavailable(
            "no broker is named (--broker or THEORBO_BROKER), and there is none on this machine that could be started; "
            "name one, or install theorbo-broker"
        )
    directory = state_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_file = directory / "broker.log"
        if log_file.exists() and log_file.stat().st_size > BROKER_LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as log:
            reader, writer = os.pipe()
            # It outlives us: `setsid --fork` makes it nobody's child, so that nobody has to wait for it.
            subprocess.run(
                ["setsid", "--fork", sys.executable, "-m", "theorbo.broker", "--embedded", "--ready-fd", str(writer)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,), cwd="/", check=True,
            )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"cannot start a broker of your own in {directory}: {error}") from None
    os.close(writer)
    answer = b""
    try:
        if select.select([reader], [], [], CONNECT_S)[0]:
            answer = os.read(reader, 4096)
    finally:
        os.close(reader)
    status, _, words = answer.decode(errors="replace").partition(" ")
    if status not in ("ready", "busy"):
        raise Unavailable(words or f"a broker of your own did not start; {directory / 'broker.log'} says why")
    return words if status == "busy" else ""
