"""Fingerprints of the code and options behind a result, so that a change of either redoes what depends on it."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path
from typing import Any

# Where Python finds both the rules' scripts and the library.
SCRIPTS = Path(__file__).parents[1]

# No number of a result comes from these modules, so that a change of theirs, or of what only they import, redoes
# nothing. A picture that is drawn keeps its colours until its scan is preprocessed, or its model trained, once more.
NOT_COUNTED = frozenset(
    {
        "brainscm",  # the version
        "brainscm.config",  # a rule's options are its parameters, checked and with their defaults
        "brainscm.errors",  # what an error is called
        "brainscm.job",  # the log and the number of threads
        "brainscm.provenance",
        "brainscm.preprocess.figures",  # the pictures of quality control
        "brainscm.training.progress",  # by what one watches a training
    }
)


@dataclass(frozen=True)
class Module:
    """One file of code: a hash of what it does, and the dotted names that it imports, of modules or what is in them."""

    digest: str
    imports: frozenset[str]


@cache
def code_fingerprint(module: str, scripts: Path = SCRIPTS) -> str:
    """Hash a module's code and that of all it imports, blind to comments, docstrings, layout and `NOT_COUNTED`.

    Snakemake sees changes of a rule's script but not of the modules that it imports. A rule passes this as a parameter;
    as a function (`lambda wildcards: ...`), because a job then reads the code of its own rule alone.

    Args:
        module: a rule, whose script has its name; or a module of the library, by its `__name__`.
    """
    closure = import_closure(module, NOT_COUNTED, scripts)
    named = "\n".join(f"{name} {closure[name].digest}" for name in sorted(closure))
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def import_closure(module: str, without: Collection[str] = (), scripts: Path = SCRIPTS) -> dict[str, Module]:
    """The modules below `scripts` that one imports, and those that they import, itself included, by their names.

    Imports within functions count; those below `if TYPE_CHECKING` do not, since they never run. Of a module that is
    chosen by its name, as in `import_module(f"brainscm.encoding.{kind}")`, all that there are count.

    Args:
        without: modules to leave out, with what only they import.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    if _file(module, scripts) is None:
        raise ModuleNotFoundError(f"{module} is not a module in {scripts}", name=module)
    closure: dict[str, Module] = {}
    found = [module]
    while found:
        name = found.pop()
        file = _file(name, scripts)
        if file is not None and name not in closure and name not in without:
            closure[name] = _read(file, name, scripts)
            found += closure[name].imports
    return closure


def options_fingerprint(options: Any) -> str:
    """Hash options (anything that JSON can hold), whatever the order of their keys."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def _file(module: str, scripts: Path) -> Path | None:
    """The file of a module or package below `scripts`; None for anything else, such as a class or another library."""
    path = scripts.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _read(file: Path, name: str, scripts: Path) -> Module:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    imports = {imported for statement in _statements(tree) for imported in _imports(statement, package)}
    imports.update(_chosen_by_name(tree, scripts))
    return Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imports))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """What may run below a node, at any depth. What cannot is taken out of the tree: docstrings, `if TYPE_CHECKING`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        node.body = []
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        block = getattr(node, field, [])
        block[:] = [statement for statement in block if not _is_text(statement)]
        for statement in block:
            yield statement
            yield from _statements(statement)


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is a string that stands by itself, as docstrings do."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(statement: ast.AST, package: str) -> Iterator[str]:
    """The dotted names that an import statement of a module in `package` may load: `a.b.c` loads `a` and `a.b` too."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom):
        source = resolve_name("." * statement.level + (statement.module or ""), package)
        names = [f"{source}.{alias.name}" for alias in statement.names]
    else:
        return
    for name in names:
        yield from accumulate(name.split("."), lambda parent, child: f"{parent}.{child}")


def _chosen_by_name(tree: ast.AST, scripts: Path) -> Iterator[str]:
    """The modules of which a call `import_module(f"<package>.{name}")` may load any."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name("import_module"), args=[ast.JoinedStr([ast.Constant(str(package)), ast.FormattedValue()])]
            ):
                files = scripts.joinpath(*package.split(".")).glob("*.py")
                yield from (package + file.stem for file in files if file.stem != "__init__")
