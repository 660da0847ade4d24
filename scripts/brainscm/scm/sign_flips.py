"""Family-wise p where residuals may not be exchanged, since their variance depends on the covariates: by sign-flipping.

Under the reduced model (the design without the tested contrast) a participant's contribution to the score of the
contrast is as likely positive as negative, whatever its variance. Flipping the signs of the contributions, of all
latents together, gives the largest statistic that chance makes (Hemerik, Goeman & Finos, 2020, J. R. Stat. Soc. B 82).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from brainscm.parallel import CPU
from brainscm.scm.design import Array
from brainscm.scm.permutation import STEP_BYTES, Basis, tiles
from brainscm.scm.sample import Sample, to_device


def flipped_maxima(
    sample: Sample, contrasts: Sequence[Array], flips: int, seed: int, device: torch.device = CPU
) -> tuple[Array, Array]:
    """The robust score statistic of each contrast and latent, and its largest over the latents under each flip.

    With the tested directions T (n, k), the reduced model's residuals e of a latent and the scores ν_g = Σ_i T_i e_i
    over the scans of participant g, the statistic is S'(Σ_g ν_g ν_g')⁻¹S of S = Σ_g ν_g; NaN where a latent does not
    vary. Flipped, S is Σ_g ±ν_g, and the statistic is divided by what the flip F leaves of the variance of T'Fe where
    scans err independently (the standardised flips of De Santis, Goeman, Hemerik & Finos, 2022).

    Args:
        sample: the training scans; their latents are read once.
        contrasts: each C, (k, p) of full row rank.
        flips: how many.
        seed: of the workflow; the j-th flip depends on it and on j alone.
        device: where the products are made.

    Returns:
        Statistics (contrasts, latents) and their largest (contrasts, flips).
    """
    codes = np.unique(np.asarray(sample.participants), return_inverse=True)[1]
    signs = np.array(
        [np.random.default_rng([seed, 3, j]).choice((-1.0, 1.0), codes.max() + 1) for j in range(flips)]
    ).reshape(flips, -1)
    bases = [Basis.of(sample.x, contrast) for contrast in contrasts]
    left = np.array([_variance_left(basis, signs[:, codes]) for basis in bases])
    found: list[list[Array]] = [[] for _ in bases]
    largest = np.zeros((len(bases), flips))
    signs_on, codes_on = to_device(signs.astype(np.float32), device), to_device(codes, device)
    for tile in tiles(sample):
        for place, basis in enumerate(bases):
            residual = basis.unit_residuals(tile, device)
            tested = to_device(basis.tested.astype(np.float32), device)
            step = max(64, STEP_BYTES // (4 * max(len(codes) * tested.shape[1], flips)))
            for start in range(0, residual.shape[1], step):
                statistic, flipped = _statistics(residual[:, start : start + step], tested, codes_on, signs_on)
                found[place].append(statistic.cpu().numpy().astype(np.float64))
                np.maximum(largest[place], flipped.cpu().numpy() / left[place], out=largest[place])
    return np.array([np.concatenate(each) for each in found]), largest


def _variance_left(basis: Basis, signs: Array) -> Array:
    """The mean over the tested directions of 1 - |N'F T|², N the reduced model; (flips,)."""
    lost = np.einsum("fn,nk,nm->fkm", signs, basis.tested, basis.nuisance, optimize=True)
    return np.asarray(1 - np.square(lost).sum(axis=(1, 2)) / basis.tested.shape[1])


def _statistics(
    residual: torch.Tensor, tested: torch.Tensor, codes: torch.Tensor, signs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some latents: the statistic (latents,), and its largest under each flip (flips,)."""
    k, latents = tested.shape[1], residual.shape[1]
    scores = residual.new_zeros((signs.shape[1], k, latents))
    scores.index_add_(0, codes, tested[:, :, None] * residual[:, None])
    products = torch.einsum("gjl,gkl->ljk", scores, scores).double()
    scale = products.diagonal(dim1=1, dim2=2).sum(dim=1)
    products += torch.diag_embed((1e-9 * scale + (scale == 0))[:, None].expand(-1, k))
    root = torch.linalg.inv_ex(torch.linalg.cholesky(products))[0].float()
    scores = torch.einsum("ljk,gkl->gjl", root, scores)  # now Σ_g ν_g ν_g' = 1
    statistic = scores.sum(dim=0).square().sum(dim=0)
    flipped = (signs @ scores.reshape(len(scores), -1)).square_().reshape(len(signs), k, latents).sum(dim=1)
    return torch.where(scale > 0, statistic, torch.nan), flipped.amax(dim=1)
