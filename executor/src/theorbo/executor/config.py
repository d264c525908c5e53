"""The configuration file of `theorbo run -c`: YAML, one document of tasks, or a header and then the tasks.

    title: Commissioning
    experiment: mfx1
    run: 007
    task_timeout: 600
    launcher: {kind: slurm, nodes: 2, ranks: 64, partition: main, time: 2:00:00, scheduler_options: [--exclusive]}
    ---
    FindPeaks:
      threshold: 5

Values are what they look like, by the rules of YAML 1.2: `007`, `yes` and `12:30` are text, for a run number
or a time must not become another number behind one's back. Every error says where: `file:line:column`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from theorbo.executor.launching import COUNTED_FIELDS, LAUNCHERS, LISTED_FIELDS, Launching
from theorbo.executor.preflight import did_you_mean
from theorbo.schemas.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Config:
    """What a configuration file says."""

    path: Path
    header: dict[str, Any]
    """Of `HEADER_KEYS`, what is there, checked."""
    launcher: dict[str, Any]
    """Of `launching.Launching`, what the header says, each of the right type."""
    ranks: int | None
    """What it says there of the number of ranks."""
    tasks: dict[str, dict[str, Any]]
    places: dict[tuple[str, ...], str]
    """`file:line:column` of sections, parameters and what is in them, by their names from the outside in."""

    def parameters(self, task: str) -> dict[str, Any]:
        """The section of a Task. Raises UsageError with near matches if there are sections, but not this one."""
        if task in self.tasks or not self.tasks:
            return self.tasks.get(task, {})
        near = difflib.get_close_matches(task, self.tasks, n=3)
        place = self.places[(near[0],)] if near else str(self.path)
        there = did_you_mean(near) or f"; it has {', '.join(self.tasks)}"
        raise UsageError(f"{place}: there is no section for Task {task!r}{there}")

    def place(self, task: str, field: str) -> str:
        """Where a parameter stands, or at least its section, or the file."""
        names = (task, *field.split("."))
        known = (self.places[names[:n]] for n in range(len(names), 0, -1) if names[:n] in self.places)
        return next(known, str(self.path))


_TIMEOUT_KEY = "task_timeout"
_LAUNCHER_KEY = "launcher"
HEADER_KEYS = ("title", "experiment", "run", "date", _TIMEOUT_KEY, "work_dir", _LAUNCHER_KEY, "lute_version")
"""What a header may say. `title`, `date` and `lute_version` are for people."""

LAUNCHER_KEYS = ("ranks", *(field.name for field in dataclasses.fields(Launching)))
"""What `launcher:` in a header may say."""


def load_config(path: Path) -> Config:
    """Read a configuration file. Raises UsageError with file, line and column."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"cannot read configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"configuration {path} is no UTF-8 text (byte {error.start})") from None
    reader = _Reader(path)
    try:
        documents = [node for node in yaml.compose_all(text, Loader=_Loader) if not _empty(node)]
        if len(documents) > 2:
            reader.fail(documents[2], "a third document; there is one header and one document of tasks")
        header = reader.header(documents[0]) if len(documents) == 2 else {}
        tasks = reader.tasks(documents[-1]) if documents else {}
    except RecursionError:
        raise UsageError(f"{path}: something in it contains itself (by an alias)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UsageError(f"{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {error}") from None
    launcher = header.pop(_LAUNCHER_KEY, {})
    return Config(path, header, launcher, launcher.pop("ranks", None), tasks, reader.places)


def _empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL)


_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Plain values by the core schema of YAML 1.2 instead of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as its base has it


for _tag, _pattern, _first in (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Reader:
    """Makes values of nodes, and remembers where they stood."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.places: dict[tuple[str, ...], str] = {}

    def fail(self, node: yaml.Node, words: str) -> NoReturn:
        raise UsageError(f"{self._where(node)}: {words}")

    def _where(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def header(self, document: yaml.Node) -> dict[str, Any]:
        header: dict[str, Any] = {}
        for key, node in self._members(document, "the header"):
            name = str(key.value)
            if name not in HEADER_KEYS:
                near = difflib.get_close_matches(name, HEADER_KEYS, n=3)
                known = f"; known are {', '.join(HEADER_KEYS)}"
                self.fail(key, f"unknown key {name!r} in the header{did_you_mean(near) or known}")
            if name == _LAUNCHER_KEY:
                header[name] = self._launcher(node)
                continue
            if not isinstance(node, yaml.ScalarNode):
                self.fail(node, f"{name}: a plain value is wanted")
            if _empty(node):
                continue
            # The text as it stands: run 1.50 must not become run 1.5.
            header[name] = self._seconds(node) if name == _TIMEOUT_KEY else str(node.value)
        return header

    def _launcher(self, node: yaml.Node) -> dict[str, Any]:
        """A mapping of what `theorbo run` has as options, or the name of a launcher alone."""
        if isinstance(node, yaml.ScalarNode):
            return {} if _empty(node) else {"kind": self._chosen(node)}
        launcher: dict[str, Any] = {}
        for key, value in self._members(node, _LAUNCHER_KEY):
            name = str(key.value)
            if name not in LAUNCHER_KEYS:
                near = difflib.get_close_matches(name, LAUNCHER_KEYS, n=3)
                known = f"; known are {', '.join(LAUNCHER_KEYS)}"
                self.fail(key, f"unknown key {name!r} in {_LAUNCHER_KEY}{did_you_mean(near) or known}")
            if not _empty(value):
                launcher[name] = self._launcher_value(name, value)
        return launcher

    def _launcher_value(self, name: str, node: yaml.Node) -> Any:
        if name == "kind":
            return self._chosen(node)
        if name in LISTED_FIELDS:
            if not isinstance(node, yaml.SequenceNode):
                self.fail(node, f"{name}: a list of options is wanted, such as [--exclusive]")
            return tuple(self._text(name, item) for item in node.value)
        text = self._text(name, node)
        if name not in COUNTED_FIELDS:
            return text
        if not text.isdecimal() or int(text) < 1:
            self.fail(node, f"{name} {text!r}: a number of at least 1 is wanted")
        return int(text)

    def _chosen(self, node: yaml.Node) -> str:
        kind = self._text("kind", node)
        if kind not in LAUNCHERS:
            near = difflib.get_close_matches(kind, LAUNCHERS, n=3)
            known = f"; there are {', '.join(LAUNCHERS)}"
            self.fail(node, f"there is no launcher {kind!r}{did_you_mean(near) or known}")
        return kind

    def _text(self, name: str, node: yaml.Node) -> str:
        """As it stands."""
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, f"{name}: a plain value is wanted")
        return str(node.value)

    def _seconds(self, node: yaml.ScalarNode) -> float:
        value = self._value(node, ())
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            self.fail(node, f"{_TIMEOUT_KEY} {node.value!r}: a positive number of seconds is wanted")
        return float(value)

    def tasks(self, document: yaml.Node) -> dict[str, dict[str, Any]]:
        tasks: dict[str, dict[str, Any]] = {}
        for key, node in self._members(document, "the document of tasks"):
            name = str(key.value)
            self.places[(name,)] = self._where(key)
            if _empty(node):
                tasks[name] = {}
                continue
            if not isinstance(node, yaml.MappingNode):
                hint = "; a header is a document of its own, ended by ---" if name in HEADER_KEYS else ""
                self.fail(node, f"the section of Task {name!r} must be a mapping of parameters{hint}")
            tasks[name] = self._value(node, (name,))
        return tasks

    def _members(self, node: yaml.Node, what: str) -> list[tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} must be a mapping of names to values")
        self._check(node, ())
        return [(key, value) for key, value in node.value]

    def _value(self, node: yaml.Node, names: tuple[str, ...]) -> Any:
        self._check(node, names)
        loader = _Loader("")
        try:
            return loader.construct_object(node, deep=True)
        finally:
            loader.dispose()

    def _check(self, node: yaml.Node, names: tuple[str, ...]) -> None:
        """Raises UsageError for a key that comes twice in one mapping, at whatever depth."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._check(item, names)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.fail(key, "a name must be a plain value")
            if key.value in seen:
                self.fail(key, f"{key.value!r} is given twice; first at {seen[key.value]}")
            seen[key.value] = self._where(key)
            if names:
                self.places[(*names, key.value)] = self._where(value)
            self._check(value, (*names, key.value) if names else ())
