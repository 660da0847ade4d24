"""What the declared graph claims by itself: which independences, and what adjustment asks of its image formula."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from brainscm.scm.graph import Graph

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


def in_words(implication: pd.Series) -> str:
    """`ventricles should not depend on sex, given age, diagnosis`."""
    given = implication["given"]
    condition = f", given {given}" if isinstance(given, str) and given else ""
    return f"{implication['node']} should not depend on {implication['other']}{condition}"
