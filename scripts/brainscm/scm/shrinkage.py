"""Biased estimates of the image's slopes: spectral, ridge, low rank, smooth. All are linear maps of B.

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

Maps = TypeVar("Maps", bound=NDArray[np.floating])


def spectral(
    r: Array, qtz: Array, noise: Array, independent: Array, parts: Sequence[slice]
) -> tuple[list[Array], list[Array]]:
    """For each part of the latent M and √M (p, p): B_spectral = M·B, and √M·ΔB are draws of its posterior.

    Empirical Bayes for many regressions at once (Efron & Morris, 1972, Biometrika 59), with directions below the noise
    set to zero (Gavish & Donoho, 2017). In the rows of A = Q₁'Z, without the intercept, the noise of a part g is white
    with total variance τ_g: A_g A_g' / τ_g is the identity where there is no effect. The eigenvectors v of its mean
    over the parts, each weighed by its number m_g of independent latents, are shared, since one cause moves all parts;
    those whose eigenvalue is within what noise reaches, (1 + √((p - 1) / Σ m_g))², are dropped, and along the others

        k_g = max(0, 1 - τ_g / |v'A_g|²),   M_g = R⁻¹ (1 ⊕ V K_g V') R

    Args:
        r: (p, p). qtz: Q'Z, (p, L). parts: where the parts stand in L.
        noise: (parts,) τ_g, the residual variance summed over the part.
        independent: (parts,) m_g.
    """
    power = [qtz[1:, part] @ qtz[1:, part].T / tau for part, tau in zip(parts, noise, strict=True)]
    weights = independent / independent.sum()
    found, directions = np.linalg.eigh(np.einsum("g,gij->ij", weights, power))
    edge = (1 + np.sqrt(len(found) / independent.sum())) ** 2
    maps: list[Array] = []
    roots: list[Array] = []
    for own in power:
        along = np.einsum("ij,ik,kj->j", directions, own, directions)
        kept = np.where(found > edge, np.clip(1 - 1 / np.maximum(along, 1e-9), 0, 1), 0.0)
        for share, into in ((kept, maps), (np.sqrt(kept), roots)):
            mixed = scipy.linalg.block_diag([[1.0]], (directions * share) @ directions.T)
            into.append(np.asarray(scipy.linalg.solve_triangular(r, mixed @ r)))
    return maps, roots


def independent_latents(probes: Array, noise: float, freedom: int) -> float:
    """How many independent latents of equal variance would make noise as concentrated: (tr Σ)² / tr Σ².

    Args:
        probes: (d, L), independent draws with the residuals' covariance: N(0, 1)/√freedom times the residuals.
        noise: tr Σ, the residual variance summed over the latents. freedom: n - p.

    The products of two probes estimate the trace of the squared sample covariance, which exceeds tr Σ² by the sampling
    variance of a covariance from n - p residuals.
    """
    products = probes @ probes.T
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
