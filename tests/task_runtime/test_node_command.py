"""The commands that start nodes: real processes, that are nothing of ours."""

from __future__ import annotations

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
