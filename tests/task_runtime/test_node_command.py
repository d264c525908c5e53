"""The commands that start nodes: real processes, that are nothing of ours."""

from __future__ import annotations

import sys
import time

from theorbo.schemas.launch_plan import NodeStart
from theorbo.task_runtime import node_command
from theorbo.task_runtime.node_command import NodeCommands
from theorbo.task_runtime.node_protocol import KEEP, NodePlan

PLAN = NodePlan("1", "0" * 32, "/tmp", "broker.json", None, 1, 1.0, None, keep_spool=False, purpose=KEEP)


class Head:
    """Who does not care what they say."""

    def watch(self, *_):
        pass

    unwatch = on_said = on_command_ended = watch


def test_many_commands_that_hang_are_waited_for_once(monkeypatch):
    monkeypatch.setattr(node_command, "GOODBYE_S", 1.0)
    commands = NodeCommands([NodeStart(["sh", "-c", "exec sleep 60"], number) for number in range(1, 9)], Head())
    for index in range(8):
        commands.start(index, PLAN)
    begun = time.monotonic()
    commands.stop()
    assert 1.0 <= time.monotonic() - begun < 4.0


def test_python_may_stand_at_a_path_with_blanks_on_a_machine_that_is_reached_by_ssh(tmp_path, monkeypatch):
    python, ssh = tmp_path / "my python", tmp_path / "ssh"
    python.write_text(f"#!/bin/sh\necho $* > '{tmp_path}/ran'\n")
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    for program in (python, ssh):
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    commands = NodeCommands([NodeStart([str(ssh), "node1"], 1)], Head())
    commands.start(0, PLAN)
    commands.stop()
    assert (tmp_path / "ran").read_text().endswith("theorbo.task_runtime.node --number 1\n")
