"""What `theorbo attach` makes of its arguments."""

from __future__ import annotations

import pytest

from theorbo.executor import attach_command
from theorbo.schemas.errors import UsageError


@pytest.mark.parametrize(
    "arguments",
    [
        ["0199c2f4", "peaks", "--tasks", "nowhere.py"],
        ["0199c2f4", "--tasks", "nowhere.py", "peaks"],
        ["--tasks", "nowhere.py", "0199c2f4", "peaks"],
    ],
)
def test_the_executor_of_a_tasks_file_may_be_named_before_it_or_behind(arguments):
    with pytest.raises(UsageError, match=r"there is no file nowhere.py"):
        attach_command.main(arguments)


@pytest.mark.parametrize("arguments", [["0199c2f4", "peaks"], ["0199c2f4", "--tasks", "tasks.py"]])
def test_neither_goes_without_the_other(arguments):
    with pytest.raises(UsageError, match="NAME and --tasks belong together"):
        attach_command.main(arguments)
