"""What a study's questions will cost, and which of them its data can answer: worked out without any image.

With the causal model each answer's support is that of its manifest. Before one is fitted the cohort's table alone tells
the ranges of the training scans, and who is near; what runs through mediators is then not known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions, ScmOptions
from brainscm.counterfactuals.cost import Cost, recorded_cost
from brainscm.counterfactuals.manifest import volume_suffixes
from brainscm.counterfactuals.queries import outline, reaches_image
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.questions import is_relative, question_of, select_scans
from brainscm.scans import ScanTable
from brainscm.scm.covariates import Covariates, node_column
from brainscm.scm.graph import read_graph
from brainscm.scm.learnt import LEARNT
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.neighbours import Neighbours
from brainscm.scm.new_levels import with_new_levels
from brainscm.scm.portable import load_portable
from brainscm.scm.support import support
from brainscm.tables import read_table, write_table
from brainscm.visits import add_years_since_baseline

logger = logging.getLogger("brainscm")

# rows of the cohort's table, and a query → extrapolation, positivity and warning of each row that can be used
Support = Callable[[pd.DataFrame, QueryOptions], pd.DataFrame]


def run(
    scans: Path,
    results: Path,
    scm_dir: Path,
    options: ScmOptions,
    queries: Sequence[QueryOptions],
    source: str,
    new_levels: Mapping[str, str] | None = None,
) -> None:
    """Tell the plan in the log, and write it to counterfactuals/plan.tsv; a fitted causal model is used where it is.

    Args:
        scans: the cohort's table. source: what holds the questions, for messages.
        scm_dir: of the causal model, the study's own or a bundle's.
        new_levels: see `with_new_levels`.

    Raises:
        BrainSCMError: some question cannot be answered; the rest is told all the same.
    """
    rows = add_years_since_baseline(read_table(scans)).set_index("scan", drop=False).rename_axis(None)
    qc = results / "preproc" / "qc.tsv"
    if (scm_dir / LEARNT).exists():  # a bundle's: nothing is learnt from the table
        usable = rows
        if qc.exists():
            table = ScanTable.read(scans, qc)
            rows, usable = table.rows, table.usable
        support_of = by_model(with_new_levels(load_portable(scm_dir, options), usable, new_levels or {}, None))
    else:
        support_of = by_table(options, rows)
        try:
            if qc.exists():
                rows = ScanTable.read(scans, qc).rows
                support_of = by_model(load_scm(scm_dir, options))
                logger.info("By the causal model of %s:", scm_dir)
        except (BrainSCMError, OSError) as error:
            logger.info("By the tables alone, since there is no causal model yet (%s):", error)
    planned, problems = plan_questions(rows, queries, support_of, source)
    for line in told(planned, recorded_cost(results)):
        logger.info("%s", line)
    write_table(planned, results / "counterfactuals" / "plan.tsv")
    if problems:
        raise BrainSCMError(" ".join(problems))


def told(planned: pd.DataFrame, cost: Cost) -> list[str]:
    """The plan in words, a line a question and one for all."""
    lines = []
    for question, rows in planned.groupby("question", sort=False):
        asked, usable = int(rows["scans"].sum()), int(rows["usable"].sum())
        members = f" ({len(rows)} members)" if len(rows) > 1 else ""
        counts = {
            "cannot be answered (a covariate is missing, or preprocessing failed)": asked - usable,
            "extrapolate": int(rows["extrapolations"].sum()),
            "have no training participant near": int(rows["nobody_near"].sum()),
        }
        notes = [f"{count} {words}" for words, count in counts.items() if count]
        example = rows["warning"].dropna()
        notes += [f"for example {example.iloc[0]}"] if len(example) else []
        lines.append("; ".join([f"{question}{members}: {usable} counterfactuals", *notes]))
    total, volumes = int(planned["usable"].sum()), int(planned["volumes"].sum())
    hours = "no time is recorded yet" if cost.seconds is None else f"about {total * cost.seconds / 3600:.2g} h"
    size = "" if cost.megabytes is None else f", {volumes * cost.megabytes / 1000:.2g} GB"
    return [*lines, f"In all {total} counterfactuals, {volumes} volumes: {hours}{size}."]


def plan_questions(
    rows: pd.DataFrame, queries: Sequence[QueryOptions], support_of: Support, source: str
) -> tuple[pd.DataFrame, list[str]]:
    """One row a query, and what is wrong.

    Columns: question, query, scans, usable, volumes, extrapolations, nobody_near, warning.

    A query that cannot be asked, because of an unknown scan or level or a filter that takes none, has its sentence
    among the latter.
    """
    planned, problems = [], []
    for query in queries:
        try:
            chosen = select_scans(rows, query, source)
            supported = support_of(chosen, query)
        except ConfigError as error:
            problems.append(str(error))
            continue
        warned = supported["warning"][supported["warning"] != ""]
        planned.append(
            {
                "question": question_of(query),
                "query": query.name,
                "scans": len(chosen),
                "usable": len(supported),
                "volumes": len(supported) * len(volume_suffixes(query)),
                "extrapolations": int(supported["extrapolation"].sum()),
                "nobody_near": int((supported["positivity"] == 0).sum()),
                "warning": f"{warned.index[0]}: {warned.iloc[0]}" if len(warned) else None,
            }
        )
    columns = ["question", "query", "scans", "usable", "volumes", "extrapolations", "nobody_near", "warning"]
    return pd.DataFrame(planned, columns=columns), list(dict.fromkeys(problems))


def by_model(scm: Scm) -> Support:
    """The support that a fitted causal model gives, as it will stand in the manifest."""

    def support_of(rows: pd.DataFrame, query: QueryOptions) -> pd.DataFrame:
        lacking = [column for column in scm.covariates.columns.values() if column not in rows]
        if lacking:
            raise ConfigError(f"{lacking[0]} is measured by preprocessing; run `snakemake preprocess`, and ask again.")
        usable = rows[(scm.problems(rows) == "").to_numpy()]
        return outline(scm, usable, query)[1]

    return support_of


def by_table(options: ScmOptions, cohort: pd.DataFrame) -> Support:
    """The support that the cohort's table gives before anything is fitted.

    Nodes that preprocessing will measure have no column yet and are passed over.
    """
    graph = read_graph(options)
    there = [name for name in options.nodes if node_column(name, options, cohort) in cohort]
    terms = " + ".join(f"C({name})" if name in graph.in_c else name for name in there)
    known = options.model_copy(
        update={
            "nodes": {name: options.nodes[name].model_copy(update={"formula": None}) for name in there},
            "image": options.image.model_copy(update={"formula": terms or "1"}),
        }
    )
    training = cohort[cohort["split"] == "train"]
    covariates = Covariates.learn(training, known)
    training = training[covariates.problems(training) == ""]
    neighbours = Neighbours.of(covariates.read(training), training["participant"])

    def support_of(rows: pd.DataFrame, query: QueryOptions) -> pd.DataFrame:
        usable = rows[covariates.problems(rows) == ""]
        changed = covariates.read(usable)
        for node, value in query.do.items():
            if node in there:
                typed = covariates.typed(node, value)
                if covariates.levels[node] is not None:
                    changed[node] = pd.Categorical([typed] * len(usable), categories=changed[node].cat.categories)
                else:
                    changed[node] = float(typed) + (changed[node] if is_relative(typed) else 0.0)
        near = tuple(dict.fromkeys(name for name in (*graph.exogenous, *query.do) if name in there))
        found = support(
            values=changed,
            leverage=np.zeros(len(changed)),
            max_leverage=1.0,
            neighbours=neighbours,
            near=near,
            image_parents=(),
            covariates=covariates,
        )
        if not reaches_image(graph, query):
            found["warning"] = f"nothing leads from {', '.join(query.do)} to the image in the graph"
        return found

    return support_of
