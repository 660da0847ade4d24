"""Biased estimates of the image's slopes: by component, ridge, low rank, smooth. All are linear maps of B.

Notation of `brainscm.scm.image`: X = QR with the intercept first, and Q'Z (p, L) from the first pass over the store;
nothing else of the latents is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.linalg
import scipy.ndimage
from numpy.typing import NDArray

from brainscm.scm.components import Component
from brainscm.scm.design import Array

# Penalties tried, as shares of the largest squared singular value of the standardised columns.
PENALTIES = np.concatenate([[0.0], np.logspace(-8, 4, 241)])
# Standard deviation of the window in which an effect is compared with noise, as a share of the lattice: about 30 mm.
WINDOW = 1 / 6
NODES = 12  # places along each axis of the lattice where variances are found; between them shares are interpolated
# So many independent latents the whole part counts for in a window, where a few would tell little by themselves.
WHOLE_PART = 10.0
# By how much a component's log likelihood must exceed that without it: noise does so in one of a thousand (a variance
# of zero lies on the edge, so that half of the noise's likelihood ratios are zero and the others χ² of 1).
STANDS_OUT = 4.77
# The same for a measured mediator to be taken for no cause: what the graph declares is believed first, and parts of the
# latent that tell the same are counted as if they were independent.
DOUBTED = 4 * STANDS_OUT
ITERATIONS = 100

Maps = TypeVar("Maps", bound=NDArray[np.floating])


@dataclass(frozen=True)
class Shares:
    """How much of which effect is believed where: `B ↦ R⁻¹ (1 ⊕ K_g(y)) R B` in each cell y of each part g.

    Attributes:
        r: (p, p). kept: of each part, K at the nodes of the lattice, (nodes…, q, q); empty where nothing is believed.
        part: (channels,) the part that each channel belongs to.
        variances: (parts, components) signal over noise, on average over the directions of each component; 0: none.
        apart: names of measured mediators that stand apart, and hence move nothing.
    """

    r: Array
    kept: Sequence[Array]
    part: NDArray[np.intp]
    variances: Array
    apart: tuple[str, ...]

    def shrink(self, maps: NDArray[np.floating]) -> Array:
        """Maps (p, channels, *lattice), shrunk by K."""
        p, channels, *lattice = maps.shape
        turned = (self.r @ maps.reshape(p, -1)).reshape(p, channels, -1)
        for g, kept in enumerate(self.kept):
            own = np.ix_(range(1, p), self.part == g)
            if not self.variances[g].any():
                turned[own] = 0
            else:
                everywhere = between_nodes(kept, lattice).reshape(-1, p - 1, p - 1)
                turned[own] = np.einsum("lij,jcl->icl", everywhere, turned[own])
        return np.asarray(scipy.linalg.solve_triangular(self.r, turned.reshape(p, -1)).reshape(maps.shape))


def by_component(
    r: Array,
    qtz: Array,
    probes: NDArray[np.floating],
    freedom: int,
    channels: Sequence[int],
    components: Sequence[Component],
) -> Shares:
    """Empirical Bayes for many regressions at once, a variance a component of the design (Henderson, 1975, Biometrics
    31; Efron & Morris, 1972, Biometrika 59).

    Over the noise of a part g of the latent, a column of A = Q₁'Z, without the intercept, has the covariance

        V_g = I + Σ_t s_gt R_t R_t'

    with R_t = (R W_t)₁, W_t the directions of component t, R_t R_t' scaled to trace k. The s_gt ≥ 0 have the greatest
    likelihood, of m_g independent latents. What does not stand out is left out (`STANDS_OUT`), the weakest first. In a
    Gaussian window around a cell, the variances of what is left are found again, with the whole part counting for
    `WHOLE_PART` independent latents.

    *Mediators* that are measured from the image itself. What goes with one is its effect if its causes, as they move
    it, move the image accordingly. But it may follow traits of the image that no cause of it shares. Then it stands
    apart: only what the others do not tell of it counts, in V_g as known noise and not as signal. The likelihood of all
    parts together tells which (`DOUBTED`).

    Args:
        r: (p, p). qtz: Q'Z, (p, Σ channels, *lattice). freedom: n - p. channels: of each part.
        probes: (k·(p - 1), Σ channels, *lattice): k independent draws of A without effects.
        components: of the design.
    """
    lattice = qtz.shape[2:] or (1,)
    cells, q = int(np.prod(lattice)), len(r) - 1
    a, probes = qtz[1:].reshape(q, -1, cells), probes.reshape(len(probes), -1, cells)
    noise = Noise.of(probes, lattice, channels)
    independent = np.array(
        [
            independent_latents(probes[:, part].reshape(len(probes), -1), total, freedom)
            for part, total in zip(noise.parts, noise.total, strict=True)
        ]
    )
    grams = noise.grams(a)
    roots = [_root(r, component.directions) for component in components]
    apart = _apart(grams, independent, roots, [component.measured for component in components])
    products = _products(roots, apart)

    kept: list[Array] = []
    variances = np.zeros((len(grams), len(products)))
    for g, part in enumerate(noise.parts):
        variances[g] = _standing_out(grams[g], independent[g], products)
        if not variances[g, ~apart].any():
            variances[g] = 0
            kept.append(np.empty(0))
            continue
        local = noise.local(g, a[:, part])
        m = noise.independent[g]
        mixed = (m * local + WHOLE_PART * grams[g]) / (m + WHOLE_PART)
        found = _likeliest(mixed.reshape(-1, q, q), products, variances[g])
        believed = np.tensordot(found[:, ~apart], products[~apart], axes=1)
        covariance = np.eye(q) + np.tensordot(found, products, axes=1)
        kept.append((believed @ np.linalg.inv(covariance)).reshape(local.shape))
    variances[:, apart] = 0
    names = tuple(component.name for component, is_apart in zip(components, apart, strict=True) if is_apart)
    return Shares(r, kept, np.repeat(np.arange(len(grams)), channels), variances, names)


def _root(r: Array, directions: Array) -> Array:
    """(R W)₁ of a component, (q, k), its mean square length one."""
    root = (r @ directions)[1:]
    return np.asarray(root * np.sqrt(root.shape[1] / np.square(root).sum()))


def _own(roots: Sequence[Array], t: int) -> Array:
    """What of a component the others do not tell, scaled as `_root` is."""
    others = [root for u, root in enumerate(roots) if u != t]
    basis = scipy.linalg.orth(np.hstack([np.zeros((len(roots[t]), 1)), *others]))
    own = roots[t] - basis @ (basis.T @ roots[t])
    return np.asarray(own * np.sqrt(own.shape[1] / np.square(own).sum()))


def _products(roots: Sequence[Array], apart: NDArray[np.bool_]) -> Array:
    """R_t R_t' of each component, (components, q, q); of those apart, of what is their own."""
    chosen = [_own(roots, t) if apart[t] else root for t, root in enumerate(roots)]
    return np.stack([root @ root.T for root in chosen])


def _apart(grams: Array, independent: Array, roots: Sequence[Array], measured: Sequence[bool]) -> NDArray[np.bool_]:
    """Which measured mediators stand apart, the one that gains most first."""
    apart = np.zeros(len(roots), dtype=bool)

    def likelihood(apart: NDArray[np.bool_]) -> float:
        products = _products(roots, apart)
        return float((independent * _log_likelihood(grams, products, _likeliest(grams, products))).sum())

    best = likelihood(apart)
    while True:
        gains = {}
        for t in np.flatnonzero(np.array(measured, dtype=bool) & ~apart):
            tried = apart.copy()
            tried[t] = True
            gains[t] = likelihood(tried) - best
        if not gains or max(gains.values()) < DOUBTED:
            return apart
        chosen = max(gains, key=lambda t: gains[t])
        apart[chosen], best = True, best + gains[chosen]


def _standing_out(gram: Array, m: float, products: Array) -> Array:
    """Likeliest variances of the components that stand out from noise, (components,); 0 of the others."""
    chosen = np.ones(len(products), dtype=bool)
    while chosen.any():
        at = np.flatnonzero(chosen)
        # The model with all chosen components, and those without one of each.
        masks = np.vstack([chosen, chosen & (np.arange(len(chosen)) != at[:, None])])
        found = _likeliest(np.repeat(gram[None], len(masks), axis=0), products, masks.astype(float))
        whole, *without = m * _log_likelihood(gram[None], products, found)
        weakest = int(np.argmax(without))
        if whole - without[weakest] > STANDS_OUT:
            return np.asarray(found[0])
        chosen[at[weakest]] = False
    return np.zeros(len(products))


def _likeliest(grams: Array, products: Array, start: Array | None = None) -> Array:
    """Variances s ≥ 0 under which grams (n, q, q) of V = I + Σ s_t P_t are likeliest, (n, components).

    By minorisation and maximisation (Zhou, Hu, Zhang & Lange, 2019, Journal of Computational and Graphical Statistics
    28); a variance that starts at zero stays there.
    """
    found = np.broadcast_to(1.0 if start is None else start, (len(grams), len(products))).astype(float)
    flat, one = products.reshape(len(products), -1), np.eye(products.shape[-1])
    for _ in range(ITERATIONS):
        inverse = np.linalg.inv(one + np.tensordot(found, products, axes=1))
        seen = (inverse @ grams @ inverse).reshape(len(grams), -1) @ flat.T
        expected = inverse.reshape(len(grams), -1) @ flat.T
        found = found * np.sqrt(np.maximum(seen, 0) / np.maximum(expected, np.finfo(float).tiny))
    return np.asarray(found)


def _log_likelihood(grams: Array, products: Array, variances: Array) -> Array:
    """Of one independent latent, (n,)."""
    covariance = np.eye(products.shape[-1]) + np.tensordot(variances, products, axes=1)
    traces = np.trace(np.linalg.solve(covariance, grams), axis1=1, axis2=2)
    return np.asarray(-(np.linalg.slogdet(covariance)[1] + traces) / 2)


def nodes_of(size: int) -> NDArray[np.intp]:
    """Places along an axis of a lattice where shares are found."""
    return np.unique(np.linspace(0, size - 1, min(size, NODES)).round().astype(int))


def between_nodes(maps: Array, lattice: Sequence[int]) -> Array:
    """Maps at the nodes of a lattice (nodes…, q, q), interpolated along each axis."""
    for axis, size in enumerate(lattice):
        nodes = nodes_of(size)
        weights = np.stack([np.interp(np.arange(size), nodes, one) for one in np.eye(len(nodes))], axis=1)
        maps = np.moveaxis(np.tensordot(weights, maps, axes=(1, axis)), 0, axis)
    return maps


@dataclass(frozen=True)
class Noise:
    """What A = Q₁'Z, (q, Σ channels, cells), would be without effects.

    Attributes:
        parts: the channels of each part of the latent. total: (parts,) variance of a row, summed over the part.
        window: (parts, cells) the same in a Gaussian window around each cell of the lattice.
        independent: (parts,) how many independent latents a window holds.
    """

    lattice: tuple[int, ...]
    parts: tuple[slice, ...]
    total: Array
    window: Array
    independent: Array

    @classmethod
    def of(cls, probes: NDArray[np.floating], lattice: tuple[int, ...], channels: Sequence[int]) -> Noise:
        parts = tuple(slice(end - own, end) for end, own in zip(np.cumsum(channels), channels, strict=True))
        total, window, independent = [], [], []
        for part in parts:
            power = np.square(probes[:, part]).sum(axis=1, dtype=np.float64)
            power = np.maximum(power, np.finfo(float).tiny)
            near = windowed(power, lattice)
            total.append(power.sum() / len(power))
            window.append(near.mean(axis=0))
            variance = np.average((near / window[-1]).var(axis=0), weights=window[-1])
            independent.append(2 / max(variance, np.finfo(np.float32).eps))
        return cls(lattice, parts, np.array(total), np.array(window), np.array(independent))

    def grams(self, a: NDArray[np.floating]) -> Array:
        """A_g A_g' / τ_g of each part, (parts, q, q)."""
        own = [a[:, part].reshape(len(a), -1) for part in self.parts]
        return np.stack([part @ part.T / total for part, total in zip(own, self.total, strict=True)])

    def local(self, g: int, a: NDArray[np.floating]) -> Array:
        """The same in the windows around the nodes of the lattice, (nodes…, q, q).

        Args:
            a: (q, channels, cells), A_g.
        """
        at = np.ix_(*[nodes_of(size) for size in self.lattice])
        noise = self.window[g].reshape(self.lattice)[at]
        found = np.empty((*noise.shape, len(a), len(a)))
        for i, row in enumerate(a):
            products = np.einsum("cl,jcl->jl", row, a[: i + 1], dtype=np.float64)
            near = windowed(products, self.lattice).reshape(-1, *self.lattice)
            for j, product in enumerate(near):
                found[..., i, j] = found[..., j, i] = product[at] / noise
        return found


def windowed(power: Array, lattice: Sequence[int]) -> Array:
    """Maps (d, cells), each weighed by a Gaussian window; beyond the lattice there is nothing."""
    width = [WINDOW * size for size in lattice]
    maps = scipy.ndimage.gaussian_filter(power.reshape(len(power), *lattice), (0, *width), mode="constant")
    return np.asarray(maps.reshape(len(power), -1))


def independent_latents(probes: NDArray[np.floating], noise: float, freedom: int) -> float:
    """How many independent latents of equal variance would make noise as concentrated: (tr Σ)² / tr Σ².

    Args:
        probes: (d, L), independent draws with the residuals' covariance: N(0, 1)/√freedom times the residuals.
        noise: tr Σ, the residual variance summed over the latents. freedom: n - p.

    The products of two probes estimate the trace of the squared sample covariance, which exceeds tr Σ² by the sampling
    variance of a covariance from n - p residuals.
    """
    products = (probes @ probes.T).astype(np.float64)
    pairs = np.triu_indices(len(products), 1)
    square = float(np.square(products[pairs]).mean())
    unbiased = freedom**2 / ((freedom - 1) * (freedom + 2)) * (square - noise**2 / freedom) if freedom > 1 else square
    return float(np.clip(noise**2 / max(unbiased, 1e-30), 1.0, probes.shape[1]))


def ridge(x: Array, q: Array, r: Array, qtz: Array, rss: float) -> tuple[float, Array]:
    """The penalty that generalised cross-validation chooses over the whole latent, and M (p, p) with B_ridge = M·B.

    The columns but the intercept are centred and scaled to unit variance, so that units do not matter: Xs = U S V'.
    With f_j = s_j² / (s_j² + λ) and w_j = Σ_l (u_j'z_l)²,

        GCV(λ) = n·RSS(λ) / (n - 1 - Σ f_j)²,   RSS(λ) = RSS + Σ (1 - f_j)² w_j     (Golub, Heath & Wahba, 1979)

    Args:
        x: (n, p). q, r: its QR. qtz: Q'Z, (p, L). rss: of least squares, summed over the latent.
    """
    n, mean, sd = len(x), x.mean(axis=0), x[:, 1:].std(axis=0)
    u, s, vt = np.linalg.svd((x[:, 1:] - mean[1:]) / sd, full_matrices=False)
    inside = q.T @ u  # U = Q·inside
    power = np.square(inside.T @ qtz).sum(axis=1)
    penalties = PENALTIES * s[0] ** 2
    kept = s**2 / (s**2 + penalties[:, None])  # (penalties, p - 1)
    gcv = n * (rss + np.square(1 - kept) @ power) / np.square(n - 1 - kept.sum(axis=1))
    penalty = float(penalties[np.argmin(gcv)])
    slopes = (vt.T * (s / (s**2 + penalty))) @ inside.T / sd[:, None]  # of Q'Z
    intercept = q.sum(axis=0) / n - mean[1:] @ slopes
    return penalty, np.vstack([intercept, slopes]) @ r


def low_rank(r: Array, qtz: Array, rank: int) -> Array:
    """M (p, p) with B_low = M·B: reduced-rank regression, the best fit whose slopes have at most `rank` dimensions.

    The centred fit is Q₁Q₁'Z (Q₁: all columns but the first); its best approximation keeps the leading left singular
    vectors of Q₁'Z (Izenman, 1975, with the identity as weight).
    """
    leading = np.linalg.eigh(qtz[1:] @ qtz[1:].T)[1][:, -rank:]
    kept = scipy.linalg.block_diag([[1.0]], leading @ leading.T)
    return np.asarray(scipy.linalg.solve_triangular(r, kept @ r))


def smooth(b: Maps, mean: Array, voxels: float) -> Maps:
    """Smooth the maps of all columns but the intercept, which moves so that the mean scan's prediction stays.

    Args:
        b: (p, channels, ...), any spatial axes. mean: (p,) of the design's columns.
        voxels: standard deviation of the Gaussian.
    """
    at_mean = np.tensordot(mean, b, axes=1)
    slopes = scipy.ndimage.gaussian_filter(b[1:], (0, 0, *[voxels] * (b.ndim - 2)), mode="nearest")
    intercept = at_mean - np.tensordot(mean[1:], slopes, axes=1)
    return np.concatenate([intercept[None], slopes]).astype(b.dtype)
