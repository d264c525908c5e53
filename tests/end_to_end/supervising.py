"""A program that supervises: `supervising.py FILE run SPEC GATE`, or `… FILE attach EXECUTION [--take-over]`.

Every event that its hook is given becomes a line of FILE, by one write, so that FILE tells after a SIGKILL which hooks
were called. At the line that DIE_AT names it kills itself, at the one that BUSY_AT names it is busy until a file GATE
is there; at the one that FULL_AT names its disk is full, and it cancels the Task.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time

from theorbo.executor import Executor, Reported
from theorbo.schemas.command import guarded


def main(file: str, mode: str, what: str, *rest: str) -> int:
    full: list[bool] = []
    told = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(executor: Executor, event: Reported) -> None:
        if full:
            return
        fields = {"id": event.id, "kind": event.kind, "redelivered": event.redelivered}
        os.write(told, (json.dumps({**fields, "text": getattr(event.event, "text", "")}) + "\n").encode())
        if fields["kind"] == "log" and event.text == os.environ.get("DIE_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fields["kind"] == "log" and event.text == os.environ.get("BUSY_AT"):
            while not os.path.exists(rest[0]):
                time.sleep(0.01)
        if fields["kind"] == "log" and event.text == os.environ.get("FULL_AT"):
            full.append(True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            executor.cancel("seen enough")

    if mode == "run":
        executor = Executor(what, parameters={"gate": rest[0]})
        executor.add_hook("ANY", tell)
        outcome = executor.execute_task()
    else:
        executor = Executor("")
        executor.add_hook("ANY", tell)
        outcome = executor.attach_task(what, take_over="--take-over" in rest)
    print(json.dumps({**outcome.as_object(), "fenced": outcome.fenced, "rank_map": executor.rank_map}))
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(guarded("", lambda: main(*sys.argv[1:])))
