"""Read model formulas without data: which nodes they name, and whether they can be used at all."""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass

from brainscm.errors import ConfigError

# Each of these maps a scan's value by itself, once its state (knots, means) is learnt from the training scans.
FUNCTIONS = frozenset(
    {"cr", "cc", "bs", "poly", "center", "scale", "standardize", "C", "I", "log", "log2", "log10", "exp"}
)
MODULES = frozenset({"np", "contr"})
EXAMPLE = '"cr(age, df=4) + sex"'


@dataclass(frozen=True)
class Formula:
    """A right-hand side as formulaic reads it.

    Attributes:
        text: as written in the config.
        names: the nodes that it names, in order of appearance.
        categorical: those of them that it wraps in `C()`.
    """

    text: str
    names: tuple[str, ...]
    categorical: frozenset[str]


def parse_formula(text: str, where: str) -> Formula:
    """Parse the right-hand side of a model.

    Args:
        text: for example `cr(age, df=4) + sex * diagnosis`.
        where: the config key, for messages.

    Raises:
        ConfigError: the syntax is wrong, it has a left-hand side or no intercept, or it calls an unknown function.
    """
    if re.search(r"[~|]", text):
        raise ConfigError(f"{where}: '{text}' has a '~' or '|'; give the right-hand side alone, like {EXAMPLE}.")
    from formulaic.parser import DefaultFormulaParser

    try:
        terms = list(DefaultFormulaParser().get_terms(text))
        factors = [factor for term in terms for factor in term.factors]
        trees = [ast.parse(f.expr, mode="eval") for f in factors if f.eval_method.name == "PYTHON"]
    except Exception as error:  # formulaic raises its own errors, SyntaxError and AttributeError alike
        reason = re.sub(r"⧛\[[\d;]*m|⧚", "", str(error).partition("\n")[0]).rstrip(". ")
        raise ConfigError(f"{where}: '{text}' is not a formula ({reason}); write it like {EXAMPLE}.") from error
    if not any(str(term) == "1" for term in terms):
        raise ConfigError(f"{where}: '{text}' drops the intercept, which the model needs; leave out '0 +' or '- 1'.")

    names = [factor.expr for factor in factors if factor.eval_method.name == "LOOKUP"]
    categorical = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in MODULES):
                raise ConfigError(
                    f"{where}: '{ast.unparse(node)}' may look at other scans; use functions like {EXAMPLE}."
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id not in FUNCTIONS:
                    raise ConfigError(
                        f"{where}: unknown function '{node.func.id}' in '{text}'; {nearest(node.func.id, FUNCTIONS)}"
                    )
                if node.func.id == "C" and node.args and isinstance(node.args[0], ast.Name):
                    categorical.add(node.args[0].id)
            elif isinstance(node, ast.Name) and node.id not in FUNCTIONS | MODULES:
                names.append(node.id)
    in_text = {name: match.start() for name in names if (match := re.search(rf"\b{re.escape(name)}\b", text))}
    return Formula(text, tuple(sorted(in_text, key=lambda name: in_text[name])), frozenset(categorical))


def nearest(name: str, known: frozenset[str] | set[str] | list[str] | tuple[str, ...]) -> str:
    """The hint that ends a sentence about an unknown name."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else f"known are: {', '.join(sorted(known))}."
