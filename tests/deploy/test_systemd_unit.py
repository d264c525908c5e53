"""deploy/theorbo-broker.service: correct, confined, and not so much that the broker cannot work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "theorbo-broker.service"
INSTALLED = "/opt/theorbo/bin/theorbo"

EXPOSURE = 1.2
"""What `systemd-analyze security` says of it; docs/deploy.md states it."""


def _analyze(*arguments):
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_systemd_has_nothing_to_say_against_it(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).parent / "theorbo")))
    done = _analyze("verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_as_confined_as_the_documentation_says():
    done = _analyze("security", "--offline=yes", f"--threshold={int(EXPOSURE * 10)}", UNIT)
    assert done.returncode == 0, done.stdout
    [summary] = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    assert f" {EXPOSURE} " in summary
    assert f"exposure level of {EXPOSURE}" in (ROOT / "docs" / "deploy.md").read_text()


@pytest.mark.containers
@pytest.mark.timeout(300)
def test_the_broker_works_with_the_system_calls_that_are_left(tmp_path):
    """Docker holds it to them, for systemd does not run everywhere."""
    build = ["docker", "build", "--quiet", "--target", "theorbo", "--tag", "theorbo:local", "."]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=250)
    profile = tmp_path / "seccomp.json"
    # The last few are for Docker itself, on its way to the program.
    names = sorted({*_system_calls(), "capset", "chdir", "execve", "setgid", "setgroups", "setuid"})
    allowed = {"names": names, "action": "SCMP_ACT_ALLOW"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowed]}))
    broker = "theorbo broker --bind tcp://127.0.0.1:5580 & until theorbo ps 2>/dev/null; do :; done"
    script = f"{broker}; theorbo run -- sh -c 'echo it works' && kill %1 && wait %1"
    confined = ["--security-opt", f"seccomp={profile}", "--cap-drop", "ALL", "--read-only"]
    for place in ("/home/theorbo/.local", "/home/theorbo/.config"):
        confined += ["--tmpfs", f"{place}:uid=1000"]
    done = subprocess.run(
        ["docker", "run", "--rm", "--init", "--tmpfs", "/tmp", *confined, "theorbo:local", "bash", "-c", script],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "stdout: it works" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def _system_calls():
    """What the unit allows."""
    assert shutil.which("systemd-analyze")
    allowed = set()
    for line in UNIT.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.partition("=")[2]
            for word in words.removeprefix("~").split():
                calls = _group(word) if word.startswith("@") else {word}
                allowed = allowed - calls if words.startswith("~") else allowed | calls
    return allowed


def _group(name):
    lines = [line.partition("#")[0].strip() for line in _analyze("syscall-filter", name).stdout.splitlines()[1:]]
    return {call for word in lines if word for call in (_group(word) if word.startswith("@") else {word})}
