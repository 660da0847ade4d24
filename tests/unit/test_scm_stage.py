"""The SCM stage as its rule runs it: what the store of latents knows reaches the fit, and all is written."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from brainscm.config import ScmOptions
from brainscm.encoding.encoder import Unaligned
from brainscm.encoding.layout import Layout, Mirror
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.latents.encoded import EncodedScans
from brainscm.latents.store import LatentStore
from brainscm.scans import ScanTable
from brainscm.scm.implications import COLUMNS as IMPLIED
from brainscm.scm.model import load_scm
from brainscm.scm.stage import run
from brainscm.tables import read_table, write_table
from made_up_measure import measured_by

GRID = (4, 4, 4)
LATENT = (3, 6, 4, 4)
N = 60
IDENTITY = Identity(template="T", voxel_mm=3.0, transform="affine", encoder="fixed")
# The first two channels are a displacement, which a mirror swaps and turns round; the third is an appearance.
LAYOUT = Layout((2, 1), Mirror((1, 0), (-1, -1)))
ALONE = ScmOptions.model_validate({"nodes": {"age": {}}, "image": {"formula": "age"}})
MEDIATED = ScmOptions.model_validate(
    {
        "nodes": {"age": {}, "ventricles": {"formula": "age"}},
        "image": {"formula": "age + ventricles", "errors": "hc3"},
        "contrasts": {"ageing": {"age": [50, 80]}},
        "permutations": 20,
    }
)


class Fixed(Unaligned):
    """Decodes a latent by a fixed matrix."""

    kind = "fixed"
    grid_shape = GRID
    latent_shape = LATENT
    layout = LAYOUT
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(288, 64)).astype(np.float32))

    def encode(self, volumes: Tensor, displacements: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def quantize(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1) @ self.weights).reshape(-1, 1, *GRID)


@measured_by
def measure(volume: np.ndarray, mask: np.ndarray, head_size: float) -> dict[str, float]:
    return {"gm": float(volume[mask].sum()) / head_size}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> ScanTable:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    ids = [f"sub-{i:02d}" for i in range(N)]
    age = rng.uniform(30, 80, N)
    split = np.where(np.arange(N) % 6 == 0, "validation", "train")
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": split, "age": age})
    ventricles = 5 + 0.4 * age + rng.normal(0, 5, N)
    qc = pd.DataFrame({"scan": ids, "status": "pass", "reasons": None, "preproc_t1w": "one.nii.gz"})
    qc = qc.assign(ventricles_ml=ventricles, gm_ml=800 - 2 * age + rng.normal(0, 20, N))
    qc.loc[1, ["status", "reasons"]] = ["fail", "no brain found"]
    write_table(table, folder / "scans.tsv")
    write_table(qc, folder / "qc.tsv")
    nib.save(nib.Nifti1Image(np.zeros(GRID, np.float32), np.diag([3.0, 3, 3, 1])), folder / "one.nii.gz")
    return ScanTable.read(folder / "scans.tsv", folder / "qc.tsv")


@pytest.fixture(scope="module")
def latents(scans: ScanTable) -> np.ndarray:
    """Of the usable scans: an effect of age that is the same on both sides, and another on the appearance."""
    rng = np.random.default_rng(2)
    assert LAYOUT.mirror is not None
    half = rng.normal(size=(1, *LATENT))
    effect = half + np.concatenate([LAYOUT.mirror.image(half), half[:, 2:]], axis=1)
    decades = (scans.usable["age"].to_numpy() - 55) / 10
    noise = rng.normal(size=(N - 1, *LATENT)) * np.array([1, 1, 5])[:, None, None, None]
    return (decades[:, None, None, None, None] * 0.3 * effect + noise).astype(np.float32)


def fit(
    scans: ScanTable, latents: np.ndarray, folder: Path, options: ScmOptions = ALONE, layout: Layout = LAYOUT
) -> Path:
    store = LatentStore(latents, tuple(scans.usable["scan"]), layout, IDENTITY)
    run(EncodedScans(scans, store, Fixed()), options, measure, np.ones(GRID, dtype=bool), 1, folder)
    return folder


def test_what_the_store_knows_of_its_latents_decides_how_they_are_shrunk(
    scans: ScanTable, latents: np.ndarray, tmp_path: Path
) -> None:
    layouts = {"both": LAYOUT, "parts": Layout(LAYOUT.parts), "neither": Layout((3,))}
    for name, layout in layouts.items():
        fit(scans, latents, tmp_path / name, layout=layout)
    sides = read_table(tmp_path / "both" / "diagnostics.tsv").set_index("check")["value"]
    assert sides["sides_differ"] == 0
    assert "sides_differ" not in set(read_table(tmp_path / "parts" / "diagnostics.tsv")["check"])
    # What left and right share is estimated from both, and the loud appearance does not drown the displacement.
    found = {name: load_scm(tmp_path / name, ALONE).image.coefficients[:, :2] for name in layouts}
    assert LAYOUT.mirror is not None
    np.testing.assert_allclose(LAYOUT.mirror.image(found["both"][1:]), found["both"][1:], atol=1e-12)
    assert np.abs(LAYOUT.mirror.image(found["parts"][1:]) - found["parts"][1:]).max() > 0.001
    sizes = {name: np.square(each[1:]).sum() for name, each in found.items()}
    assert sizes["parts"] > 1.1 * sizes["neither"]


def test_model_tests_diagnostics_regions_and_maps_are_written(
    scans: ScanTable, latents: np.ndarray, tmp_path: Path
) -> None:
    fit(scans, latents, tmp_path, MEDIATED)
    scm = load_scm(tmp_path, MEDIATED)
    assert scm.identity == IDENTITY
    assert len(scm.training) == 49  # of 50; one failed
    tests = read_table(tmp_path / "tests.tsv")
    assert tests["effect"].tolist() == ["total", "direct", "joint"]
    assert (tests["min_p_fwe"] == 1 / 21).any()
    checks = set(read_table(tmp_path / "diagnostics.tsv")["check"])
    assert {"training_scans", "held_out_r2", "vif", "residual_variance_p", "residual_normality_p"} <= checks
    assert {"residual_skewness", "error_rate_05"} <= checks
    placed = read_table(tmp_path / "people.tsv")
    assert set(placed["measure"]) == {"latent", "gm", "ventricles"}
    assert set(placed["split"]) == {"train", "validation"}
    implied = read_table(tmp_path / "implications.tsv")
    assert list(implied.columns) == IMPLIED
    formulas = read_table(tmp_path / "formulas.tsv")
    assert formulas["node"].tolist() == ["ventricles"] * 2 + ["image"] * 3
    assert formulas["held_out_scans"].eq(10).all()
    assert formulas["held_out_r2"].notna().sum() == 3
    left = read_table(tmp_path / "residuals.tsv").groupby(["model", "measure"])["cooks_distance"].count()
    assert left.to_dict() == dict.fromkeys(
        [("ventricles", "ventricles"), ("image", "gm"), ("image", "ventricles"), ("image", "latent")], 49
    )
    assert {path.name for path in (tmp_path / "designs").iterdir()} == {
        "image_design.tsv", "ventricles_design.tsv", "contrasts.tsv",
    }  # fmt: skip
    regions = read_table(tmp_path / "regional_effects.tsv").set_index(["source", "effect", "region"])
    both = [("measured", "gm"), ("decoded", "gm")]
    assert set(regions.index) == {
        *((source, effect, region) for source, region in both for effect in ("total", "direct")),
        ("measured", "total", "ventricles"),
    }
    image = nib.load(tmp_path / "effects" / "ageing_desc-direct_T1w.nii.gz")
    np.testing.assert_array_equal(image.affine, np.diag([3.0, 3, 3, 1]))
    change = regions.loc[("decoded", "direct", "gm"), "estimate_ml"]
    assert change == pytest.approx(float(image.get_fdata().sum()), abs=1e-3)


def test_a_model_of_another_version_is_not_loaded(scans: ScanTable, latents: np.ndarray, tmp_path: Path) -> None:
    fit(scans, latents, tmp_path)
    with np.load(tmp_path / "node_models.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name != "identity"}
    np.savez(tmp_path / "node_models.npz", **arrays)
    with pytest.raises(BrainSCMError, match="another version of BrainSCM; run fit_scm again"):
        load_scm(tmp_path, ALONE)
