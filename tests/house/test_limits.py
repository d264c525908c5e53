"""Every bound is named in one file, with unit, reason and policy, and stands on a page."""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from theorbo.schemas import limits

ROOT = Path(__file__).parents[2]
SOURCE = Path(limits.__file__)
UNITS = {"KIB", "MIB", "GIB"}
NAMES = [name for name in vars(limits) if name.isupper() and name not in UNITS]
SOURCES = sorted(path for part in ROOT.glob("*/src/theorbo") for path in part.rglob("*.py") if path != SOURCE)


def described():
    body = ast.parse(SOURCE.read_text()).body
    return {
        limit.targets[0].id: text.value.value
        for limit, text in itertools.pairwise(body)
        if isinstance(limit, ast.Assign) and isinstance(text, ast.Expr)
    }


def test_each_limit_says_what_it_is_for():
    assert len(NAMES) > 80
    texts = described()
    assert [name for name in NAMES if len(texts.get(name, "").split()) < 8] == []


def test_each_limit_stands_on_the_page():
    page = (ROOT / "docs" / "limits.md").read_text()
    assert [name for name in NAMES if f"| `{name}` |" not in page] == []


def test_each_limit_is_used():
    words = Counter(word for path in (*SOURCES, SOURCE) for word in re.findall(r"\b[A-Z_]{3,}\b", path.read_text()))
    assert [name for name in NAMES if words[name] < 2] == []


def test_seconds_are_floats_and_sizes_are_integers():
    assert [
        name for name in NAMES if not isinstance(getattr(limits, name), float if name.endswith("_S") else int)
    ] == []


WAITS = re.compile(r"(?:timeout|timeout_s|deadline)\s*=\s*(\d+(?:\.\d+)?)|\.(?:wait|join|poll)\((\d+(?:\.\d+)?)\)")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_wait_is_a_bare_number(path):
    """0 is no wait: it asks how things stand."""
    found = [match.group() for match in WAITS.finditer(path.read_text()) if float(match[1] or match[2]) != 0]
    assert found == []
