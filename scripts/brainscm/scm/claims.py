"""What the declared graph claims by itself: which independences, and what adjustment asks of its image formula."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from brainscm.scm.graph import Graph
from brainscm.wording import listed

IMAGE = "image"
ALL = "all together"  # the row of a table of independences that tests them together


def missing_arrows(graph: Graph) -> list[tuple[str, str]]:
    """(node, other): the other comes before the node, and no arrow leads from it to the node."""
    before: list[str] = []
    pairs = []
    for node, formula in graph.formulas.items():
        if formula is not None:
            pairs += [(node, other) for other in before if other not in formula.names]
        before.append(node)
    return pairs + [("image", other) for other in before if other not in graph.image.names]


def adjustment_warnings(graph: Graph, measured: Collection[str]) -> list[str]:
    """What the image formula conditions on, or leaves out, that the declared graph alone shows to be in question.

    Args:
        measured: nodes that are regional volumes of the scan itself.
    """
    warnings = []
    for name in graph.image.names:
        if name in measured and name in graph.exogenous:
            warnings.append(
                f"scm.nodes.{name}: it is measured on the scan and has no formula, so that no intervention moves it "
                "and every effect on the image is what goes beside it; give it a formula of what causes it"
            )
        left_out = [parent for parent in graph.parents(name) if parent not in graph.image.names]
        if left_out:
            warnings.append(
                f"scm.image.formula: it holds {name} and leaves out what {name} depends on ({', '.join(left_out)}); if "
                f"that acts on the image by another way too, the effects of the other causes of {name} are biased"
            )
    return warnings


def identification(graph: Graph, causes: Collection[str], effect: str, outcome: str = IMAGE) -> str:
    """What must be held, and what must not be there, for the effect of `causes` on `outcome` to be identified.

    By the graph it is: given its parents, a node depends on nothing before it (Pearl, 2009). What it needs beyond the
    declared arrows is that no two nodes on the way share a cause that the graph does not have.

    Args:
        causes: the nodes that are changed together. effect: total, or direct, with the nodes in between held.
        outcome: the image, or a node.
    """
    formula = graph.image.names if outcome == IMAGE else graph.parents(outcome)
    between = [node for node in graph.descendants(causes) if node != outcome and graph.reaches([node], outcome)]
    without = [node for node in graph.formulas if node not in causes and node != outcome]
    shared = [
        node
        for node in without
        if set(causes).intersection(graph.descendants([node])) and graph.reaches([node], outcome, past=causes)
    ]
    held = [node for node in formula if node not in causes and node not in between]
    named, shown = " or ".join(causes), "the image" if outcome == IMAGE else outcome
    if shared:
        verb, cause = ("is", "a cause") if len(shared) == 1 else ("are", "causes")
        asked = f"{listed(shared)}, by the graph {cause} of both {named} and {shown}, must be held and {verb}"
        through = [node for node in held if node not in shared]
        if through and not {*held, *between}.issuperset(shared):
            asked += f" (in part by holding {listed(through)})"
    else:
        asked = f"by the graph nothing causes both {named} and {shown}"
        asked += f"; {listed(held)} {'is' if len(held) == 1 else 'are'} held beside" if held else ""
    if not between:
        unmeasured = f"both {named} and {shown}"
    elif effect == "direct":
        unmeasured = f"both {shown} and {named}, or both {shown} and what is held on the way ({listed(between)})"
    else:
        unmeasured = f"two of {listed([*causes, *between, shown])}"
    return f"{asked}; it is identified if nothing unmeasured causes {unmeasured}"


def in_words(implication: pd.Series) -> str:
    """`ventricles should not depend on sex, given age, diagnosis`."""
    given = implication["given"]
    condition = f", given {given}" if isinstance(given, str) and given else ""
    return f"{implication['node']} should not depend on {implication['other']}{condition}"
