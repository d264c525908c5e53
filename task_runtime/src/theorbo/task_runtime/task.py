"""The base class of Tasks."""

from __future__ import annotations

TYPE_CHECKING = False  # as in report
if TYPE_CHECKING:
    from typing import Any


class Task:
    """An analysis: subclass it, and write `_run`.

    ::

        class FindPeaks(Task):
            use_mpi = True

            class Parameters(pydantic.BaseModel):
                threshold: float = 5.0

            def _run(self):
                self.result = {"peaks": find(self.parameters.threshold)}

    `theorbo run peaks.py:FindPeaks` runs it on a bus; `FindPeaks({"threshold": 3.0}).run()` does so by hand.

    A subclass may have a class `Parameters`: a pydantic model of whatever version, a dataclass (whose types are
    checked where the Task's environment has pydantic), or any class that takes keyword arguments. Without one,
    parameters are a plain namespace of the values that were given.
    """

    use_mpi: bool = False
    """Whether the ranks are to be started by mpiexec, and not as single processes."""

    cooperative: bool = False
    """Whether the Task looks at `cancelled()` and ends by itself: then SIGTERM does not end it.

    ::

        class Refine(Task):
            cooperative = True

            def _run(self):
                for cycle in range(1000):
                    self.model = refine(self.model)
                    if self.cancelled():
                        break
                save(self.model)
                self.result = {"cycles": cycle + 1}

    The result is kept, and the state is CANCELLED (TIMEDOUT, if it was a time limit). After the grace SIGKILL comes.
    Programs that it has started by itself get SIGTERM as well.
    """

    parameters: Any
    """What the Task was given, as an instance of `Parameters`."""

    result: Any = None
    """What the Task has found out: assign it in `_run` or `_post_run`, and it is reported at the end.

    JSON values, numpy arrays, bytes, figures, `pathlib.Path` (by reference), and dicts and lists of these.
    """

    def __init__(self, parameters: Any = None) -> None:
        """`parameters`: a mapping of values, which is validated, or an instance of `Parameters`.

        Raises `theorbo.task_runtime.parameters.ParameterError` that names the parameter and its value.
        """
        from theorbo.task_runtime.parameters import build_parameters

        self.parameters = build_parameters(getattr(self, "Parameters", None), parameters)

    def cancelled(self) -> bool:
        """Whether somebody has asked for an end: a user, a time limit, a batch scheduler. Costs about a microsecond.

        Each rank is told on its own, and not all at the same moment: ranks that have to agree on where to stop must
        ask one of them (`comm.bcast(self.cancelled())`).
        """
        from theorbo.task_runtime import cancellation

        return cancellation.cancelled()

    def run(self) -> None:
        """Prepare, run, finish, and report the result."""
        self._pre_run()
        self._run()
        self._post_run()
        if self.result is not None:
            from theorbo.task_runtime import report

            report.result(self.result)

    def _pre_run(self) -> None:
        """Before the analysis; nothing by default."""

    def _run(self) -> None:
        """The analysis."""
        raise NotImplementedError(f"{type(self).__name__} has no method _run")

    def _post_run(self) -> None:
        """After the analysis, if it did not fail; nothing by default."""
