"""Errors that hold whatever a participant's scans share, or whatever the variance depends on, in small cohorts too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from brainscm.scm.design import Array

# A direction of a cluster's residuals with less of its variance than this is fitted exactly: nothing is left of it.
FITTED = 1e-9
CR2, HC3 = -0.5, -1.0


@dataclass(frozen=True)
class Sandwich:
    """How the residuals u of a design give the covariance of T'z, for orthonormal T (n, k) in the span of the design:

        V = Σ_g W_g'u_g u_g'W_g,   W_g = (I - H_gg)^power T_g

    Power -½ is CR2, which is unbiased where all scans err independently with one variance, and consistent where those
    of one cluster err together (Bell & McCaffrey, 2002, Survey Methodology 28). Power -1 is, with one scan a cluster,
    HC3 (MacKinnon & White, 1985). All but u belongs to the design, and so is the same for every latent.

    Attributes:
        q: (n, p) orthonormal columns of the design. codes: (n,) number of the cluster, 0, 1, ...
    """

    q: Array
    codes: NDArray[np.intp]
    power: float

    @classmethod
    def of(cls, q: Array, clusters: Sequence[str], power: float) -> Sandwich:
        return cls(q, np.unique(np.asarray(clusters), return_inverse=True)[1], power)

    @cached_property
    def _blocks(self) -> list[tuple[NDArray[np.intp], Array, Array]]:
        """Of the clusters of each size: rows (g, size), eigenvalues (g, size) and vectors of I - H_gg."""
        scans = np.bincount(self.codes)
        order, starts = np.argsort(self.codes, kind="stable"), np.cumsum(scans) - scans
        blocks = []
        for size in np.unique(scans):
            rows = order[starts[scans == size][:, None] + np.arange(size)]
            own = self.q[rows]
            blocks.append((rows, *np.linalg.eigh(np.eye(size) - own @ own.swapaxes(1, 2))))
        return blocks

    def weights(self, tested: Array) -> Array:
        """W (n, k); what a cluster decides alone has no weight."""
        weights = np.empty_like(tested)
        for rows, values, vectors in self._blocks:
            left = values > FITTED
            powered = np.where(left, np.where(left, values, 1.0) ** self.power, 0.0)
            weights[rows] = (vectors * powered[:, None]) @ (vectors.swapaxes(1, 2) @ tested[rows])
        return weights

    @cached_property
    def fitted(self) -> Array:
        """Directions (n, m), each within a cluster, in which the design fits every residual to 0."""
        directions = list(self._fitted())
        return np.column_stack(directions) if directions else np.empty((len(self.q), 0))

    def _fitted(self) -> Iterator[Array]:
        for rows, values, vectors in self._blocks:
            for cluster, column in zip(*np.nonzero(values <= FITTED), strict=True):
                direction = np.zeros(len(self.q))
                direction[rows[cluster]] = vectors[cluster, :, column]
                yield direction

    def decider(self, tested: Array) -> int | None:
        """A scan of the cluster that alone decides some of what is tested, whose error then cannot be known."""
        shares = np.square(self.fitted.T @ tested).sum(axis=1)
        if not len(shares) or shares.max() <= FITTED * np.square(tested).sum():
            return None
        return int(np.argmax(np.abs(self.fitted[:, np.argmax(shares)])))

    def freedom(self, tested: Array) -> float:
        """η degrees of freedom of V as of a Wishart matrix, where scans err independently with one variance.

        For one column that of Bell & McCaffrey, (tr P)² / tr P² with P_gh = W_g'(I - H)_gh W_h; for k the number that
        gives the entries of V, relative to their expectation, the total variance of a Wishart matrix (Pustejovsky &
        Tipton, 2018, Journal of Business & Economic Statistics 36). P is diagonal but for rank p, so that no matrix of
        clusters × clusters is made.
        """
        k, p = tested.shape[1], self.q.shape[1]
        weights = self.weights(tested)
        groups = self.codes.max() + 1

        def summed(products: Array) -> Array:
            """Over the scans of each cluster, (groups, k, ...)."""
            sums = np.zeros((groups, *products.shape[1:]))
            np.add.at(sums, self.codes, products)
            return sums

        own = summed(weights[:, :, None] * weights[:, None])  # (groups, k, k): W_g'W_g
        shared = summed(weights[:, :, None] * self.q[:, None])  # (groups, k, p): W_g'Q_g
        expected = own.sum(axis=0) - np.einsum("gsp,gtp->st", shared, shared)
        root = scipy.linalg.inv(np.linalg.cholesky(expected))
        own, shared = root @ own @ root.T, root @ shared
        inner = np.einsum("gsp,gtp->gst", shared, shared)
        products = np.einsum("gsp,gtq->stpq", shared, shared).reshape(k, k, p, p)
        diagonal, inner_diagonal = (np.einsum("gss->gs", each) for each in (own, inner))
        total = (
            np.square(diagonal.sum(axis=1)).sum()
            - 2 * (diagonal.sum(axis=1) * inner_diagonal.sum(axis=1)).sum()
            + np.square(products).sum()
            + np.square(own).sum()
            - 2 * (own * inner).sum()
            + np.einsum("stpq,stqp->", products, products)
        )
        return float(k * (k + 1) / total)


def directions(r: Array, contrast: Array) -> tuple[Array, Array]:
    """Orthonormal U (p, k) and lengths S (k, k) with C = S'U'R, so that C·B = S'U'Q'z.

    The tests need U alone. Neither X'X nor its inverse is formed, which would square the condition number.
    """
    u, s = np.linalg.qr(scipy.linalg.solve_triangular(r, contrast.T, trans="T"))
    signs = np.where(np.diagonal(s) < 0, -1.0, 1.0)
    return u * signs, signs[:, None] * s
