"""The machines of the tests' Slurm cluster: started, cut off, killed, and asked what runs on them.

Ada, who is not root, has her home on the login node and on the compute nodes. The broker's host has nothing in
common with them: the connection file and Ada's key are carried over as docs/deploy.md tells an operator to do.
Compute nodes take connections from other machines on Slurm's own port only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NODES = ("node1", "node2")
ADA = 2000
"""Her user id, in the Dockerfile as well."""

SLURMD_PORT = 6818
CONNECTION_FILE = "/etc/theorbo/connection.json"
DEADLINE_S = 30.0
"""What takes longer has failed."""


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S, every_s: float = 0.1) -> Any:
    """What `condition` gives, as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(every_s)
    return found


def docker(*arguments: str, check: bool = True, timeout: float = 60.0) -> str:
    """What `docker ARGUMENTS` prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Cluster:
    """One cluster; use it in a `with` block."""

    def __init__(self, *, cgroups: bool = False) -> None:
        """With `cgroups` nodes track processes as real sites do; that needs a machine with cgroups of version 1."""
        self.project = os.environ.get("SLURM_TEST_PROJECT", "theorbo-slurm")
        self.cgroups = cgroups
        files = [HERE / "compose.yaml", *([HERE / "compose.cgroup.yaml"] if cgroups else [])]
        self._compose = ["compose", "--project-name", self.project]
        for file in files:
            self._compose += ["--file", str(file)]
        self._ids: dict[str, str] = {}

    def __enter__(self) -> Cluster:
        self._remove()
        try:
            docker(*self._compose, "build", "--quiet", "controller", timeout=500)
            docker(*self._compose, "up", "--detach", "--no-build", timeout=120)
            for service in ("controller", "login", "broker", *NODES):
                self._ids[service] = docker(*self._compose, "ps", "--quiet", service).strip()
            self.wait_idle()
            for node in NODES:
                self.close_inbound(node)
            self._let_ada_in()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        docker(*self._compose, "down", "--volumes", "--remove-orphans", "--timeout", "2", timeout=120)
        for node in NODES:  # what slurmd has made in the machine's own tree
            for controller in ("freezer", "memory", "cpuset", "devices"):
                for place, _, _ in os.walk(f"/sys/fs/cgroup/{controller}/slurm_{node}", topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(place)

    def _let_ada_in(self) -> None:
        """Install the connection file on the login node, and put Ada's key on the broker's list."""
        wait_for(lambda: self.run("broker", "test", "-s", "connection.json", check=False).returncode == 0, "the broker")
        connection = self.run("broker", "cat", "connection.json").stdout
        self.run("login", "install", "-D", "/dev/stdin", CONNECTION_FILE, text=connection, user="root")
        self.ada("theorbo", "ps", check=False)  # makes her key
        key = json.loads(self.ada("cat", "/home/ada/.config/theorbo/key.json").stdout)["public"]
        self.run("broker", "tee", "--append", "authorized_keys", text=f"ada {key}\n")
        self.ada("theorbo", "ps")

    # --- commands on machines ---------------------------------------------------------------------

    def _exec(self, service: str, user: str | None) -> list[str]:
        users = {"login": "ada", "broker": "theorbo"}
        homes = {"login": "/home/ada", "broker": "/var/lib/theorbo"}
        return [
            "docker", "exec", "--interactive", "--user", user or users.get(service, "root"),
            "--workdir", homes.get(service, "/"), "--env", f"THEORBO_BROKER={CONNECTION_FILE}" if service == "login"
            else "THEORBO_BROKER=/var/lib/theorbo/connection.json", self._ids[service],
        ]  # fmt: skip

    def run(
        self, service: str, *command: str, user: str | None = None, check: bool = True, timeout: float = 60.0,
        text: str = "",
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on a machine: as Ada on the login node, as the broker's user on its host, else as root."""
        done = subprocess.run(
            [*self._exec(service, user), *command], capture_output=True, text=True, timeout=timeout, input=text,
            check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{service}: {command}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def ada(self, *command: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as Ada on the login node."""
        return self.run("login", *command, **keywords)

    def start_as_ada(self, *command: str) -> subprocess.Popen[str]:
        """Start a command as Ada on the login node."""
        return subprocess.Popen(
            [*self._exec("login", None), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    # --- what is there ----------------------------------------------------------------------------

    def address(self, service: str) -> str:
        """Its IP address."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", template, self._ids[service]).strip()

    def _pid(self, service: str) -> str:
        return docker("inspect", "--format", "{{.State.Pid}}", self._ids[service]).strip()

    def nodes(self) -> dict[str, str]:
        """The state of each compute node, as Slurm sees it."""
        lines = self.run(
            "controller", "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False
        ).stdout.splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self) -> None:
        """Until both nodes are free for the next job."""
        wait_for(
            lambda: self.nodes() == dict.fromkeys(NODES, "idle"), f"idle nodes; they are {self.nodes()}", 60.0, 0.3
        )

    def jobs(self) -> list[str]:
        """What Ada has in the queue: `ID STATE` for each job."""
        return self.ada("squeue", "--noheader", "--me", "--format", "%i %T").stdout.splitlines()

    def processes(self, service: str, uid: int = ADA) -> dict[int, str]:
        """The processes of a user on one machine: this machine's process id → command."""
        lines = docker("top", self._ids[service], "-eo", "uid,pid,args").splitlines()[1:]
        rows = [line.split(None, 2) for line in lines]
        return {int(pid): args for owner, pid, args in rows if owner == str(uid)}

    def left(self) -> list[str]:
        """Ada's processes on the compute nodes and the login node."""
        return [
            f"{service}: {args}" for service in ("login", *NODES) for args in self.processes(service).values()
        ]  # fmt: skip

    def clean(self) -> None:
        """No job, no process on a node, and all machines up."""
        for service in self._ids:
            if docker("inspect", "--format", "{{.State.Running}}", self._ids[service]).strip() != "true":
                self.start(service)
        self.ada("scancel", "--user", "ada", check=False)
        wait_for(lambda: not self.jobs(), "an empty queue", 60.0)
        for service in NODES:
            for pid in self.processes(service):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.wait_idle()

    # --- what happens to machines -------------------------------------------------------------------

    def kill(self, service: str) -> None:
        """End a machine at once."""
        docker("kill", "--signal", "KILL", self._ids[service])

    def start(self, service: str) -> None:
        """Start a machine that was killed."""
        docker("start", self._ids[service])
        if service in NODES:
            self.close_inbound(service)

    def pause(self, service: str) -> None:
        """Freeze all processes of a machine; its connections stay."""
        docker("pause", self._ids[service])

    def unpause(self, service: str) -> None:
        """Let them go on."""
        docker("unpause", self._ids[service])

    def disconnect(self, service: str) -> None:
        """Take a machine off the network."""
        docker("network", "disconnect", f"{self.project}_cluster", self._ids[service])

    def connect(self, service: str) -> None:
        """Put it back."""
        docker("network", "connect", "--alias", service, f"{self.project}_cluster", self._ids[service])

    def _iptables(self, service: str, *rule: str) -> None:
        command = ["nsenter", "-t", self._pid(service), "-n", "iptables", "-w", *rule]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def close_inbound(self, node: str) -> None:
        """Nobody but the other machines' Slurm can open a connection to a compute node, as at a site's firewall.

        MPI's own connections come from the other node.
        """
        for service in ("login", "broker"):
            rule = ["-s", self.address(service), "-p", "tcp", "--syn", "!", "--dport", str(SLURMD_PORT), "-j", "DROP"]
            self._iptables(node, "-A", "INPUT", *rule)

    @contextlib.contextmanager
    def dropped(self, service: str, other: str, *, both_ways: bool = False) -> Iterator[None]:
        """What `service` sends to `other` is dropped meanwhile; with `both_ways` also what comes from there."""
        address = self.address(other)
        rules = [["OUTPUT", "-d", address, "-j", "DROP"], *([["INPUT", "-s", address, "-j", "DROP"]] * both_ways)]
        for rule in rules:
            self._iptables(service, "-I", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self._iptables(service, "-D", *rule)
