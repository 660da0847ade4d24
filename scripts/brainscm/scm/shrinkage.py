"""Biased estimates of the image's slopes: spectral, ridge, low rank, smooth. All but the first are linear maps of B.

Notation of `brainscm.scm.image`: X = QR with the intercept first, and Q'Z (p, L) from the first pass over the store;
nothing else of the latents is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import scipy.linalg
import scipy.ndimage
from numpy.typing import NDArray

from brainscm.scm.design import Array

# Penalties tried, as shares of the largest squared singular value of the standardised columns.
PENALTIES = np.concatenate([[0.0], np.logspace(-8, 4, 241)])
# Standard deviation of the window in which an effect is compared with noise, as a share of the lattice: about 12 mm.
WINDOW = 1 / 15
TRACY_WIDOM_95 = 0.979  # of order 1

Maps = TypeVar("Maps", bound=NDArray[np.floating])


def spectral(
    r: Array,
    qtz: Array,
    variance: Array,
    probes: NDArray[np.floating],
    freedom: int,
    channels: Sequence[int],
    lattice: Sequence[int],
) -> tuple[Array, Array]:
    """T (p, p) and shares k (p, parts, cells) such that B_spectral = T⁻¹ (k ∘ T B); T⁻¹ (√k ∘ T ΔB) are its draws.

    Empirical Bayes for many regressions at once (Efron & Morris, 1972, Biometrika 59), in two steps.

    *Which causes.* In the rows of A = Q₁'Z, without the intercept, the noise of a part g of the latent is white with
    total variance τ_g, so that A_g A_g' / τ_g is the identity where there is no effect. The eigenvectors v of its mean
    over the parts, each weighed by its number m_g of independent latents, are shared, since one cause moves all parts.
    Those whose eigenvalue is within what noise reaches (`largest_of_noise`) are dropped.

    *Where they act.* Along the others, S(y) is the power of v'A_g over that of the noise, both in a Gaussian window
    around the cell y of the lattice, and

        k_g(y) = max(0, 1 - c_g / S(y)),   c_g = 1 + 2·sd(S where there is noise alone),   T = (1 ⊕ V')R

    Without the margin of c_g, half of the cells that hold noise alone would keep some of it.

    Args:
        r: (p, p). qtz: Q'Z, (p, L). variance: of a row of A where there is no effect, (Σ channels, cells).
        probes: (d, Σ channels, cells), independent draws with the covariance of such a row. freedom: n - p.
        channels: of each part. lattice: the latent's spatial axes; L = Σ channels × cells.
    """
    cells = int(np.prod(lattice))
    slices = [slice(end - own, end) for end, own in zip(np.cumsum(channels), channels, strict=True)]

    def power(maps: NDArray[np.floating]) -> Array:
        """Of maps (d, L): summed over the channels of each part and averaged in windows, (d, parts, cells)."""
        square = np.square(maps).reshape(len(maps), -1, cells)
        return np.stack([_windowed(square[:, part].sum(axis=1), lattice) for part in slices], axis=1)

    noise = np.maximum(power(np.sqrt(variance).reshape(1, -1))[0], np.finfo(float).tiny)
    tau = np.array([max(variance[part].sum(), np.finfo(float).tiny) for part in slices])
    independent = np.array(
        [
            independent_latents(probes[:, part].reshape(len(probes), -1), total, freedom)
            for part, total in zip(slices, tau, strict=True)
        ]
    )
    a = qtz[1:].reshape(len(r) - 1, -1, cells)
    grams = [np.einsum("icl,jcl->ij", a[:, part], a[:, part]) / total for part, total in zip(slices, tau, strict=True)]
    found, directions = np.linalg.eigh(np.tensordot(independent / independent.sum(), np.stack(grams), axes=1))

    among_noise = power(probes) / noise
    spread = np.sqrt((among_noise.var(axis=0) * noise).sum(axis=-1) / noise.sum(axis=-1))  # (parts,)
    stands_out = power(directions.T @ qtz[1:]) / noise
    shares = np.clip(1 - (1 + 2 * spread)[:, None] / np.maximum(stands_out, 1e-9), 0, 1)
    shares[found <= largest_of_noise(len(found), independent.sum())] = 0
    return scipy.linalg.block_diag([[1.0]], directions.T) @ r, np.concatenate([np.ones((1, *noise.shape)), shares])


def _windowed(power: Array, lattice: Sequence[int]) -> Array:
    """Maps (d, cells), each averaged in a Gaussian window."""
    width = [WINDOW * size for size in lattice]
    maps = scipy.ndimage.gaussian_filter(power.reshape(len(power), *lattice), (0, *width), mode="nearest")
    return np.asarray(maps.reshape(len(power), -1))


def largest_of_noise(q: int, m: float) -> float:
    """What the largest eigenvalue of G G' / m exceeds once in twenty times, G (q, m) of white noise.

    (√m + √q)²/m, and the 95 % point of the Tracy-Widom law above it (Johnstone, 2001, Annals of Statistics 29).
    """
    reach = np.sqrt(m) + np.sqrt(q)
    return float((reach**2 + TRACY_WIDOM_95 * reach * (1 / np.sqrt(m) + 1 / np.sqrt(q)) ** (1 / 3)) / m)


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
    n, mean, spread = len(x), x.mean(axis=0), x[:, 1:].std(axis=0)
    u, s, vt = np.linalg.svd((x[:, 1:] - mean[1:]) / spread, full_matrices=False)
    inside = q.T @ u  # U = Q·inside
    power = np.square(inside.T @ qtz).sum(axis=1)
    penalties = PENALTIES * s[0] ** 2
    kept = s**2 / (s**2 + penalties[:, None])  # (penalties, p - 1)
    gcv = n * (rss + np.square(1 - kept) @ power) / np.square(n - 1 - kept.sum(axis=1))
    penalty = float(penalties[np.argmin(gcv)])
    slopes = (vt.T * (s / (s**2 + penalty))) @ inside.T / spread[:, None]  # of Q'Z
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
