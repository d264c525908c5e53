"""`--tasks FILE_OR_MODULE`: Python that holds Executor objects, each under the name of its variable.

peaks = Executor("peaks.py:FindPeaks")
indexer = BinaryExecutor(command=["indexamajig", "-i", "peaks.lst"])
indexer.shell_source("/opt/crystfel/setup.sh")
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from theorbo.executor.executor import Executor
from theorbo.executor.preflight import did_you_mean
from theorbo.schemas.errors import UsageError

_MODULE_NAME = "theorbo_tasks"


def find_executor(place: str, name: str) -> Executor:
    """The Executor that `place` (a file, or a module) calls `name`; its own `name` will do as well.

    Raises UsageError with near matches, or with the place of the error if it cannot be imported.
    """
    module = _load(place)
    there = {key: value for key, value in vars(module).items() if isinstance(value, Executor)}
    by_own_name = {executor.name: executor for executor in there.values() if executor.name}
    known = {**by_own_name, **there}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = did_you_mean(near) or (f"; it has {', '.join(sorted(known))}" if known else "; it holds no Executor at all")
    raise UsageError(f"{place} has no Executor {name!r}{hint}")


def _load(place: str) -> ModuleType:
    path = Path(place).absolute()
    is_file = place.endswith(".py") or "/" in place
    if is_file and not path.is_file():
        raise UsageError(f"there is no file {place} (--tasks)")
    # Modules beside the file, or in the working directory, are importable, as if Python had been started there.
    sys.path.insert(0, str(path.parent if is_file else Path.cwd()))
    try:
        return _load_file(path) if is_file else importlib.import_module(place)
    except UsageError as error:
        raise UsageError(f"{_where(error, path if is_file else None)}{error}") from None
    except Exception as error:
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"--tasks {place} cannot be imported: {_where(error, path if is_file else None)}{words}"
        ) from None


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module
    spec.loader.exec_module(module)
    return module


def _where(error: Exception, path: Path | None) -> str:
    """`file:line: ` of the error: in the tasks file itself if that is on the way, else where it was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if path is not None and frame.filename == str(path)]
    frame = own[-1] if own else frames[-1]
    return "" if frame.filename == __file__ else f"{frame.filename}:{frame.lineno}: "
