"""The contrasts voxel by voxel, for the field's other programs: a GLM of each participant's own maps, as NIfTI.

A latent is not anatomy, but what it tells of each voxel is: how much larger a place is in the scan than in the template
(the logarithm of the displacement's Jacobian determinant, as in tensor-based morphometry), and how it looks there (the
decoded appearance). The design, contrasts, errors and permutations are those of the image node.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainscm.encoding.encoder import Encoder
from brainscm.files import derivative_name, write_dataset_description, write_json
from brainscm.images import Mask, Volume, write_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import device_of
from brainscm.preprocess.template import Template
from brainscm.questions import query_label
from brainscm.scm.clusters import FORMING_P, Clusters, find_clusters
from brainscm.scm.design import Array
from brainscm.scm.image import ImageModel, fit_image
from brainscm.scm.inference import EFFECTS, ContrastTest, each_contrast, partial_r2, standardised_effect
from brainscm.scm.model import Scm
from brainscm.scm.tfce import STEP, tfce_map
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

OF = {
    "logJacobian": "logarithm of the Jacobian determinant of the map from the template to the linearly registered scan",
    "appearance": "decoded appearance at the template's voxels; white matter is 1",
}
STATISTICS = {
    "effect": "estimate, in units of the map",
    "se": "standard error of the estimate",
    "t": "estimate over standard error",
    "z": "t as a standard normal value of the same p",
    "p": "two-sided, of this voxel alone; 1 outside the brain",
    "pFWE": "two-sided, family-wise over the voxels of this map; 1 outside the brain",
    "pClusterSize": f"family-wise, of the size of the voxel's cluster at p < {FORMING_P:g}; 1 outside clusters",
    "pClusterMass": "the same of its mass, the sum of |t| beyond the threshold",
    "tfce": f"threshold-free cluster enhancement of t: extent^0.5 · height^2, in steps of {STEP:g}",
    "pTFCE": "two-sided, family-wise over the voxels of this map, of the enhancement; 1 outside the brain",
    "d": "estimate over the residual standard deviation (Cohen's d)",
}
PROBABILITIES = ("p", "pFWE", "pClusterSize", "pClusterMass", "pTFCE")


def run(scm: Scm, store: LatentStore, encoder: Encoder, template: Template, folder: Path) -> None:
    """Write a contrast's maps, `contrast-<name>_space-<T>_res-<r>_stat-<statistic>_desc-<effect><map>_statmap.nii.gz`.

    Args:
        scm: the fitted model.
        store: the latents that it was fitted on. encoder: made them; maps are made where it is.
        template: in whose space the maps lie; only voxels of its brain mask are tested.
        folder: receives the maps, one side-car for the statistics of an effect, a table of its clusters, and a
            description of the data set.
    """
    device, rows = device_of(encoder), store.rows(scm.training["scan"])
    folder.mkdir(parents=True, exist_ok=True)
    for kind, map_of in encoder.maps.items():
        latents = (np.asarray(store.latents[row]) for row in rows)
        with tempfile.TemporaryFile() as file:
            sample = scm.sample(_Stored.of(map_of, latents, template.brain_mask, file, device), range(len(rows)))
            image = fit_image(sample, seed=scm.seed, device=device, drawn=False)
            # Clusters are of one design: where covariates were imputed several times, of that with what is expected.
            single = replace(sample, imputed=())
            ordinary = fit_image(single, seed=scm.seed, device=device, drawn=False) if sample.imputed else image
            for found in each_contrast(scm, image, sample, EFFECTS, device):
                maps = statistic_maps(found, image)
                if scm.options.permutations and scm.options.image.errors != "hc3" and not found.wald.reason:
                    permuted = (
                        single, template.brain_mask, found.rows, _ordinary_t(found.rows, ordinary),
                        scm.options.permutations, scm.seed, device,
                    )  # fmt: skip
                    clusters = find_clusters(*permuted)
                    maps |= cluster_maps(clusters)
                    if scm.options.tfce:
                        maps |= dict(zip(("tfce", "pTFCE"), tfce_map(*permuted), strict=True))
                    name = _name(found, kind, template, {}).removesuffix("statmap")
                    write_table(cluster_table(clusters, template), folder / f"{name}clusters.tsv")
                for statistic, values in maps.items():
                    outside = 1.0 if statistic in PROBABILITIES else 0.0
                    volume = np.full(template.shape, outside, np.float32)
                    volume[template.brain_mask] = np.nan_to_num(values, nan=outside)
                    name = _name(found, kind, template, {"stat": statistic})
                    write_volume(folder / f"{name}.nii.gz", volume, template.grid)
                told = _described(scm, found, kind) | {"Statistics": {name: STATISTICS[name] for name in maps}}
                write_json(folder / f"{_name(found, kind, template, {})}.json", told | template.described)
        logger.info("contrast maps of %s written", kind)
    sources = {"preproc": Path("../../preproc")}
    ignored = ["*_statmap.*", "*_clusters.tsv"]
    write_dataset_description(folder, "BrainSCM contrast maps", sources=sources, ignored=ignored)


def statistic_maps(found: ContrastTest, image: ImageModel) -> dict[str, Array]:
    """What the test of a contrast with one row tells of each voxel, by the names of `STATISTICS`; NaN where nothing.

    What could not be tested has an estimate and d alone.
    """
    coefficients = image.coefficients.reshape(len(image.columns), -1)
    maps = {"effect": (found.rows @ coefficients)[0], "d": standardised_effect(image, found.rows)}
    test = found.wald
    if not test.reason:
        z = -np.sign(test.statistic) * scipy.special.ndtri(np.maximum(test.p / 2, np.finfo(float).tiny))
        maps |= {"se": test.standard_error, "t": test.statistic, "z": z, "p": test.p}
        if found.family_wise_p is not None:
            maps["pFWE"] = found.family_wise_p
    return maps


def _ordinary_t(rows: Array, image: ImageModel) -> Array:
    """The t of equal variances, whatever the errors are: that which permutation gives the distribution of."""
    effect, r2 = (rows @ image.coefficients.reshape(len(image.columns), -1))[0], partial_r2(image, rows)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sign(effect) * np.sqrt(image.degrees_of_freedom * r2 / (1 - r2)))


def cluster_maps(clusters: Clusters) -> dict[str, Array]:
    """The p of each voxel's cluster, by the names of `STATISTICS`."""
    return {
        name: np.append(1.0, p)[clusters.label]
        for name, p in (("pClusterSize", clusters.p_size), ("pClusterMass", clusters.p_mass))
    }


def cluster_table(clusters: Clusters, template: Template) -> pd.DataFrame:
    """A row a cluster, the largest mass first; x, y, z are of its peak, in mm of the template's space."""
    places = np.argwhere(template.brain_mask)[clusters.peak]
    x, y, z = (template.affine[:3, :3] @ places.T + template.affine[:3, 3:]) if len(places) else np.empty((3, 0))
    volume = clusters.size * abs(np.linalg.det(template.affine[:3, :3])) / 1000
    return pd.DataFrame(
        {
            "cluster": 1 + np.arange(len(places)),
            "voxels": clusters.size,
            "volume_ml": volume,
            "mass": clusters.mass,
            "peak_t": clusters.peak_t,
            "x_mm": x,
            "y_mm": y,
            "z_mm": z,
            "p_fwe_size": clusters.p_size,
            "p_fwe_mass": clusters.p_mass,
        }
    )


def _name(found: ContrastTest, kind: str, template: Template, statistic: dict[str, str]) -> str:
    entities = {"space": template.name, "res": template.label, **statistic}
    desc = f"{found.effect}{kind[0].upper()}{kind[1:]}"
    return derivative_name(f"contrast-{query_label(found.contrast)}", entities | {"desc": desc}, "statmap")


def _described(scm: Scm, found: ContrastTest, kind: str) -> dict[str, Any]:
    test = found.wald
    told: dict[str, Any] = {
        "Description": f"{found.effect} effect of the contrast {found.contrast}, voxel by voxel, on the {OF[kind]}",
        "Contrast": {node: list(ends) for node, ends in scm.options.contrasts[found.contrast].items()},
        "Formula": scm.design.formula.text,
        "Errors": found.errors,
        "Scans": len(scm.training),
        "Participants": int(scm.training["participant"].nunique()),
    }
    if test.reason:
        return told | {"NotTested": test.reason}
    if found.family_wise_p is not None:
        told |= {"Permutations": scm.options.permutations, "Exchanged": found.exchanged}
    return told | {"DegreesOfFreedom": test.df2}


class _Stored:
    """Maps of scans in a file: item i is the i-th scan's within the mask, (voxels,) float32.

    They are read several times and are too many to be held, and decoding takes longer than reading.
    """

    def __init__(self, file: IO[bytes], voxels: int) -> None:
        self.file, self.bytes = file, 4 * voxels

    @classmethod
    def of(
        cls,
        map_of: Callable[[Tensor], Tensor],
        latents: Iterable[NDArray[np.floating]],
        mask: Mask,
        file: IO[bytes],
        device: torch.device,
    ) -> _Stored:
        with torch.inference_mode():
            for latent in latents:
                volume: Volume = map_of(torch.from_numpy(latent[None]).float().to(device))[0, 0].cpu().numpy()
                file.write(volume[mask].astype(np.float32).tobytes())
        return cls(file, int(mask.sum()))

    def __getitem__(self, index: int, /) -> Volume:
        self.file.seek(index * self.bytes)
        return np.frombuffer(self.file.read(self.bytes), np.float32)
