"""Contrast maps: those of other programs fitted to the same maps, in template space, with memory that stays flat."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
import torch
from nibabel.affines import voxel_sizes
from nilearn.glm import compute_contrast
from nilearn.glm.first_level import run_glm
from test_alignment_registration import alignment_to, smooth_displacement, texture
from test_encoding_aligned import COMPONENTS, with_displacement

from brainscm.alignment.displacement import FOLDED, jacobian, upsample
from brainscm.config import ScmOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.pca import PCA
from brainscm.errors import ConfigError
from brainscm.identity import Identity
from brainscm.latents.store import LatentStore
from brainscm.preprocess.template import Template
from brainscm.scm.contrast_maps import run
from brainscm.scm.graph import check_graph
from brainscm.scm.model import Scm
from brainscm.tables import read_table

N = 30
IDENTITY = Identity(template="T", voxel_mm=3.0, transform="affine", encoder="fixed")
GRAPH = {
    "nodes": {"age": {}, "sex": {"levels": ["F", "M"]}},
    "image": {"formula": "age + sex"},
    "contrasts": {"old-age": {"age": [50, 80]}},
    "permutations": 19,
}


@pytest.fixture(scope="module")
def aligned() -> Aligned:
    appearances = torch.stack([0.95 * texture() + 0.05 * texture(seed) for seed in range(1, 7)])
    return Aligned(PCA.fit(appearances[:, None].numpy(), COMPONENTS), alignment_to(texture()))


def template_of(shape: tuple[int, int, int]) -> Template:
    """A brain in the middle of the grid; nothing else of it is looked at."""
    mask = np.zeros(shape, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    affine = np.diag([3.0, 3, 3, 1])
    nothing = np.zeros(shape, np.float32)
    return Template("T", 3.0, affine, shape, nothing, mask, nothing, nothing, nothing, nothing, nothing, {})


def table_of(visits: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    participant = np.repeat(np.arange(N // visits), visits)
    return pd.DataFrame(
        {
            "scan": [f"sub-{i:02d}" for i in range(N)],
            "participant": [f"p{i}" for i in participant],
            "split": "train",
            "age": rng.uniform(40, 80, N // visits)[participant] + np.arange(N) % visits,
            "sex": np.where(participant % 2, "F", "M"),
        }
    )


def latents_of(encoder: Aligned, table: pd.DataFrame) -> torch.Tensor:
    """Scans whose displacement and appearance go with age."""
    effect, rng = smooth_displacement(1, 1.0), np.random.default_rng(1)
    found = []
    for number, age in enumerate(table["age"]):
        latent = with_displacement(encoder, 0.02 * (age - 60) * effect + smooth_displacement(10 + number, 0.5))
        latent[0, -encoder.layout.parts[-1] :] = torch.from_numpy(
            rng.normal(0.05 * (age - 60), 1, latent[0, -encoder.layout.parts[-1] :].shape)
        )
        found.append(latent[0])
    return torch.stack(found)


def write_maps(encoder: Aligned, folder: Path, table: pd.DataFrame, **options: object) -> tuple[Scm, torch.Tensor]:
    latents = latents_of(encoder, table)
    declared = ScmOptions.model_validate(GRAPH | options)
    store = LatentStore(latents.numpy(), tuple(table["scan"]), encoder.layout, IDENTITY)
    scm = Scm.fit(table, store.latents, declared, seed=3)
    run(scm, store, encoder, template_of(encoder.grid_shape), folder)
    return scm, latents


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / f"{name}_statmap.nii.gz").dataobj)


def own_maps(encoder: Aligned, latents: torch.Tensor, kind: str) -> np.ndarray:
    """Each scan's map, (n, x, y, z), by other means than those that are tested."""
    if kind == "appearance":
        return encoder.inner.decode(latents[:, -COMPONENTS:])[:, 0].numpy()
    fine, coarse = (part for part in latents.split(encoder.layout.parts, dim=1)[:2])
    displacements = torch.stack([encoder._unpack(each) for each in fine + coarse])
    on_grid = [upsample(u, encoder.grid_shape) for u in displacements]
    return np.stack([np.log(np.linalg.det(jacobian(u).numpy()).clip(FOLDED)) for u in on_grid])


@pytest.mark.parametrize("kind", ["logJacobian", "appearance"])
def test_maps_are_nilearns_and_statsmodels_of_the_scans_own_maps(aligned: Aligned, tmp_path: Path, kind: str) -> None:
    table = table_of()
    _, latents = write_maps(aligned, tmp_path, table)
    maps, mask = own_maps(aligned, latents, kind), template_of(aligned.grid_shape).brain_mask
    design = pd.DataFrame({"constant": 1.0, "age": table["age"], "male": 1.0 * (table["sex"] == "M")})
    peer = compute_contrast(*run_glm(maps[:, mask].astype(float), design.to_numpy(), noise_model="ols"), [0, 30, 0])
    desc = f"desc-total{kind[0].upper()}{kind[1:]}"
    found = {
        stat: read(tmp_path, f"contrast-oldAge_space-T_res-3mm_stat-{stat}_{desc}")
        for stat in ("effect", "se", "t", "z", "p", "pFWE", "d")
    }
    theirs = {"effect": peer.effect_size(), "t": peer.stat(), "z": peer.z_score()}
    for stat, values in theirs.items():
        np.testing.assert_allclose(found[stat][mask], np.ravel(values), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found["se"][mask] ** 2, np.ravel(peer.effect_variance()), rtol=2e-3)
    for voxel in [(6, 9, 7), (10, 10, 8)]:
        fit = sm.OLS(maps[(slice(None), *voxel)].astype(float), design.to_numpy()).fit()
        one = fit.t_test([0, 30, 0])
        assert found["p"][voxel] == pytest.approx(one.pvalue, rel=1e-3, abs=1e-7)
        assert found["d"][voxel] == pytest.approx(one.effect[0] / np.sqrt(fit.scale), rel=1e-3)
    strongest = np.unravel_index(np.abs(found["t"]).argmax(), mask.shape)
    assert found["pFWE"][strongest] == pytest.approx(1 / 20)
    assert (found["pFWE"][mask] >= found["p"][mask] - 1 / 19).all()
    for stat, volume in found.items():
        assert (volume[~mask] == (1 if stat.startswith("p") else 0)).all()


def test_maps_lie_in_template_space_and_say_what_they_are(aligned: Aligned, tmp_path: Path) -> None:
    scm, _ = write_maps(aligned, tmp_path, table_of())
    image = nib.load(tmp_path / "contrast-oldAge_space-T_res-3mm_stat-t_desc-totalAppearance_statmap.nii.gz")
    assert image.shape == aligned.grid_shape
    np.testing.assert_allclose(voxel_sizes(image.affine), 3)
    told = json.loads((tmp_path / "contrast-oldAge_space-T_res-3mm_desc-totalAppearance_statmap.json").read_text())
    assert told["Contrast"] == {"age": [50, 80]}
    assert (told["DegreesOfFreedom"], told["Errors"], told["Permutations"]) == (27, "ordinary", 19)
    assert set(told["Statistics"]) == {"effect", "d", "se", "t", "z", "p", "pFWE", "pClusterSize", "pClusterMass"}
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert len(list(tmp_path.glob("*_statmap.nii.gz"))) == 2 * 2 * 9  # total and direct, of two kinds
    assert scm.options.contrasts.keys() == {"old-age"}


def test_clusters_are_listed_as_they_lie_in_the_maps(aligned: Aligned, tmp_path: Path) -> None:
    write_maps(aligned, tmp_path, table_of())
    name = "contrast-oldAge_space-T_res-3mm{}_desc-totalLogJacobian"
    t, p = (read(tmp_path, name.format(f"_stat-{stat}")) for stat in ("t", "pClusterMass"))
    clusters = read_table(tmp_path / f"{name.format('')}_clusters.tsv")
    assert len(clusters)
    assert clusters["mass"].is_monotonic_decreasing
    inside = np.abs(t) > scipy.stats.t.isf(0.0005, 27)
    assert clusters["voxels"].sum() == inside.sum()
    assert (p[~inside] == 1).all()
    for _, row in clusters.iterrows():
        peak = tuple(np.round(row[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float) / 3).astype(int))
        assert t[peak] == pytest.approx(row["peak_t"], rel=1e-4)
        assert p[peak] == pytest.approx(row["p_fwe_mass"])
        assert row["volume_ml"] == pytest.approx(0.027 * row["voxels"])


def test_enhancement_is_mapped_where_it_is_asked_for(aligned: Aligned, tmp_path: Path) -> None:
    write_maps(aligned, tmp_path, table_of(), tfce=True, permutations=5)
    name = "contrast-oldAge_space-T_res-3mm_stat-{}_desc-totalAppearance"
    t, enhanced, p = (read(tmp_path, name.format(stat)) for stat in ("t", "tfce", "pTFCE"))
    inside = template_of(aligned.grid_shape).brain_mask
    assert (p[~inside] == 1).all()
    assert (enhanced * t >= 0).all()
    assert p[np.unravel_index(np.abs(enhanced).argmax(), p.shape)] == pytest.approx(1 / 6)


def test_no_clusters_are_tested_beside_hc3(aligned: Aligned, tmp_path: Path) -> None:
    write_maps(aligned, tmp_path, table_of(), image={"formula": "age + sex", "errors": "hc3"})
    assert list(tmp_path.glob("*stat-pFWE*"))
    assert not list(tmp_path.glob("*luster*"))


def test_without_permutations_there_is_no_family_wise_map(aligned: Aligned, tmp_path: Path) -> None:
    write_maps(aligned, tmp_path, table_of(visits=2), permutations=0)
    assert not list(tmp_path.glob("*stat-pFWE*"))
    told = json.loads((tmp_path / "contrast-oldAge_space-T_res-3mm_desc-totalAppearance_statmap.json").read_text())
    assert told["Errors"] == "clustered by participant"
    assert told["DegreesOfFreedom"] < 15
    assert (told["Scans"], told["Participants"]) == (30, 15)


def test_contrasts_whose_maps_would_have_one_name_are_refused() -> None:
    twice = {"old-age": {"age": [50, 80]}, "old_age": {"age": [50, 90]}}
    with pytest.raises(ConfigError, match=r"scm\.contrasts\.old_age: its maps would overwrite those of 'old-age'"):
        check_graph(ScmOptions.model_validate(GRAPH | {"contrasts": twice}))
