"""The benchmarks and the script that draws the documentation's picture: that what they import is still there."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "docs").glob("**/*.py"))]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_can_be_imported(name, monkeypatch):
    # What the scripts set as they load, for themselves, is gone after the test.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    importlib.import_module(name)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_all_names_that_a_script_imports_from_the_library_are_there(path):
    """Also within functions, where heavy libraries are imported only by the process that needs them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("brainscm"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
