"""sbatch, squeue, scontrol and scancel of a scheduler that has all its state below FAKE_SLURM.

Files there change what it does: `hold` (jobs wait), `reject` (its text is why sbatch takes nothing), `doubt` (sbatch
takes the job and says that it does not know), `fatal` (sbatch kills who has called it, with the job in the queue),
`blind` (the node does not see the files), `down` (the controller does not answer). `asked` counts the calls of squeue.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "."))


def flag(name: str) -> bool:
    return (HOME / name).exists()


def jobs() -> dict[str, dict[str, str]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(HOME.glob("*.job"))}


def change(number: str, **fields: object) -> None:
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = HOME / f"{number}.job"
        former = json.loads(path.read_text()) if path.exists() else {}
        (HOME / "new").write_text(json.dumps({**former, **fields}))
        (HOME / "new").rename(path)


def option(arguments: list[str], name: str) -> str:
    return next((it.partition("=")[2] for it in reversed(arguments) if it.startswith(f"--{name}=")), "")


def sbatch(arguments: list[str]) -> int:
    if flag("reject"):
        print(f"sbatch: error: {(HOME / 'reject').read_text()}", file=sys.stderr)
        return 1
    number = str(100 + len(jobs()))
    (HOME / f"{number}.script").write_text(sys.stdin.read())
    change(
        number, state="PENDING", reason="Resources", nodes="", code="0:0", arguments=arguments,
        name=option(arguments, "job-name"), output=option(arguments, "output"),
    )  # fmt: skip
    subprocess.Popen(
        [sys.executable, __file__, "node", number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    if flag("fatal"):
        (HOME / "fatal").unlink()
        os.kill(os.getppid(), signal.SIGKILL)
    if flag("doubt"):
        print("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", file=sys.stderr)
        return 1
    print(number)
    return 0


def node(number: str) -> None:
    """The life of a job: it waits, runs its script, and ends."""
    while flag("hold") and jobs()[number]["state"] == "PENDING":
        time.sleep(0.02)
    job = jobs()[number]
    if job["state"] != "PENDING":
        return
    change(number, state="RUNNING", reason="None", nodes="node1")
    if flag("blind"):
        for plan in Path(job["output"]).parent.glob("*.plan.json"):
            plan.unlink()
    with open(job["output"], "ab") as output:
        environment = {**os.environ, "SLURM_JOB_ID": number}
        process = subprocess.Popen(
            ["/bin/sh", HOME / f"{number}.script"], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment, start_new_session=True,
        )  # fmt: skip
    change(number, pid=process.pid)
    code = process.wait()
    if jobs()[number]["state"] == "RUNNING":
        change(
            number,
            state="FAILED" if code else "COMPLETED",
            reason="NonZeroExitCode" if code else "None",
            code=f"{code}:0",
        )


def squeue(arguments: list[str]) -> int:
    with open(HOME / "asked", "a") as asked:
        asked.write("x")
    assert option(arguments, "format") == "%A|%T|%N|%r|%j"
    for number, job in jobs().items():
        print("|".join((number, job["state"], job["nodes"], job["reason"], job["name"])))
    return 0


def scontrol(arguments: list[str]) -> int:
    if arguments[:2] == ["show", "config"]:
        print("Configuration data as of 2026-11-23T03:00:00\nClusterName             = fake")
        return 0
    *rest, number = arguments
    assert rest == ["-o", "show", "job"]
    job = jobs().get(number)
    if job is None:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print(
        f"JobId={number} JobName={job['name']} JobState={job['state']} Reason={job['reason']} ExitCode={job['code']} "
        f"NodeList={job['nodes'] or '(null)'}"
    )
    return 0


def scancel(arguments: list[str]) -> int:
    number = arguments[-1]
    job = jobs()[number]
    if job["state"] == "PENDING":
        change(number, state="CANCELLED", reason="None")
    elif "--state=PENDING" not in arguments and job["state"] == "RUNNING":
        change(number, state="CANCELLED", reason="None")
        os.killpg(int(job["pid"]), signal.SIGTERM)
    return 0


def main(program: str, arguments: list[str]) -> int:
    if program == "node":
        node(*arguments)
        return 0
    if flag("down"):
        print(f"{program}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    return {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "scancel": scancel}[program](arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
