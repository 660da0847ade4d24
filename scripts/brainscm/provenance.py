"""Fingerprints of the code and options behind a result, so that a change of either redoes what depends on it."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def code_fingerprint(*stages: str) -> str:
    """Hash the code of stages (sub-packages, or a module beside them), blind to comments, docstrings and layout.

    Snakemake sees changes of a rule's script but not of the modules that it imports; rules pass this as a parameter.
    """
    digest = hashlib.sha256()
    for stage in stages:
        for path in sorted([*PACKAGE.glob(f"{stage}.py"), *(PACKAGE / stage).rglob("*.py")]):
            digest.update(path.name.encode())
            digest.update(ast.dump(_without_docstrings(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def options_fingerprint(options: Any) -> str:
    """Hash options (anything that JSON can hold), whatever the order of their keys."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:16]
