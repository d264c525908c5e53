"""`theorbo run`: one Task, from its name to an exit status."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theorbo.executor.display import choose_display
from theorbo.executor.executor import BinaryExecutor, Executor, MPIExecutor
from theorbo.executor.launching import as_launching
from theorbo.executor.launching_options import add_launching, given_launching, joined_options
from theorbo.executor.preflight import InvalidParameter
from theorbo.executor.showing import shown
from theorbo.executor.tasks_file import find_executor
from theorbo.schemas.errors import UsageError

if TYPE_CHECKING:
    from theorbo.executor.config import Config

_EPILOG = """\
What to run:
  path/file.py:Class, package.module:Class   a Task; it runs as MPI ranks if it says use_mpi = True, else as
                                             one process, or with --ranks N as N independent copies
  NAME --tasks FILE_OR_MODULE                an Executor object that Python file or module holds
  [NAME] -- PROGRAM ARGUMENTS...             any program; with --mpi as MPI ranks

examples:
  theorbo run tasks/peaks.py:FindPeaks -p threshold=5 --experiment mfx1 --run 12
  theorbo run peaks --tasks tasks.py -c run12.yaml --ranks 8
  theorbo run --time-limit 600 -- source-extractor field.fits -c default.sex
  theorbo run tasks/peaks.py:FindPeaks --json | jq 'select(.kind == "result")'
  theorbo run tasks/peaks.py:FindPeaks --launcher slurm --nodes 2 --ranks 64 --partition main --time 2:00:00
  theorbo run tasks/peaks.py:FindPeaks --launcher mpi --hosts node1:4,node2:4

Launchers: local (processes of this machine), mpi (mpiexec or mpirun; with --hosts on several machines, by ssh), slurm
(a batch job; the Executor stays here and costs it no core), srun (inside of an allocation). Without --launcher an MPI
Task is launched by srun inside of an allocation and else by mpiexec, any other Task locally. With slurm a closed
terminal or --detach leaves the job in the queue; a job that still waits is cancelled there.

Ctrl-C cancels the Task (SIGTERM, and SIGKILL after the grace); a second one kills it, a third one lets go.
SIGTERM cancels. When the terminal is closed (SIGHUP) the Task goes on, as with --detach.

Exit status: 0 completed (or left running), 1 failed, 2 wrong usage (nothing was started), 3 cancelled,
4 timed out, 5 lost, 6 broker unreachable or something on this machine is missing, 130 let go by Ctrl-C.
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    own, program = _split(argv)
    options = _parser().parse_args(joined_options(own))
    config = _config(options.config)
    given = _given_parameters(options.param)
    executor = _executor(options, program)
    section = _section(executor, options, config)
    _configure(executor, options, config, section, given)
    display = choose_display("run", as_json=options.json, broker=options.broker)
    try:
        return shown(executor, display, lambda: executor.execute_task(detach=options.detach), "anything was launched")
    except InvalidParameter as error:
        raise UsageError(f"{_place(error.field, given, config, section)}{error}") from None


def _config(file: str | None) -> Config | None:
    if file is None:
        return None
    from theorbo.executor.config import load_config  # YAML takes time to load

    return load_config(Path(file))


def _split(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """Our arguments, and the program behind `--` with its own."""
    if "--" not in argv:
        return argv, None
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo run",
        usage="theorbo run [OPTIONS] TASK | NAME --tasks FILE | [NAME] -- PROGRAM ARGUMENTS...",
        description="Run a Task: launch it, show what it reports, and exit with its outcome.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("task", nargs="?", metavar="TASK", help="what to run, see below")
    add("--tasks", metavar="FILE_OR_MODULE", help="Python that holds Executor objects")
    add("-c", "--config", metavar="FILE", help="YAML with the parameters of Tasks")
    add("-p", "--param", metavar="NAME=VALUE", action="append", default=[], help="a parameter, as JSON or as text")
    add("--ranks", metavar="N", type=int, help="number of ranks (MPI: default all that the allocation has)")
    add("--mpi", action="store_true", help="start it as MPI ranks, whatever it says of itself")
    add("--python", metavar="PATH", help="Python interpreter of the Task (default: this one)")
    add("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else a broker of your own)")
    add("--experiment", metavar="E", help="experiment that it belongs to")
    add("--run", metavar="R", help="data-acquisition run that it belongs to")
    add("--work-dir", metavar="DIR", help="working directory of the Task (default: this one)")
    add("--time-limit", metavar="S", type=float, help="cancel it after S seconds")
    add("--grace", metavar="S", type=float, help="seconds between SIGTERM and SIGKILL (default: 10)")
    add("--spool-root", metavar="DIR", help="where spools are made (default: node-local temporary directory)")
    add("--spool-bytes", metavar="N", type=int, help="bound of what waits on a node for the broker (default: 1 GiB)")
    add("--detach", action="store_true", help="return as soon as it runs, and leave it running")
    add("--json", action="store_true", help="one JSON object a line: events as in tail --json, then the outcome")
    add_launching(parser)
    return parser


def _given_parameters(given: list[str]) -> dict[str, Any]:
    parameters = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"-p {text!r}: NAME=VALUE is wanted")
        try:
            parameters[name] = json.loads(value, parse_constant=_no_constant)
        except ValueError:
            parameters[name] = value
    return parameters


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _executor(options: argparse.Namespace, program: list[str] | None) -> Executor:
    if program is not None:
        if options.tasks:
            raise UsageError("--tasks names an Executor and -- a program; give one of them")
        executor = MPIExecutor(program) if options.mpi else BinaryExecutor(program)
        executor.name = options.task
        return executor
    if options.task is None:
        raise UsageError("what is to be run? Give path/file.py:Class, or NAME --tasks FILE, or -- PROGRAM")
    if options.tasks:
        if options.mpi:
            raise UsageError("--mpi: the Executor in --tasks says how it is launched; make it an MPIExecutor")
        return find_executor(options.tasks, options.task)
    return MPIExecutor(options.task) if options.mpi else Executor(options.task)


def _configure(
    executor: Executor, options: argparse.Namespace, config: Config | None, section: str, given: dict[str, Any]
) -> None:
    """What is on the command line wins over the configuration, and that over what the Executor had."""
    if config:
        executor.experiment = config.header.get("experiment", executor.experiment)
        executor.run = config.header.get("run", executor.run)
        executor.work_dir = config.header.get("work_dir", executor.work_dir)
        executor.time_limit_s = config.header.get("task_timeout", executor.time_limit_s)
        executor.parameters.update(config.parameters(section) if section else {})
    executor.parameters.update(given)
    for name, attribute in (
        ("experiment", "experiment"), ("run", "run"), ("work_dir", "work_dir"), ("time_limit", "time_limit_s"),
        ("grace", "grace_s"), ("ranks", "ranks"), ("python", "python"), ("broker", "broker"),
        ("spool_root", "spool_root"), ("spool_bytes", "spool_bytes"),
    ):  # fmt: skip
        value = getattr(options, name)
        if value is not None:
            setattr(executor, attribute, value)
    launching = as_launching(executor.launcher)
    if config:
        launching = launching.merged(config.launcher)
        executor.ranks = config.ranks if options.ranks is None and config.ranks else executor.ranks
    executor.launcher = launching.merged(given_launching(options))


def _section(executor: Executor, options: argparse.Namespace, config: Config | None) -> str:
    """The section of the configuration: the Executor's name, its Task's, or the one on the command line, whichever
    there is. A program has one only if it is there.
    """
    names = [executor.name, executor.task.rpartition(":")[2], options.task]
    there = config.tasks if config else {}
    wanted = names if executor.task else []
    return next((name for name in names if name and name in there), next(filter(None, wanted), ""))


def _place(field: str, given: dict[str, Any], config: Config | None, section: str) -> str:
    """Where the value of a parameter comes from."""
    if field.split(".")[0] in given:
        return f"-p {field}: "
    return f"{config.place(section, field)}: " if config else ""
