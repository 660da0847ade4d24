"""How well a network does on scans that it does not learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from brainscm.encoding.encoder import Network
from brainscm.images import Volume
from brainscm.ranks import Ranks
from brainscm.training.code_use import CodeUse
from brainscm.training.hardware import Passes
from brainscm.training.losses import Objective
from brainscm.training.volume_store import VolumeStore

TERMS = ("intensity", "dissimilarity", "commitment", "psnr_brain_db", "quantized_psnr_brain_db")
COLLAPSE_DB = 6.0  # a PSNR so far below the best is a divergence,
COLLAPSE_USAGE = 0.05  # and so is so small a share of the codes used


@dataclass(frozen=True)
class Validation:
    """Means over the validation scans, and which codes they use.

    Attributes:
        picture: a volume and its reconstruction, (x, y, z), of the process that leads.
    """

    means: dict[str, float]
    use: CodeUse
    picture: tuple[Volume, Volume] | None

    @property
    def psnr(self) -> float:
        return self.means["psnr_brain_db"]

    def has_diverged(self, best_psnr: float) -> bool:
        return not self.psnr > best_psnr - COLLAPSE_DB or self.use.usage < COLLAPSE_USAGE


@torch.no_grad()
def validate(network: Network, passes: Passes, store: VolumeStore, objective: Objective, ranks: Ranks) -> Validation:
    """Reconstruct the scans of a store from their latents and from their codes; each of `ranks` takes some of them."""
    network.eval()
    quantizer = network.quantizer
    used = torch.zeros(sum(quantizer.sizes), dtype=torch.float64)
    sums: dict[str, float] = dict.fromkeys(TERMS, 0.0)
    picture = None
    for row in range(ranks.rank, len(store), ranks.count):
        volumes, masks = passes.read(store, row)
        latents = passes.encode(volumes)
        reconstruction = passes.decode(latents)
        codes, indices = quantizer(latents.float())
        used += quantizer.count(indices).cpu()
        terms = {
            **objective.measure(reconstruction, volumes, masks),
            "commitment": (latents.float() - codes).square().mean(),
            "psnr_brain_db": _psnr(reconstruction, volumes, masks),
            "quantized_psnr_brain_db": _psnr(passes.decode(codes), volumes, masks),
        }
        for name, value in terms.items():
            sums[name] += float(value)
        if picture is None:
            picture = volumes[0, 0].cpu().numpy(), reconstruction[0, 0].cpu().numpy()
    totals = torch.tensor(list(sums.values()), dtype=torch.float64)
    ranks.add_up([totals, used])
    return Validation(
        means=dict(zip(sums, (totals / len(store)).tolist(), strict=True)),
        use=CodeUse.of(used, quantizer.sizes, network.voxels),
        picture=picture,
    )


@torch.no_grad()
def code_use(network: Network, passes: Passes, store: VolumeStore) -> CodeUse:
    """Which codes the scans of a store use, for every one of them."""
    network.eval()
    quantizer = network.quantizer
    used = torch.zeros(sum(quantizer.sizes), dtype=torch.float64)
    for row in range(len(store)):
        volumes, _ = passes.read(store, row)
        used += quantizer.count(quantizer.encode(passes.encode(volumes).float())).cpu()
    return CodeUse.of(used, quantizer.sizes, network.voxels)


def _psnr(reconstruction: Tensor, volumes: Tensor, masks: Tensor) -> Tensor:
    return -10 * torch.log10((reconstruction - volumes)[masks].square().mean())
