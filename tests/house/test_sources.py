"""Rules of the house that can be read off the sources."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("schemas", "broker", "executor", "task_runtime", "observer")
PACKAGES = {part: ROOT / part / "src" / "theorbo" / part for part in PARTS}
SOURCES = [path for package in PACKAGES.values() for path in sorted(package.rglob("*.py"))]

BASE_OF_SCHEMAS = {
    "__init__", "command", "connection", "delivery", "errors", "frames", "launch_plan", "limits", "names", "records",
    "spool",
}  # fmt: skip
"""Modules that run in any environment; the others need pydantic or pyzmq."""

AGENT_ONLY = "agent"
"""Modules of task_runtime whose names begin so run in our own environment; all others in the Task's."""


def in_process_modules():
    schemas = [path for path in PACKAGES["schemas"].glob("*.py") if path.stem in BASE_OF_SCHEMAS]
    runtime = [path for path in PACKAGES["task_runtime"].rglob("*.py") if not path.stem.startswith(AGENT_ONLY)]
    return sorted(schemas) + sorted(runtime)


def module_name(path):
    relative = path.relative_to(next(parent for parent in path.parents if parent.name == "src"))
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


def shown(path):
    return str(path.relative_to(ROOT))


def test_the_namespace_stays_open_to_all_distributions():
    assert len(SOURCES) > 15
    assert [shown(path) for path in ROOT.glob("*/src/theorbo/__init__.py")] == []


def test_every_part_tells_that_it_is_typed():
    assert [part for part, package in PACKAGES.items() if not (package / "py.typed").exists()] == []


def test_the_base_of_schemas_is_all_there():
    assert {path.stem for path in PACKAGES["schemas"].glob("*.py")} >= BASE_OF_SCHEMAS


@pytest.mark.parametrize("path", in_process_modules(), ids=shown)
def test_what_runs_in_a_tasks_environment_compiles_as_python_3_9(path):
    ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_what_runs_in_a_tasks_environment_imports_nothing_but_the_standard_library():
    """In a Python without site-packages; a module is imported unless it is a script (`__main__`)."""
    names = [module_name(path) for path in in_process_modules() if path.stem != "__main__"]
    program = (
        "import sys, importlib\n"
        f"sys.path += {[str(PACKAGES[part].parents[1]) for part in ('schemas', 'task_runtime')]!r}\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(tops - sys.stdlib_module_names - {'theorbo', '__main__', '__mp_main__'}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_reporting_costs_a_rank_no_heavy_import():
    """Ten thousand ranks pay for each import of `theorbo.task_runtime`."""
    heavy = {"asyncio", "http", "multiprocessing", "numpy", "socket", "ssl", "unittest"}
    program = (
        "import sys\n"
        f"sys.path += {[str(PACKAGES[part].parents[1]) for part in ('schemas', 'task_runtime')]!r}\n"
        "import theorbo.task_runtime\n"
        f"print(sorted({heavy!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "subprocess.getoutput"}
FORBIDDEN_KEYWORDS = {("shell", True), ("allow_pickle", True)}


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_nothing_executable_is_decoded_and_no_shell_is_asked(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in FORBIDDEN_IMPORTS]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_IMPORTS:
                found.append(module)
            case ast.Call(func=function, keywords=keywords):
                found += [name for name in [ast.unparse(function)] if name in FORBIDDEN_CALLS]
                found += [
                    f"{keyword.arg}={keyword.value.value}"
                    for keyword in keywords
                    if isinstance(keyword.value, ast.Constant)
                    and (keyword.arg, keyword.value.value) in FORBIDDEN_KEYWORDS
                ]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_product_code_does_not_poll_by_sleeping(path):
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [call for call in calls if call in ("time.sleep", "sleep", "asyncio.sleep")] == []


def test_the_pages_made_from_the_code_are_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, page in generate.PAGES.items():
        assert path.read_text() == page(), f"{shown(path)} is out of date: uv run python docs/generate.py"


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".ci").iterdir()) + sorted((ROOT / "examples").rglob("*.sh")), ids=shown
)
def test_scripts_can_be_run(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/")
