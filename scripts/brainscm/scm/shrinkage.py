"""Biased estimates of the image's slopes: ridge, low rank, smooth maps. Each is a linear map of the least-squares B.

Notation of `brainscm.scm.image`: X = QR with the intercept first, and Q'Z (p, L) from the first pass over the store;
nothing else of the latents is needed.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import scipy.linalg
import scipy.ndimage
from numpy.typing import NDArray

from brainscm.scm.design import Array

# Penalties tried, as shares of the largest squared singular value of the standardised columns.
PENALTIES = np.concatenate([[0.0], np.logspace(-8, 4, 241)])

Maps = TypeVar("Maps", bound=NDArray[np.floating])


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
