"""Tests stand alone: what they share is in tests/support, what scenarios share in lab/scenarios/common.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MODULES = sorted([*PROJECT.glob("tests/**/*.py"), *PROJECT.glob("lab/scenarios/*.py")])


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module and name that is imported anywhere in a module, as `package.module.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def of_test_modules(names: Iterator[str]) -> list[str]:
    return [name for name in names if any(part.startswith("test_") for part in name.split("."))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_module_imports_a_test_module(path: Path) -> None:
    assert of_test_modules(imported(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import tests.flow.test_compare",
        "from tests.flow import test_compare",
        "from tests.flow.test_compare import ways",
        "from .test_services import WEB",
        "from . import test_services",
        "def late():\n    from tests.flow.test_compare import ways",
    ],
)
def test_an_import_of_a_test_module_is_noticed(text: str) -> None:
    assert of_test_modules(imported(ast.parse(text)))
