"""What the causal model says regional volumes should do under an intervention: regressions, and no image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import statsmodels.api as sm

from brainscm.config import QueryOptions
from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.scm.slope_spread import Slopes, region_slopes

DRAWS = 16


@dataclass(frozen=True)
class Expectation:
    """A query worked out for n scans and r regions, before any image is made.

    Attributes:
        query: as asked. table, changed: factual rows and the same under the intervention, indexed by scan id.
        step: (n, p) change of the image node's design rows.
        change_ml: (n, r) expected change of each region.
        drawn_ml: (K, n, r) the same under draws of all parameters and of the noise that abduction leaves open.
    """

    query: QueryOptions
    regions: tuple[str, ...]
    table: pd.DataFrame
    changed: pd.DataFrame
    step: Array
    change_ml: Array
    drawn_ml: Array


@dataclass(frozen=True)
class RegionalModel:
    """One regression a region on the image node's own design, so that both speak of the same graph.

    Like the image, a volume is additive in template space, where all heads are of one size: V·h = x·b + M·h·a + w with
    the design row x, the head size h and the volume M of the scan's brain mask. A counterfactual keeps the mask of its
    scan, so that M and w are kept and an intervention changes V by (x' - x)·b / h: what an older participant's mask
    leaves out is no change, and tissues that fill the mask change by nothing together. A region that is itself a node
    of the graph changes as its node model says.

    Attributes:
        node_of: region -> its node, for the regions that are nodes.
        coefficients: b, (p, r); covariance: (r, p, p); zero for the regions that are nodes.
        slopes: of the training participants in time, where repeated visits tell them.
    """

    scm: Scm
    regions: tuple[str, ...]
    node_of: dict[str, str]
    coefficients: Array
    covariance: Array
    slopes: Mapping[str, Slopes] = field(default_factory=dict)

    @classmethod
    def fit(cls, scm: Scm, table: pd.DataFrame, regions: Sequence[str]) -> RegionalModel:
        """Fit on the scans of `scm.training`.

        Args:
            table: indexed by scan id: scan, participant, age, `<region>_ml`, `mask_volume_ml` and `head_size`.
        """
        design = scm.design_matrix(scm.training)
        columns = {column: node for node, column in scm.covariates.columns.items()}
        node_of = {region: columns[f"{region}_ml"] for region in regions if f"{region}_ml" in columns}
        participants = scm.training["participant"].to_numpy()
        measured = table.loc[scm.training["scan"]]
        head_size = measured["head_size"].to_numpy(dtype=float)
        mask = measured["mask_volume_ml"].to_numpy(dtype=float) * head_size
        p = design.shape[1]
        design = np.column_stack([design, mask - mask.mean()])
        coefficients, covariance = np.zeros((p, len(regions))), np.zeros((len(regions), p, p))
        for place, region in enumerate(regions):
            if region in node_of:
                continue
            model = sm.OLS(measured[f"{region}_ml"].to_numpy(dtype=float) * head_size, design)
            clustered = {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(participants)[0]}}
            fitted = model.fit(**(clustered if len(set(participants)) < len(participants) else {}))
            coefficients[:, place], covariance[place] = fitted.params[:p], fitted.cov_params()[:p, :p]
        slopes = region_slopes(scm, table, regions)
        return cls(scm, tuple(regions), node_of, coefficients, covariance, slopes)

    def expect(self, query: QueryOptions, table: pd.DataFrame, draws: int = DRAWS) -> Expectation:
        """What a query should do to the regions of each scan in `table` (indexed by scan id); `draws` may be 0."""
        scm = self.scm
        factual = scm.design_matrix(table)
        changed = scm.intervene(table, query.do, query.effect)
        step = scm.design_matrix(changed) - factual
        drawn = []
        rng = np.random.default_rng([scm.seed, 2])
        for k in range(draws):
            # Another seed draws other noise where an observation leaves it open (the thresholds of a diagnosis).
            other = replace(scm.draw_nodes(k), seed=scm.seed + 1 + k)
            drawn_table = other.intervene(table, query.do, query.effect)
            coefficients = self.coefficients.copy()
            for place, covariance in enumerate(self.covariance):
                coefficients[:, place] += rng.multivariate_normal(np.zeros(len(covariance)), covariance, method="svd")
            drawn.append(self._change(table, drawn_table, scm.design_matrix(drawn_table) - factual, coefficients))
        return Expectation(
            query=query,
            regions=self.regions,
            table=table,
            changed=changed,
            step=step,
            change_ml=self._change(table, changed, step, self.coefficients),
            drawn_ml=np.array(drawn),
        )

    def _change(self, table: pd.DataFrame, changed: pd.DataFrame, step: Array, coefficients: Array) -> Array:
        change = step @ coefficients / table["head_size"].to_numpy(dtype=float)[:, None]
        for place, region in enumerate(self.regions):
            if region in self.node_of:
                before, after = (rows[f"{region}_ml"].to_numpy(dtype=float) for rows in (table, changed))
                change[:, place] = after - before
        return change
