"""A directory for PYTHONPATH that holds the in-process part of Theorbo and nothing else.

A Task may run in a Python environment that has nothing of ours installed. Our own site-packages must not
get onto its path (they hold other versions of its libraries), hence a directory with two symlinks in it.
There is no `theorbo/__init__.py`: the name is a namespace, and joins with what the environment has.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import theorbo.schemas

PACKAGES = {
    "schemas": Path(theorbo.schemas.__file__).parent,
    "task_runtime": Path(__file__).parent,
}
"""The packages whose in-process part needs nothing but the standard library, and where they are."""


def make_inprocess_path(directory: Path) -> Path:
    """Make `directory` into one that can be put on PYTHONPATH, and return it. May be done again.

    Raises OSError.
    """
    namespace = directory / "theorbo"
    namespace.mkdir(parents=True, exist_ok=True)
    for name, place in PACKAGES.items():
        with contextlib.suppress(FileExistsError):
            (namespace / name).symlink_to(place, target_is_directory=True)
    return directory


def with_inprocess_path(environment: dict[str, str], directory: Path) -> dict[str, str]:
    """A copy of `environment` in which PYTHONPATH begins with `directory`."""
    former = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": f"{directory}{os.pathsep}{former}" if former else str(directory)}
