"""Read model formulas without data: which nodes they name, and that they are nothing but arithmetic.

A formula comes from a study file, which may come from anybody, and formulaic evaluates what a formula calls as Python.
So a formula is read against a list of what is allowed, and nothing passes by default: first its characters and words,
then each piece that formulaic splits it into. All that is allowed maps a scan's value by itself, once its state (knots,
means) is learnt from the training scans.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brainscm.errors import ConfigError

if TYPE_CHECKING:
    from formulaic.parser.types import Term, Token

ELEMENTWISE = ("log", "log2", "log10", "log1p", "exp", "sqrt", "abs")  # numpy's, which may stand as np.log too
CENTRED = ("center", "scale", "standardize")  # by the mean (and standard deviation) of the training scans
BASES = {"cr": ("df", "knots"), "cc": ("df", "knots"), "bs": ("df", "knots", "degree"), "poly": ("degree",)}
CONTRASTS = ("treatment", "SAS", "sum", "helmert", "poly", "diff")
OFFSET = "offset"  # a term with a coefficient of 1
FUNCTIONS = frozenset({"I", "C", OFFSET, *ELEMENTWISE, *CENTRED, *BASES})
MODULES = {"np": ELEMENTWISE, "contr": CONTRASTS}
TAKEN = frozenset({"Intercept", "image"})  # the name of a column that each design has, and of the last node
EXAMPLE = '"cr(age, df=4) + sex"'

MAX_LENGTH = 2000  # characters
MAX_TERMS = 500
MAX_DF = 20
MAX_DEGREE = 5
MAX_POWER = 10
MAX_NUMBER = 1e9

COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_WORDS = re.compile(
    r"""
    \s+ | [-+*/:(),=<>!\[\]]
    | (?P<word> [^\W\d][\w.]*)
    | (?: \d+\.?\d* | \.\d+) (?: [eE][+-]?\d+)? (?![\w.])
    | "[\w .+-]*" | '[\w .+-]*'
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Formula:
    """A right-hand side as formulaic reads it.

    Attributes:
        text: as written in the config.
        names: the nodes that it names, in order of appearance.
        categorical: those of them that it wraps in `C()`.
        transforms: (expression, nodes) of what it computes without training scans, such as `log(age - onset)`; of
            several nodes, parts of one node, too.
        terms: its checked terms; a design matrix is made of these, not of the text.
    """

    text: str
    names: tuple[str, ...]
    categorical: frozenset[str]
    transforms: tuple[tuple[str, tuple[str, ...]], ...]
    terms: tuple[Term, ...]


class _RefusalError(Exception):
    """What is wrong with a formula, and what to do."""


def parse_formula(text: str, where: str) -> Formula:
    """Parse the right-hand side of a model.

    Args:
        text: for example `cr(age, df=4) + sex * diagnosis`.
        where: the config key, for messages.

    Raises:
        ConfigError: the syntax is wrong or not among what is allowed, it has a left-hand side or no intercept, or it
            calls an unknown function.
    """
    try:
        return _parse(text)
    except _RefusalError as error:
        sentence = str(error)
    except Exception as error:  # formulaic's own errors, SyntaxError, RecursionError and AttributeError alike
        reason = re.sub(r"⧛\[[\d;]*m|⧚", "", str(error).partition("\n")[0]).rstrip(". ")
        sentence = f"'{text}' is not a formula ({reason}); write it like {EXAMPLE}."
    raise ConfigError(" ".join(f"{where}: {sentence}".split()))


def is_name(word: str) -> bool:
    """Whether a node can be called so: Python reads it as one name, as this very name, and as nothing else."""
    one = word.isidentifier() and not word.startswith("_") and unicodedata.normalize("NFKC", word) == word
    return one and not keyword.iskeyword(word) and word not in {*FUNCTIONS, *MODULES, *TAKEN}


def nearest(name: str, known: Collection[str]) -> str:
    """The hint that ends a sentence about an unknown name."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else f"known are: {', '.join(sorted(known))}."


def _parse(text: str) -> Formula:
    from formulaic.parser import DefaultFormulaParser
    from formulaic.parser.algos.sanitize_tokens import sanitize_tokens
    from formulaic.parser.algos.tokenize import tokenize

    _check_words(text)
    checked = {token.token: _checked(token) for token in sanitize_tokens(tokenize(text))}
    parser = DefaultFormulaParser(feature_flags=DefaultFormulaParser.FeatureFlags.NONE)
    tree = parser.get_ast(text)
    if _count(tree) > MAX_TERMS:
        raise _RefusalError(f"'{text}' stands for more than {MAX_TERMS} terms; write fewer '*' and '**'.")
    terms = tuple(parser.get_terms_from_ast(tree, context={}))
    if not any(str(term) == "1" for term in terms):
        raise _RefusalError(f"'{text}' drops the intercept, which the model needs; leave out '0 +' or '- 1'.")

    # What formulaic evaluates is what was checked: for any other factor the look-up fails, and so the formula.
    factors = dict.fromkeys(factor.expr for term in terms for factor in term.factors if factor.expr != "1")
    trees = [tree for factor in factors if (tree := checked[factor])]
    if len(trees) < len(factors):
        raise _RefusalError(f"'{text}' multiplies a term by a number; write numbers within terms, like I(age / 10).")
    if any(len(term.factors) > 1 and any(_called(checked[f.expr]) == OFFSET for f in term.factors) for term in terms):
        raise _RefusalError(f"'{text}' multiplies an offset, whose coefficient is 1; write '+' before and behind it.")
    used = {name for tree in trees for name in _names(tree)}
    names = dict.fromkeys(name for tree in checked.values() for name in _names(tree))
    for name in names:
        if name not in used:
            raise _RefusalError(f"'{text}' takes '{name}' out, which is in no other term; leave it out altogether.")
    return Formula(
        text,
        tuple(names),
        frozenset(name for tree in trees if _called(tree) == "C" for name in _names(tree)),
        tuple(transform for tree in trees for transform in _transforms(tree)),
        terms,
    )


def _check_words(text: str) -> None:
    """Refuse what has no place anywhere in a formula, whatever formulaic or Python would make of it."""
    if len(text) > MAX_LENGTH:
        raise _RefusalError(f"the formula has {len(text)} characters, of which {MAX_LENGTH} are allowed; shorten it.")
    if re.search(r"[~|]", text):
        raise _RefusalError(f"'{text}' has a '~' or '|'; give the right-hand side alone, like {EXAMPLE}.")
    if "^" in text:
        raise _RefusalError(f"'{text}' has a '^'; write a square as I(age**2), and interactions as (age + sex)**2.")
    place = 0
    while place < len(text):
        match = _WORDS.match(text, place)
        if match is None:
            odd = re.sub(r"(?s)^([\w.]+|.).*", r"\1", text[place:])
            raise _RefusalError(f"'{odd}' cannot be read in '{text}'; write it like {EXAMPLE}.")
        if match["word"] is not None:
            _check_word(match["word"])
        place = match.end()


def _check_word(word: str) -> None:
    module, dot, name = word.partition(".")
    if dot and module not in MODULES:
        raise _RefusalError(f"'{word}' may look at other scans; use functions like {EXAMPLE}.")
    if dot and name not in MODULES[module]:
        known = [f"{module}.{function}" for function in MODULES[module]]
        raise _RefusalError(f"'{word}' cannot stand in a formula; known are: {', '.join(known)}.")
    if not dot and not is_name(word) and word not in FUNCTIONS:
        raise _RefusalError(f"'{word}' can be neither a node nor a function; write a formula like {EXAMPLE}.")


def _checked(token: Token) -> ast.expr | None:
    """The Python of a node's name or of an allowed call; None for an allowed sign or number."""
    kind, text = token.kind, token.token
    if kind is token.Kind.OPERATOR and text not in ("+", "-", "*", "/", ":", "**"):
        hint = "a comparison as I(age > 50)" if re.search("[<>=]", text) else f"a formula like {EXAMPLE}"
        raise _RefusalError(f"'{text}' cannot stand between terms; write {hint}.")
    if kind is token.Kind.VALUE and not re.fullmatch(r"\d", text):
        raise _RefusalError(f"'{text}' cannot be a term; write numbers within one, like I(age / 10).")
    if kind in (token.Kind.OPERATOR, token.Kind.VALUE) or (kind is token.Kind.CONTEXT and text in ("(", ")")):
        return None
    if kind is token.Kind.NAME and text in FUNCTIONS:
        raise _RefusalError(f"'{text}' is a function; write what it takes in brackets right behind it, like log(age).")
    if kind is token.Kind.NAME and is_name(text):
        return ast.parse(text, mode="eval").body
    if kind is token.Kind.PYTHON:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Call):
            _check_term(tree)
            if not _names(tree):
                raise _RefusalError(f"'{text}' names no node, so that it is the same for every scan; leave it out.")
            _check_once(tree)
            return tree
    raise _RefusalError(f"'{text}' cannot be a term; write a formula like {EXAMPLE}.")


def _count(tree: Any) -> int:
    """How many terms formulaic's own tree of signs multiplies out to, at most; counting ends beyond `MAX_TERMS`."""
    if not hasattr(tree, "operator"):
        return 1
    left, right = [*map(_count, tree.args), 0][:2]
    match tree.operator.symbol:
        case "**":
            power = str(getattr(tree.args[1], "token", ""))
            if left == 1 or not re.fullmatch("[2-9]", power):
                raise _RefusalError(
                    "'**' between terms is for interactions, as in (age + sex)**2; write a square as I(age**2)."
                )
            count = left ** int(power)
        case "*":
            count = left + right + left * right
        case ":":
            count = left * right
        case _:
            count = left + right
    return min(count, MAX_TERMS + 1)


def _check_term(call: ast.Call) -> None:
    """Check a term that is a call: `cr(age, df=4)`, `C(site, contr.sum)`, `log(age)`."""
    name = _called(call)
    if name in BASES:
        _check_basis(name, call)
    elif name == OFFSET:
        _check_argument(call)
    elif name != "C":
        _check_value(call)
    elif not _is_coded(call):
        raise _RefusalError(
            f"'{ast.unparse(call)}' should hold a node and nothing but contrasts; "
            'write it like C(site), C(site, contr.sum) or C(site, contr.treatment("Oslo")).'
        )


def _check_basis(name: str, call: ast.Call) -> None:
    """Check a spline or polynomial: a value, and numbers by place or by name."""
    shown = ast.unparse(call)
    if not 1 <= len(call.args) <= 1 + len(BASES[name]):
        raise _RefusalError(f"'{shown}' should hold a node and {', '.join(BASES[name])}; write it like {EXAMPLE}.")
    _check_value(call.args[0])
    given = dict(zip(BASES[name], call.args[1:], strict=False))
    for option in call.keywords:
        if option.arg not in BASES[name]:
            raise _RefusalError(f"'{shown}': {name} has no '{option.arg}'; {nearest(str(option.arg), BASES[name])}")
        if option.arg in given:
            raise _RefusalError(f"'{shown}' gives {option.arg} twice; give it once.")
        given[option.arg] = option.value

    degree = _whole(given["degree"]) if "degree" in given else 3
    if not 1 <= degree <= MAX_DEGREE:
        raise _RefusalError(f"'{shown}': degree should be a whole number from 1 to {MAX_DEGREE}; change it.")
    if name == "poly":
        return
    if "df" in given and "knots" in given:
        raise _RefusalError(f"'{shown}' gives df and knots; give one of them.")
    if not given and name != "bs":
        raise _RefusalError(f"'{shown}' does not say how flexible the curve is; add df, as in {EXAMPLE}.")
    lowest, without_knots = {"cr": (2, 1), "cc": (2, 0), "bs": (degree, degree)}[name]
    knots = _knots(given["knots"]) if "knots" in given else 0
    df = _whole(given["df"]) if "df" in given else knots + without_knots
    if knots < 0 or not lowest <= df <= MAX_DF:
        raise _RefusalError(
            f"'{shown}': df should be a whole number from {lowest} to {MAX_DF}, or knots {lowest - without_knots} to "
            f"{MAX_DF - without_knots} ascending numbers in [ ]; for a straight line write the node's name alone."
        )


def _check_value(node: ast.expr) -> None:
    """Check arithmetic, comparisons and functions of single values."""
    match node:
        case ast.Name(id=name) if is_name(name):
            pass
        case ast.Constant() if _number(node) is not None:
            pass
        case ast.Constant(value=int() | float()):
            raise _RefusalError(
                f"'{ast.unparse(node)}' cannot stand in a formula; numbers may go up to {MAX_NUMBER:g}."
            )
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _check_value(operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), left=left, right=right):
            _check_value(left)
            _check_value(right)
        case ast.BinOp(op=ast.Pow(), left=base, right=power):
            if not _names(base) or abs(_number(power) or math.inf) > MAX_POWER:
                raise _RefusalError(
                    f"'{ast.unparse(node)}' cannot stand in a formula; a power is a node to a number from "
                    f"-{MAX_POWER} to {MAX_POWER}, like age**2."
                )
            _check_value(base)
        case ast.Compare(left=left, ops=[sign], comparators=[right]) if isinstance(sign, COMPARISONS):
            _check_value(left)
            _check_value(right)
        case ast.Call() if _called(node):
            _check_call(node)
        case _:
            raise _RefusalError(f"'{ast.unparse(node)}' cannot stand in a formula; write it like {EXAMPLE}.")


def _check_call(call: ast.Call) -> None:
    """Check a function of one value."""
    name, shown = _called(call), ast.unparse(call)
    if name not in FUNCTIONS:
        raise _RefusalError(f"unknown function '{name}' in '{shown}'; {nearest(name, FUNCTIONS)}")
    if name in ("C", OFFSET) or name in BASES:
        raise _RefusalError(f"'{shown}' should be a term of its own, not a part of another; move it out.")
    _check_argument(call)


def _check_argument(call: ast.Call) -> None:
    if len(call.args) != 1 or call.keywords:
        raise _RefusalError(f"'{ast.unparse(call)}' should hold one value and nothing else; write it like log(age).")
    _check_value(call.args[0])


def _check_once(term: ast.expr) -> None:
    """Refuse `I(center(age) * center(age))`: formulaic remembers the training mean for one of the two only."""
    calls = [ast.unparse(node) for node in ast.walk(term) if isinstance(node, ast.Call) and _called(node) in CENTRED]
    for call in calls:
        if calls.count(call) > 1:
            raise _RefusalError(f"'{ast.unparse(term)}' holds '{call}' twice; write it once, as in I(center(age)**2).")


def _is_coded(call: ast.Call) -> bool:
    """Whether this is `C(site)`, or `C(site, contr.sum)` and its kind."""
    match call:
        case ast.Call(func=ast.Name(id="C"), args=[ast.Name(id=name), *contrasts], keywords=[]) if is_name(name):
            return len(contrasts) <= 1 and all(map(_is_contrast, contrasts))
    return False


def _is_contrast(node: ast.expr) -> bool:
    """Whether this is `contr.sum`, `contr.sum()` or `contr.treatment("Oslo")`: only here may a formula hold text."""
    match node:
        case ast.Attribute(value=ast.Name(id="contr"), attr=name):
            return name in CONTRASTS
        case ast.Call(func=ast.Attribute() as contrast, args=[], keywords=[]):
            return _is_contrast(contrast)
        case (
            ast.Call(func=contrast, args=[ast.Constant(value=str())], keywords=[])
            | ast.Call(func=contrast, args=[], keywords=[ast.keyword(arg="base", value=ast.Constant(value=str()))])
        ):
            return ast.unparse(contrast) in ("contr.treatment", "contr.SAS")
    return False


def _called(tree: ast.expr | None) -> str:
    """The name of the function that a call calls, `log` for `np.log` too; "" for anything else."""
    match tree:
        case ast.Call(func=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=name)) if name in ELEMENTWISE:
            return name
    return ""


def _names(tree: ast.expr | None) -> list[str]:
    """The nodes that an expression names, in order of appearance."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)] if tree else []
    return [node.id for node in sorted(found, key=lambda node: node.col_offset) if is_name(node.id)]


def _transforms(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The largest parts of an expression that compute something of values alone, and their parts of one node."""
    if isinstance(node, ast.Call | ast.BinOp):
        names = tuple(dict.fromkeys(_names(node)))
        called = {_called(call) for call in ast.walk(node) if isinstance(call, ast.Call)}
        if names and called <= {"I", *ELEMENTWISE}:
            yield ast.unparse(node), names
            if len(names) == 1:
                return
    for child in ast.iter_child_nodes(node):
        yield from _transforms(child)


def _number(node: ast.expr) -> float | None:
    """The number that a literal stands for, with its sign, if a formula may hold it."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _number(operand)
            return None if number is None else -number
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and number <= MAX_NUMBER:
            return number
    return None


def _whole(node: ast.expr) -> int:
    """The number that a literal stands for, or -1 if it is not a whole one."""
    number = _number(node)
    return number if isinstance(number, int) else -1


def _knots(node: ast.expr) -> int:
    """How many ascending numbers a list holds, or -1 if it is not one."""
    if not isinstance(node, ast.List | ast.Tuple):
        return -1
    numbers = [number for item in node.elts if (number := _number(item)) is not None]
    return len(numbers) if len(numbers) == len(node.elts) and numbers == sorted(set(numbers)) else -1
