"""What docs/guarantees.md says of tests and pages is true: a promise without its test is none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_test_that_the_page_names_exists():
    defined = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert named - defined == set()


def test_every_file_that_the_page_names_exists():
    named = set(re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+)`", PAGE))
    linked = {f"docs/{path}" for path in re.findall(r"\]\(([\w./-]+)\)", PAGE)}
    assert [path for path in sorted(named | linked) if not (ROOT / path).resolve().exists()] == []
