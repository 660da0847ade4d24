"""Who may import whom in the library: what lies above imports what lies below, and nothing runs in a circle."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from brainscm.provenance import SCRIPTS, import_closure

# In the order in which data flow: a package may import those before it. Modules that lie in no package are the ground
# floor, which all may import.
PACKAGES = (
    "cohort", "qc", "preprocess", "alignment", "encoding", "training", "latents", "scm", "counterfactuals",
    "evaluation", "report", "workflow",
)  # fmt: skip

Graph = Mapping[str, frozenset[str]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Each module of the library, with those that it imports; a package that is only passed through is left out."""
    files = sorted((SCRIPTS / "brainscm").rglob("*.py"))
    paths = [file.parent if file.stem == "__init__" else file.with_suffix("") for file in files]
    names = [".".join(path.relative_to(SCRIPTS).parts) for path in paths]
    direct = {name: import_closure(name)[name].imports for name in names}
    return {
        name: frozenset(other for other in imports if other in direct and not f"{name}.".startswith(f"{other}."))
        for name, imports in direct.items()
    }


def package(module: str) -> str:
    """The package that a module lies in, "" for the ground floor."""
    name = module.split(".")[1] if "." in module else ""
    return name if (SCRIPTS / "brainscm" / name).is_dir() else ""


def may_import(module: str, other: str) -> bool:
    ours, theirs = package(module), package(other)
    if theirs in ("", ours):
        return True
    return {ours, theirs} <= set(PACKAGES) and PACKAGES.index(theirs) < PACKAGES.index(ours)


def test_no_import_runs_upward(graph: Graph) -> None:
    assert [(name, other) for name in graph for other in sorted(graph[name]) if not may_import(name, other)] == []


def test_no_modules_import_each_other_in_a_circle(graph: Graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' ← '.join(error.args[1])}")


def test_every_package_has_its_place(graph: Graph) -> None:
    found = {package(name) for name in graph}
    assert found == {"", "simulation", *PACKAGES}
