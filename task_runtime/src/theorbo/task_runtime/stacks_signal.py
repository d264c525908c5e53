"""The signal to which a program answers by writing its stacks to stderr, and how it comes to do so."""

from __future__ import annotations

STACKS_SIGNAL = 52
"""A real-time signal, in the middle of them: C libraries keep the first ones for themselves, some runtimes use the last
ones. A number, and not relative to SIGRTMIN, for the C libraries of agent and Task may differ."""


def register() -> None:
    """Answer `STACKS_SIGNAL` from now on, in this process and in the children that it forks: the Python stacks of all
    threads go to stderr. That needs no interpreter that runs: it works while C code spins.
    """
    import faulthandler

    # By its number: what a program has put in the place of sys.stderr need not be a file.
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True, chain=False)
