"""From `path/file.py:Class` or `package.module:Class` to the class of a Task."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from theorbo.schemas.errors import UsageError
from theorbo.task_runtime.failure import named
from theorbo.task_runtime.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType


class LoadError(UsageError):
    """A Task that cannot be loaded: a sentence; `near` are names that may have been meant."""

    def __init__(self, message: str, near: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.near = list(near)


def load_task(spec: str) -> type[Task]:
    """The class that `spec` names; its file or module is imported.

    The directory of a file goes onto sys.path, and the file is imported by its own name, so that children of
    multiprocessing find it again. Raises LoadError; its cause is the exception, if the code itself failed.
    """
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        raise LoadError(f"{spec!r} names no Task; path/file.py:Class or module:Class is wanted")
    module = _module_of_file(Path(place)) if place.endswith(".py") or os.sep in place else _module(place)
    return _task_class(module, place, name)


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadError(*_missing_file(path))
    path, name = path.absolute(), path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) and os.path.samefile(str(loaded.__file__), path):  # noqa: PTH121
            return loaded
        raise LoadError(f"{path.name} has the name of Python's module {name!r}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is their code: even SystemExit may come
        del sys.modules[name]
        raise _failed_import(error, str(path), str(path)) from error
    return module


def _missing_file(path: Path) -> tuple[str, list[str]]:
    if path.is_dir():
        return f"{path} is a directory; name the file in it: {path}/file.py:Class", []
    there = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, there, n=3)]
    hint = f"; did you mean {' or '.join(near)}?" if near else f" (looked from {Path.cwd()})"
    return f"there is no file {path}{hint}", near


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise LoadError(*_missing_module(name, error.name)) from None
        raise _failed_import(error, name, _file_of(name)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is their code: even SystemExit may come
        raise _failed_import(error, name, _file_of(name)) from error


def _missing_module(name: str, missing: str) -> tuple[str, list[str]]:
    import pkgutil

    package, _, last = missing.rpartition(".")
    path = getattr(sys.modules.get(package), "__path__", None) if package else None
    near = difflib.get_close_matches(last, {module.name for module in pkgutil.iter_modules(path)}, n=3)
    near = [f"{package}.{module}" if package else module for module in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "is it installed there, or its directory on PYTHONPATH?"
    which = f"{name!r}" if name == missing else f"{name!r}: {missing!r} is missing"
    return f"{sys.executable} has no module {which}; {hint}", near


def _file_of(name: str) -> str:
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # finding a module runs the packages around it
        return ""
    return (spec.origin if spec else None) or ""


def _failed_import(error: BaseException, what: str, file: str) -> LoadError:
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f", {_in_file(error.filename, file)}line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file]
        if own:
            where = f", line {own[-1].lineno}"
    hint = f" (in {sys.executable})" if isinstance(error, ImportError) else ""
    return LoadError(f"{what} cannot be imported{where}: {named(error)}{hint}")


def _in_file(found: str, expected: str) -> str:
    return "" if found == expected else f"in {found} "


def _task_class(module: ModuleType, place: str, name: str) -> type[Task]:
    tasks = sorted(
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value is not Task and not key.startswith("_")
    )
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Task) and found is not Task:
        return found
    near = difflib.get_close_matches(name, tasks, n=3) or difflib.get_close_matches(
        name.lower(), tasks, n=3, cutoff=0.5
    )
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it has {', '.join(tasks)}" if tasks else "it has no Task at all"
    if found is None:
        raise LoadError(f"{place} has no Task {name!r}; {hint}", near or tasks)
    raise LoadError(
        f"{name} in {place} is no Task (a class derived from theorbo.task_runtime.Task); {hint}", near or tasks
    )
