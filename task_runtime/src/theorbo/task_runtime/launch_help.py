"""What `theorbo launch --help` says of plans, for whoever writes one."""

from __future__ import annotations

PLANS = """\
A plan is a JSON object with these fields; those in brackets may be left out:
  execution           id of the execution, 32 hexadecimal digits
  broker              path of the broker's connection file
  command             the program of every rank with its arguments, a list
  environment         the program's whole environment, an object; nothing is added but what names the spool
  work_dir            its working directory
  [ranks]             how many there are: 1 if not given
  [launcher_command]  what starts them, up to the program: ["srun", "-K", "-n", "8"], ["mpiexec", "-n", "8"]
  [nodes]             the other machines: [[COMMAND, FIRST, COUNT], ...]. COMMAND is a list that runs a program
                      there (["ssh", "node2"], or srun for COUNT machines at once), FIRST the number of the first
                      of them, from 1 on. Theorbo has to be installed at the same place on all.
  [spool_root]        where spools are made, a directory that each machine has for itself
  [grace_s]           between SIGTERM and SIGKILL
  [time_limit_s]      from the launch on
  [spool_bytes]       bound of what is not delivered yet, on each machine
  [keep_spool]        true: it is not removed at the end
  [connection]        what the connection file says, for machines that do not see it

Any workflow engine may write one. What submits the execution (execution_submitted, from the source executor; see
docs/protocol.md) does so before: the broker takes nothing of an execution that it does not know.

The plan holds the whole environment of the program: give it mode 0600. It is removed as soon as it has been read.

Example, one rank on this machine:
  {"execution": "0197f0c2b4d87a3e9c1d5e6f70819203", "broker": "/etc/theorbo/connection.json",
   "command": ["python", "analyse.py"], "environment": {"PATH": "/usr/bin"}, "work_dir": "/data/r0042"}

Exit status: 0 all ranks ended well, 1 not all did (or it is not known of all), 6 nothing could be started,
or not all be delivered; stderr says why, and how to deliver the rest."""
