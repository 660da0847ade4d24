"""Biased estimates of the image's slopes: spectral, ridge, low rank, smooth. All but the first are linear maps of B.

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
from scipy.optimize import isotonic_regression

from brainscm.scm.design import Array

# Penalties tried, as shares of the largest squared singular value of the standardised columns.
PENALTIES = np.concatenate([[0.0], np.logspace(-8, 4, 241)])
# Standard deviation of the window in which an effect is compared with noise, as a share of the lattice: about 30 mm.
WINDOW = 1 / 6
# Variance of the noise that is added to see what of an effect repeats, as a share of what is there.
ADDED_NOISE = 0.25
STRENGTHS = np.geomspace(1 / 8, 4096, 121)  # an axis counts with the nearest of these
TRACY_WIDOM = {0.95: 0.979, 0.99: 2.023}  # of order 1

Maps = TypeVar("Maps", bound=NDArray[np.floating])


@dataclass(frozen=True)
class Spectrum:
    """Where which effects stand out from noise: `B ↦ T⁻¹ (1 ⊕ K(y) ⊕ 0) T B` in each cell y of each part of the latent.

    Attributes:
        turn: T (p, p); after the intercept come the r directions of the design that are kept, then those dropped.
        axes: (parts, cells, r, r) orthonormal columns, the directions in which the effects of a cell lie.
        shares: (parts, cells, r) of each of them that is kept: K = axes · diag(shares) · axes'.
        part: (channels,) the part that each channel belongs to.
    """

    turn: Array
    axes: Array
    shares: Array
    part: NDArray[np.intp]

    def shrink(self, maps: NDArray[np.floating]) -> Array:
        """Maps (p, *latent), shrunk by K."""
        turned = (self.turn @ maps.reshape(len(maps), -1)).reshape(len(maps), len(self.part), -1)
        r = self.shares.shape[-1]
        turned[1 + r :] = 0
        for part, (axes, shares) in enumerate(zip(self.axes, self.shares, strict=True)):
            own = np.ix_(range(1, 1 + r), self.part == part)
            along = np.einsum("lij,icl->ljc", axes, turned[own]) * shares[..., None]
            turned[own] = np.einsum("lij,ljc->icl", axes, along)
        return np.asarray(scipy.linalg.solve(self.turn, turned.reshape(len(maps), -1)).reshape(maps.shape))


def spectral(
    r: Array,
    qtz: Array,
    probes: NDArray[np.floating],
    freedom: int,
    channels: Sequence[int],
) -> Spectrum:
    """Empirical Bayes for many regressions at once (Efron & Morris, 1972, Biometrika 59), in three steps.

    *Which causes.* In the rows of A = Q₁'Z, without the intercept, the noise of a part g of the latent is white with
    total variance τ_g, so that A_g A_g' / τ_g is the identity where there is no effect. The eigenvectors V of its mean
    over the parts, each weighed by its number m_g of independent latents, are shared, since one cause moves all parts.
    Those whose eigenvalue is within what noise reaches (`largest_of_noise`) are dropped, and so is a part in which
    nothing stands out by itself at 99 %, since there are some five of them, as when left and right do not differ.

    *What they do where.* In a Gaussian window around the cell y of the lattice, V'A_g has singular vectors on the side
    of the design, `axes`: the causes that act here, near the ventricles others than in the cortex.

    *How much of it to believe.* As much as repeats (`shares_that_repeat`), by the strength s of each axis: its squared
    singular value over the noise.

    Args:
        r: (p, p). qtz: Q'Z, (p, Σ channels, *lattice). freedom: n - p. channels: of each part.
        probes: (k·(p - 1), Σ channels, *lattice): k independent draws of A without effects.
    """
    lattice = qtz.shape[2:] or (1,)
    cells = int(np.prod(lattice))
    a, probes = qtz[1:].reshape(len(r) - 1, -1, cells), probes.reshape(len(probes), -1, cells)
    noise = Noise.of(probes, lattice, channels)
    independent = np.array(
        [
            independent_latents(probes[:, part].reshape(len(probes), -1), total, freedom)
            for part, total in zip(noise.parts, noise.total, strict=True)
        ]
    )
    grams = noise.grams(a)
    found, directions = _directions(grams, independent)
    kept = int((found > largest_of_noise(len(found), independent.sum())).sum())
    alone = [np.linalg.eigvalsh(gram)[-1] for gram in grams]
    standing = [g for g, m in enumerate(independent) if kept and alone[g] > largest_of_noise(len(found), m, 0.99)]

    axes, shares = np.zeros((len(grams), cells, kept, kept)), np.zeros((len(grams), cells, kept))
    share = shares_that_repeat(noise, a, probes, independent, kept, standing)
    leading = np.tensordot(directions[:, :kept].T, a, axes=1)
    for g in standing:
        strength, axes[g] = noise.axes(g, leading[:, noise.parts[g]])
        shares[g] = np.interp(strength, STRENGTHS, share[g])
    turn = scipy.linalg.block_diag([[1.0]], directions.T) @ r
    return Spectrum(turn, axes, shares, np.repeat(np.arange(len(grams)), channels))


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

    def axes(self, g: int, leading: NDArray[np.floating]) -> tuple[Array, Array]:
        """The causes that act around each cell: strengths (cells, r) over the noise, and axes (cells, r, r).

        Args:
            leading: (r, channels, cells), A_g along the directions that are kept.
        """
        products = np.einsum("icl,jcl->ijl", leading, leading, dtype=np.float64)
        local = windowed(products.reshape(-1, products.shape[-1]), self.lattice) / self.window[g]
        return np.linalg.eigh(np.moveaxis(local.reshape(*products.shape), -1, 0))


def shares_that_repeat(
    noise: Noise,
    a: Array,
    probes: NDArray[np.floating],
    independent: Array,
    kept: int,
    standing: Sequence[int],
) -> dict[int, Array]:
    """For each standing part, the share of an axis that is signal, at each of `STRENGTHS`.

    With noise W of A's own covariance, A + √α W and A - W/√α are two views of the same effects with independent noise
    (the coupled bootstrap of Oliveira, Lei & Tibshirani, 2024, Electronic Journal of Statistics 18).
    What the first makes of an axis, a₁, predicts what the second sees of it, a₂, best as k·a₁ with k = Σ a₁a₂ / Σ a₁²,
    over axes of about that strength. k rises with the strength (isotonic regression). So it is the data that tell how
    many effects there are and how strong, as they would a study with 1/(1 + α) as many participants.

    Up to (1 + √β)², β = r/m with m independent latents in a window, noise alone reaches (Marchenko & Pastur, 1967):
    nothing is kept there. On average some of it is signal, but a question that asks along such an axis, as direct
    effects do, would get little else than noise.
    """
    seen = {g: np.zeros((2, len(STRENGTHS))) for g in standing}
    for extra in probes.reshape(-1, *a.shape) if standing else ():
        first = a + np.sqrt(ADDED_NOISE) * extra
        directions = _directions(noise.grams(first), independent)[1][:, :kept]
        for g in standing:
            part = noise.parts[g]
            second = a[:, part] - extra[:, part] / np.sqrt(ADDED_NOISE)
            leading = [np.tensordot(directions.T, view, axes=1) for view in (first[:, part], second)]
            strength, axes = noise.axes(g, leading[0])
            one, two = (np.einsum("lij,icl->ljc", axes, view) for view in leading)
            strength = np.maximum(strength.reshape(-1) / (1 + ADDED_NOISE), STRENGTHS[0])
            nearest = np.rint(np.interp(np.log(strength), np.log(STRENGTHS), np.arange(len(STRENGTHS)))).astype(int)
            for row, products in zip(seen[g], ((one * two).sum(axis=-1), np.square(one).sum(axis=-1)), strict=True):
                row += np.bincount(nearest, products.reshape(-1), len(STRENGTHS))
    shares = {}
    for g, (repeated, power) in seen.items():
        filled = power > 0
        best = isotonic_regression(repeated[filled] / power[filled], weights=power[filled]).x.clip(0, 1)
        edge = (1 + np.sqrt(kept / noise.independent[g])) ** 2
        shares[g] = np.where(edge < STRENGTHS, np.interp(STRENGTHS, STRENGTHS[filled], best), 0)
    return shares


def _directions(grams: Array, independent: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, strongest first, of the parts' mean, each weighed by its independent latents."""
    values, vectors = np.linalg.eigh(np.tensordot(independent / independent.sum(), grams, axes=1))
    return values[::-1], vectors[:, ::-1]


def windowed(power: Array, lattice: Sequence[int]) -> Array:
    """Maps (d, cells), each weighed by a Gaussian window; beyond the lattice there is nothing."""
    width = [WINDOW * size for size in lattice]
    maps = scipy.ndimage.gaussian_filter(power.reshape(len(power), *lattice), (0, *width), mode="constant")
    return np.asarray(maps.reshape(len(power), -1))


def largest_of_noise(q: int, m: float, level: float = 0.95) -> float:
    """What the largest eigenvalue of G G' / m stays below with a probability of `level`, G (q, m) of white noise.

    (√m + √q)²/m, and above it that point of the Tracy-Widom law (Johnstone, 2001, Annals of Statistics 29).
    """
    reach = np.sqrt(m) + np.sqrt(q)
    return float((reach**2 + TRACY_WIDOM[level] * reach * (1 / np.sqrt(m) + 1 / np.sqrt(q)) ** (1 / 3)) / m)


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
