"""Several imputations of the training scans' missing covariates, each a draw given all that is known of the scan.

What a scan lacks is drawn from its posterior under the declared graph: as probable as its parents make it, times how
probable it makes its children and the scan's own image and volumes. So the imputations go with whatever formulas say,
splines and interactions included (Bartlett et al., 2015, Stat. Methods Med. Res. 24, substantive-model compatible fully
conditional specification).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.scm.design import RANK_TOLERANCE, Array, Design
from brainscm.scm.families import FAMILIES
from brainscm.scm.graph import Graph
from brainscm.scm.nodes import NodeModel
from brainscm.scm.permutation import tiles
from brainscm.scm.sample import Sample, to_device

SWEEPS = 5  # of models and missing values in turn, before an imputation is taken
# Drawn of each scan's missing values, of which one is taken. A hundred seldom reach as far as an extreme scan asks for.
CANDIDATES = 1000
SCANS_AT_ONCE = 200  # whose candidates are held in memory
MOST_SCORES = 12
SCANS_A_SCORE = 6  # a covariance of the scores needs so many scans a score


@dataclass(frozen=True)
class Gaps:
    """What is missing: n training scans, whose nodes are known in part.

    Attributes:
        values: of the nodes, filled in with what is expected. missing: (n, nodes) where, by node.
        participants: whose scans they are.
        nodes: fitted to the scans that lack nothing, parents first; design: of the image, too.
        scores: (n, K) of the image and the volumes, see `scan_scores`.
    """

    values: pd.DataFrame
    missing: pd.DataFrame
    participants: pd.Series
    graph: Graph
    nodes: Mapping[str, NodeModel]
    design: Design
    scores: Array

    def impute(self, count: int, seed: int) -> list[pd.DataFrame]:
        """The nodes' values in `count` imputations, which depend on nothing but the data and the seed."""
        return [self._imputation(np.random.default_rng([seed, 5, k])) for k in range(count)]

    def refitted(self, values: pd.DataFrame) -> dict[str, NodeModel]:
        """All nodes fitted to an imputation."""
        return {name: node.refitted(values, self.participants) for name, node in self.nodes.items()}

    def _imputation(self, rng: np.random.Generator) -> pd.DataFrame:
        whole = ~self.missing.any(axis=1).to_numpy()
        values, fitted = self.values, dict(self.nodes)
        of_scores = _Regression.draw(self.design.matrix(values[whole]), self.scores[whole], rng)
        for sweep in range(SWEEPS):
            drawn = {name: _drawn(node, len(values), rng) for name, node in fitted.items()}
            values = self._redrawn(values, drawn, of_scores, rng)
            if sweep < SWEEPS - 1:
                fitted = self.refitted(values)
                of_scores = _Regression.draw(self.design.matrix(values), self.scores, rng)
        return values

    def _redrawn(
        self, values: pd.DataFrame, nodes: Mapping[str, NodeModel], of_scores: _Regression, rng: np.random.Generator
    ) -> pd.DataFrame:
        values = values.copy()
        for lacking, at in self._blocks():
            tried = values.iloc[np.repeat(at, CANDIDATES)].reset_index(drop=True)
            for name in [node for node in nodes if node in lacking]:  # parents first
                tried[name] = nodes[name].sample(tried, rng)
            likelihood = of_scores.log_likelihood(
                self.design.evaluate(tried), np.repeat(self.scores[at], CANDIDATES, axis=0)
            )
            for name, node in nodes.items():
                if name not in lacking and not {*lacking}.isdisjoint(self.graph.parents(name)):
                    likelihood += node.log_likelihood(tried)
            likelihood[np.isnan(likelihood) | tried[lacking].isna().any(axis=1)] = -np.inf  # outside a formula's domain
            noisy = (likelihood + rng.gumbel(size=len(tried))).reshape(-1, CANDIDATES)
            usable = np.isfinite(noisy).any(axis=1)
            taken = (np.arange(len(at)) * CANDIDATES + noisy.argmax(axis=1))[usable]
            for name in lacking:
                column = values[name].copy()
                column.iloc[at[usable]] = tried[name].iloc[taken].to_numpy()
                values[name] = column
        return values

    def _blocks(self) -> Iterator[tuple[list[str], NDArray[np.intp]]]:
        """Scans that lack the same nodes, a few at a time: these nodes, and the rows."""
        lacks = self.missing.to_numpy()
        for pattern in np.unique(lacks[lacks.any(axis=1)], axis=0):
            at = np.flatnonzero((lacks == pattern).all(axis=1))
            for start in range(0, len(at), SCANS_AT_ONCE):
                yield list(self.missing.columns[pattern]), at[start : start + SCANS_AT_ONCE]


@dataclass(frozen=True)
class _Regression:
    """A draw of the regression of scores (n, K) on a design, with the covariance of its residuals."""

    coefficients: Array
    root: Array

    @classmethod
    def draw(cls, x: Array, scores: Array, rng: np.random.Generator) -> _Regression:
        """From the posterior under the usual flat prior: inverse Wishart, and normal coefficients given that."""
        (n, p), k = x.shape, scores.shape[1]
        q, r = np.linalg.qr(x)
        fitted = q.T @ scores
        residual = scores - q @ fitted
        spread = np.linalg.inv(np.linalg.cholesky(residual.T @ residual)).T
        normals = rng.standard_normal((n - p, k)) @ spread.T
        root = np.linalg.cholesky(np.linalg.inv(normals.T @ normals))
        steps = rng.standard_normal((p, k)) @ root.T
        return cls(scipy.linalg.solve_triangular(r, fitted + steps), root)

    def log_likelihood(self, x: Array, scores: Array) -> Array:
        """Of each row but for a constant, (n,); NaN where x is."""
        left = (scores - x @ self.coefficients).T
        distance = scipy.linalg.solve_triangular(self.root, left, lower=True, check_finite=False)
        return np.asarray(-np.square(distance).sum(axis=0) / 2)


def _drawn(node: NodeModel, scans: int, rng: np.random.Generator) -> NodeModel:
    """A node with parameters, and dispersion, drawn from what the data leave possible."""
    drawn = node.draw(rng.standard_normal(len(node.parameters)))
    if not FAMILIES[node.family].estimates_dispersion:
        return drawn
    freedom = scans - np.count_nonzero(np.diag(node.covariance))
    return replace(drawn, dispersion=node.dispersion * freedom / rng.chisquare(freedom))


def scan_scores(sample: Sample, known: Array, volumes: Array, complete: int, device: torch.device = CPU) -> Array:
    """What of each scan may tell its missing covariates, in few numbers: scores (n, K).

    First the regional volumes, then the leading principal components of the latent, each latent in units of its own
    standard deviation; all beside the covariates that are known of every scan.

    Args:
        sample: the training scans.
        known: (n, p) columns of the design that depend on nothing missing.
        volumes: (n, v), finite.
        complete: how many scans lack nothing: the scores are no more than these can tell the covariance of.
    """
    n = len(known)
    q = np.linalg.qr(known)[0]
    q_on, gram = to_device(q, device), to_device(np.zeros((n, n)), device)
    for tile in tiles(sample):
        z = to_device(tile, device).double()
        z -= q_on @ (q_on.T @ z)
        length = z.square().sum(dim=0)
        z *= torch.where(length > RANK_TOLERANCE**2 * n, length.rsqrt(), 0)
        gram.addmm_(z, z.T)
    components = np.linalg.eigh(gram.cpu().numpy())[1][:, ::-1]
    most = max(min(MOST_SCORES, (complete - sample.x.shape[1]) // SCANS_A_SCORE), 0)
    scores = np.empty((n, 0))
    for column in (*(volumes - q @ (q.T @ volumes)).T, *components.T[:most]):
        own = column - scores @ (scores.T @ column)
        if scores.shape[1] < most and np.linalg.norm(own) > 1e-6 * np.linalg.norm(column):
            scores = np.column_stack([scores, own / np.linalg.norm(own)])
    return scores


def known_columns(design: Design, x: Array, missing: Sequence[str]) -> Array:
    """The columns of a design that depend on none of the nodes that some scan lacks."""
    return x[:, [nodes.isdisjoint(missing) for nodes in design.nodes]]
