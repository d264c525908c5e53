"""How an execution has ended, and why, in one sentence: a pure function of the evidence.

First match wins:

0. ranks did not end as far as anybody knows, no agent was heard for very long, and nobody could look at the launcher:
   LOST, for they may live;
1. nothing could be started: FAILED, with the launcher's reason;
2. all ranks ended well, all was delivered, and the Task did not say that it failed: COMPLETED, whatever else was
   requested or said (a launcher's exit code is no truth, nor is the batch scheduler's word for the job);
3. a time limit was reached, as the Executor or an agent said: TIMEDOUT;
4. somebody wanted an end: CANCELLED, by whom (a request that came when launcher and ranks had ended does not count);
5. the batch scheduler ended the job of its own accord: TIMEDOUT (its time limit, a deadline), CANCELLED (somebody told
   it to), or FAILED (preempted, a node failed, out of memory …), with its word. Where we know better which node or
   which rank it was, that is said. FAILED or COMPLETED are no such words: there it only followed, after `srun -K` say;
6. a node was lost: FAILED, with its name and the ranks that did not end, or the reports that are missing. What failed
   by itself, by its own clock, before the node was last heard explains more;
7. a rank was killed by the kernel for want of memory: FAILED, with the limit (errors of others mostly follow from it);
8. the Task said that it failed: FAILED, with the last error of the source that failed first (that explains exit
   codes which follow; and an uncaught exception weighs more than a result that could not be sent before);
9. a rank ended badly: FAILED, with the first bad end (the others mostly follow from it);
10. ranks without an end record: FAILED, with what the launcher said.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from theorbo.schemas import events
from theorbo.schemas.limits import GIB, KIB, MIB
from theorbo.schemas.states import State

if TYPE_CHECKING:
    from theorbo.schemas.outcome import Evidence

_RUNS_NAMED = 8

_SCHEDULERS_OWN: dict[str, tuple[State, str]] = {
    "TIMEOUT": (State.TIMEDOUT, "its time limit was reached"),
    "DEADLINE": (State.TIMEDOUT, "its deadline was reached"),
    "CANCELLED": (State.CANCELLED, "it was cancelled there"),
    "PREEMPTED": (State.FAILED, "it was preempted"),
    "NODE_FAIL": (State.FAILED, "a node failed"),
    "OUT_OF_MEMORY": (State.FAILED, "out of memory"),
    "BOOT_FAIL": (State.FAILED, "a node could not be booted"),
    "REVOKED": (State.FAILED, "it was revoked"),
    "LAUNCH_FAILED": (State.FAILED, "it could not be launched"),
    "RECONFIG_FAIL": (State.FAILED, "a node could not be reconfigured"),
}
"""Slurm's words for ends that it has made itself."""

_FOLLOWERS = ("SIGTERM", "SIGKILL")
"""Signals by which launchers and schedulers end ranks because of something else."""


def verdict(evidence: Evidence) -> tuple[State, str]:
    """The final state, and why. Everything that will be reported is there."""
    ended = evidence.launcher_ended
    bad_ends = {rank: end for rank, end in evidence.ranks_ended.items() if end.exit_code != 0}
    missing = [rank for rank in range(evidence.ranks) if rank not in evidence.ranks_ended]
    lost = _lost_nodes(evidence, missing)
    if ended and ended.problem:
        return State.FAILED, ended.problem
    if not (bad_ends or missing or lost or evidence.failure):
        return State.COMPLETED, ""
    gone = evidence.launcher_gone
    if missing and gone and gone.unwatched and not ended:
        return State.LOST, gone.reason
    request = evidence.request
    if request and request.cause == "time_limit":
        return State.TIMEDOUT, request.reason or f"its time limit was reached, as {request.by} said"
    if request:
        return State.CANCELLED, asked(request)
    victim = _victim(bad_ends)
    if own := _SCHEDULERS_OWN.get(evidence.scheduler_state):
        return own[0], _of_the_scheduler(evidence, own[1], lost, victim)
    if lost and not _failed_before(evidence, bad_ends):
        return State.FAILED, lost
    if victim:
        return State.FAILED, victim if evidence.ranks > 1 else victim.partition(": ")[2]
    if evidence.failure:
        source, failure = evidence.failure
        end = evidence.ranks_ended.get(source.index)
        memory = f" ({_other_victim(end)})" if end and end.out_of_memory else ""
        return State.FAILED, f"{_who(evidence, source.rank)}{failure.error}{memory}"
    if bad_ends:
        rank, end = min(bad_ends.items(), key=lambda item: item[1].time)  # an agent reads file by file
        return State.FAILED, f"{_who(evidence, rank)}{_how(end)}{_unrecorded(evidence, rank)}"
    return State.FAILED, _silence(evidence, missing)


def asked(request: events.ControlRequested | None) -> str:
    """Who wanted it, and why: `by ada: the beam is off`."""
    if request is None:
        return ""
    return f"by {request.by}" + (f": {request.reason}" if request.reason else "")


def ranks_named(ranks: list[int]) -> str:
    """`rank 3`, `ranks 4 to 7`, `ranks 0, 2 to 5`; `ranks` ascend."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], rank]
        else:
            runs.append([rank])
    texts = [f"{run[0]} to {run[-1]}" if run[-1] - run[0] > 1 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} " + ", ".join(texts[:_RUNS_NAMED]) + _more(len(texts))


def _more(texts: int) -> str:
    return ", …" if texts > _RUNS_NAMED else ""


# --- the scheduler, nodes, memory ----------------------------------------------------------------


def _of_the_scheduler(evidence: Evidence, what: str, lost: str, victim: str) -> str:
    """What we know ourselves, with the scheduler's word behind it, or the scheduler's sentence."""
    name = evidence.job.scheduler.capitalize() if evidence.job else "the batch scheduler"
    word = evidence.scheduler_state
    ours = {"NODE_FAIL": lost, "BOOT_FAIL": lost, "OUT_OF_MEMORY": victim}.get(word, "")
    if not ours and word == "OUT_OF_MEMORY" and evidence.failure:
        ours = f"{_who(evidence, evidence.failure[0].rank)}{evidence.failure[1].error}"
    if ours:
        return f"{ours}; {name} says {word}"
    number = evidence.job.job if evidence.job else evidence.launcher_started.job if evidence.launcher_started else ""
    return f"{name} ended {f'job {number}' if number else 'the job'}: {what} ({word})"


def _lost_nodes(evidence: Evidence, missing: list[int]) -> str:
    """Which nodes were lost, and what is missing of them; empty if no agent was given up."""
    given_up = evidence.agents_given_up.keys() - evidence.agents_closed.keys()
    if not given_up:
        return ""
    nodes = []
    for node in sorted(given_up)[:_RUNS_NAMED]:
        gone = evidence.agents_given_up[node]
        started = evidence.agents_started.get(node)
        host = gone.host or (started.host if started else "") or f"node {node}"
        theirs = [rank for rank in missing if rank in evidence.ranks_started]
        theirs = [rank for rank in theirs if evidence.ranks_started[rank].host == host]
        if len(given_up) == 1:
            theirs = theirs or missing
        what = f"{ranks_named(theirs)} did not end" if theirs else "not all was delivered that it had"
        nodes.append(f"{host} was lost ({gone.reason}): {what}")
    return "; ".join(nodes) + _more(len(given_up))


def _failed_before(evidence: Evidence, bad_ends: dict[int, events.RankEnded]) -> bool:
    """Whether something had failed by itself before the first of the lost nodes was last heard."""
    heard = min(gone.heard for gone in evidence.agents_given_up.values())
    times = [end.time for end in bad_ends.values() if end.signal not in _FOLLOWERS]
    if evidence.failure:
        times.append(evidence.failure[1].time)
    return any(time < heard for time in times)


def _victim(bad_ends: dict[int, events.RankEnded]) -> str:
    """The rank that the kernel killed for want of memory. The flag is its cgroup's, which others may share."""
    killed = [(end.time, rank) for rank, end in bad_ends.items() if end.out_of_memory and end.signal == "SIGKILL"]
    if not killed:
        return ""
    _, rank = min(killed)
    return f"rank {rank}: out of memory: the kernel killed it{_limit(bad_ends[rank])}"


def _limit(end: events.RankEnded) -> str:
    return f" at its cgroup's limit of {_size(end.memory_limit_bytes)}" if end.memory_limit_bytes else ""


def _other_victim(end: events.RankEnded) -> str:
    limit = f", at its limit of {_size(end.memory_limit_bytes)}" if end.memory_limit_bytes else ""
    return f"the kernel had killed something in its cgroup for want of memory{limit}"


def _size(size: int) -> str:
    units = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B"))
    unit, name = next((unit, name) for unit, name in units if size >= unit)
    return f"{size / unit:.4g} {name}"


# --- ranks ---------------------------------------------------------------------------------------


def _who(evidence: Evidence, rank: int | None) -> str:
    return f"rank {rank}: " if rank is not None and evidence.ranks > 1 else ""


def _how(end: events.RankEnded) -> str:
    if end.problem:
        return end.problem
    how = f"killed by {end.signal}" if end.signal else f"exit code {end.exit_code}"
    return f"{how} ({_other_victim(end)})" if end.out_of_memory else how


def _unrecorded(evidence: Evidence, rank: int) -> str:
    """What kept a rank from saying more, if anything did."""
    ended = evidence.launcher_ended
    if not ended or rank not in ended.unrecorded:
        return ""
    return f" (it could not report to its spool: {ended.unrecorded_why})"


def _silence(evidence: Evidence, missing: list[int]) -> str:
    said = ""
    if ended := evidence.launcher_ended:
        said = f"the launcher ended with exit code {ended.exit_code}"
        if ended.stderr.strip():
            said += ": " + ended.stderr.strip().splitlines()[-1]
    elif evidence.launcher_gone:
        said = evidence.launcher_gone.reason
    for node in itertools.islice(evidence.nodes_lost.values(), 1):
        said += f"; {node.host} was lost: {node.reason}"
    if len(missing) == evidence.ranks and not evidence.ranks_started:
        return f"no rank started; {said}"
    return f"{ranks_named(missing)} ended without an end record (killed together with the launcher); {said}"
