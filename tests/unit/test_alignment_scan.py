"""One scan's alignment: what it writes, that ANTs applies it as we do, and scans that cannot be aligned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ants
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as functional
from scipy.ndimage import gaussian_filter
from torch import Tensor

from brainscm.alignment.displacement import align, interpolate, jacobian, resample, upsample, voxels
from brainscm.alignment.registration import Alignment
from brainscm.alignment.scan import align_scan
from brainscm.config import QualityOptions
from brainscm.errors import BrainSCMError, ScanError
from brainscm.images import Grid, Image, read_displacement, read_volume, write_displacement, write_volume
from brainscm.parallel import one_thread
from brainscm.preprocess.itk import to_ants, write_matrix
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import TissueMeasure
from brainscm.qc.collect import WITHIN_COHORT, collect_preprocessing
from brainscm.qc.measures import MEASURES
from brainscm.regions import REGIONS, Geometry
from brainscm.resampling import sample
from brainscm.scans import ScanTable
from brainscm.tables import write_table
from brainscm.tissue_levels import TissueLevels

pytestmark = pytest.mark.slow

SCAN = "sub-01_ses-02"
ANAT = f"sub-01/ses-02/anat/{SCAN}"
SPACE = f"{ANAT}_space-{EMBEDDED}_res-4mm"
VOXEL_MM = 4.0
HEAD_SIZE = 1.2
LEVELS = TissueLevels(csf=0.25, gm=0.7, wm=1.0)
# From template to raw scan.
TO_SCAN = np.array([[0.94, 0.1, 0, 6], [-0.1, 0.97, 0.05, -9], [0.02, 0, 0.95, 14], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture(scope="module")
def template(cache: Path) -> Template:
    return load_template(EMBEDDED, VOXEL_MM, cache)


def smooth_displacement(template: Template, voxels_rms: float) -> Tensor:
    """(3, x/2, y/2, z/2)."""
    field = gaussian_filter(np.random.default_rng(3).normal(size=(3, *template.grid.nodes.shape)), (0, 3, 3, 3))
    return torch.from_numpy(field / field.std() * voxels_rms).float()


def write_preprocessed(folder: Path, template: Template, volume: np.ndarray, status: str = "done") -> None:
    """What preprocessing leaves of a scan, as far as its alignment reads it."""
    outputs = {
        "preproc_t1w": f"{SPACE}_desc-preproc_T1w.nii.gz",
        "template_mask": f"{SPACE}_desc-brain_mask.nii.gz",
        "to_template": f"{ANAT}_from-T1w_to-{EMBEDDED}_mode-image_xfm.mat",
        "from_template": f"{ANAT}_from-{EMBEDDED}_to-T1w_mode-image_xfm.mat",
    }
    write_volume(folder / outputs["preproc_t1w"], volume, template.grid)
    write_volume(folder / outputs["template_mask"], template.brain_mask, template.grid)
    write_matrix(TO_SCAN, folder / outputs["to_template"])
    write_matrix(np.linalg.inv(TO_SCAN), folder / outputs["from_template"])
    metrics = {"ncc": 0.6, "head_size": HEAD_SIZE, **LEVELS.as_metrics()}
    volumes_ml = {region.name: 1.0 for region in REGIONS}
    told = {"status": status, "reasons": [], "metrics": metrics, "volumes_ml": volumes_ml, "outputs": outputs}
    (folder / "status").mkdir(exist_ok=True)
    (folder / "status" / f"{SCAN}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, template: Template, cache: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("preproc")
    write_preprocessed(
        folder, template, align(torch.from_numpy(template.brain), smooth_displacement(template, 0.4)).numpy()
    )
    return {"status": align_scan(SCAN, folder, EMBEDDED, VOXEL_MM, cache), "folder": folder}


def volume_of(aligned: dict[str, Any], template: Template) -> Tensor:
    return torch.from_numpy(read_volume(aligned["folder"] / f"{SPACE}_desc-preproc_T1w.nii.gz", template.grid))


def displacement_of(aligned: dict[str, Any], template: Template, role: str = "deformation") -> Tensor:
    return torch.from_numpy(read_displacement(aligned["folder"] / aligned["status"]["outputs"][role], template.grid))


def test_outputs_have_the_contracts_names_and_the_status_is_on_disk(aligned: dict[str, Any]) -> None:
    status = aligned["status"]
    assert (status["status"], status["reasons"]) == ("done", [])
    assert status["outputs"] == {
        "deformation": f"{ANAT}_from-T1w_to-{EMBEDDED}_mode-image_desc-deformable_xfm.nii.gz",
        "deformation_inverse": f"{ANAT}_from-{EMBEDDED}_to-T1w_mode-image_desc-deformable_xfm.nii.gz",
        "jacobian": f"{SPACE}_desc-jacobian_map.nii.gz",
    }
    assert json.loads((aligned["folder"] / "alignment" / f"{SCAN}.json").read_text()) == status
    limited = {name for name, measure in MEASURES.items() if name.startswith("alignment_") and measure.limits}
    limited -= set(WITHIN_COHORT)
    assert limited <= set(status["metrics"]) <= set(MEASURES)
    for name in status["outputs"].values():
        told = json.loads((aligned["folder"] / name.replace(".nii.gz", ".json")).read_text())
        assert told["Sources"] == [f"bids::{SPACE}_desc-preproc_T1w.nii.gz"]
        assert told["SpatialReference"] == EMBEDDED
        assert ("HowToApply" in told) == name.endswith("xfm.nii.gz")


def test_displacement_is_that_of_the_registration(aligned: dict[str, Any], template: Template) -> None:
    alignment, volume = Alignment.onto(template), volume_of(aligned, template)
    with one_thread():
        expected = alignment.displacement(volume)
    assert torch.equal(displacement_of(aligned, template), expected)  # 4 mm: no rounding on the way to mm and back
    assert expected.abs().max() > 0.5


@pytest.mark.parametrize("turn", [np.diag([2.0, 3.0, 1.7]), np.array([[2, 0.3, 0], [-0.2, 1.1, 0.4], [0, 0.1, -3.0]])])
def test_a_displacement_survives_its_file(tmp_path: Path, turn: np.ndarray) -> None:
    grid = Grid((8, 6, 10), nib.affines.from_matvec(turn, (-3, 40, 7.5)), "template")
    displacement = np.random.default_rng(0).normal(size=(3, 4, 3, 5)).astype(np.float32)
    write_displacement(tmp_path / "x.nii.gz", displacement, grid)
    np.testing.assert_allclose(read_displacement(tmp_path / "x.nii.gz", grid), displacement, rtol=1e-6, atol=1e-6)
    header = nib.load(tmp_path / "x.nii.gz").header
    assert header.get_intent()[0] == "vector"
    assert int(header["sform_code"]) == nib.nifti1.xform_codes["template"]
    elsewhere = Grid(grid.shape, grid.affine + np.eye(4) * 0.1)
    with pytest.raises(ScanError, match="does not lie on the nodes"):
        read_displacement(tmp_path / "x.nii.gz", elsewhere)


def apply(reference: Image, moving: Image, transforms: list[Path]) -> np.ndarray:
    """What ANTs makes of it with cubic splines, which we use, too."""
    names, as_written = [str(path) for path in transforms], [False] * len(transforms)
    return ants.apply_transforms(
        to_ants(reference), to_ants(moving), names, interpolator="bSpline", whichtoinvert=as_written
    ).numpy()


def raw_head(volume: Tensor, template: Template) -> Image:
    """The scan where the scanner saw it, on a grid of its own."""
    affine = nib.affines.from_matvec(np.diag([3.5, 3.7, 4.1]), (-86, -128, -70))
    return Image(sample(Image(volume.numpy(), template.affine), affine, (50, 62, 48), np.linalg.inv(TO_SCAN)), affine)


def test_ants_brings_a_scan_to_the_template_as_we_do(aligned: dict[str, Any], template: Template) -> None:
    outputs = {role: aligned["folder"] / name for role, name in aligned["status"]["outputs"].items()}
    volume, displacement = volume_of(aligned, template), displacement_of(aligned, template)
    image = Image(volume.numpy(), template.affine)
    theirs = apply(image, image, [outputs["deformation"]])
    ours = align(volume, displacement).numpy()
    inside = template.brain_mask
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-3)
    assert np.abs(ours - volume.numpy())[inside].max() > 0.3

    raw = raw_head(volume, template)
    matrix = aligned["folder"] / f"{ANAT}_from-T1w_to-{EMBEDDED}_mode-image_xfm.mat"
    theirs = apply(image, raw, [outputs["deformation"], matrix])
    points = voxels(template.shape, torch.device("cpu")) + upsample(displacement, template.shape)
    in_raw = torch.from_numpy(np.linalg.inv(raw.affine) @ TO_SCAN @ template.affine).float()
    points = torch.einsum("ij,jxyz->ixyz", in_raw[:3, :3], points) + in_raw[:3, 3, None, None, None]
    np.testing.assert_allclose(theirs[inside], resample(torch.from_numpy(raw.data), points).numpy()[inside], atol=2e-3)


def test_ants_brings_the_template_to_a_scan_as_we_do(aligned: dict[str, Any], template: Template) -> None:
    outputs = {role: aligned["folder"] / name for role, name in aligned["status"]["outputs"].items()}
    back = upsample(displacement_of(aligned, template, "deformation_inverse"), template.shape)
    brain = template.brain_volume
    theirs = apply(brain, brain, [outputs["deformation_inverse"]])
    ours = resample(torch.from_numpy(template.brain), voxels(template.shape, torch.device("cpu")) + back).numpy()
    inside = volume_of(aligned, template).numpy() > 0.3
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-3)
    assert np.abs(theirs - template.brain)[inside].max() > 0.3

    raw = raw_head(volume_of(aligned, template), template)
    matrix = aligned["folder"] / f"{ANAT}_from-{EMBEDDED}_to-T1w_mode-image_xfm.mat"
    in_raw = apply(raw, brain, [matrix, outputs["deformation_inverse"]])
    expected = sample(Image(ours, template.affine), raw.affine, raw.data.shape, np.linalg.inv(TO_SCAN))
    there = raw.data > 0.5
    assert np.corrcoef(in_raw[there], expected[there])[0, 1] > 0.99
    assert np.corrcoef(in_raw[there], raw.data[there])[0, 1] > 0.95


def test_there_and_back_is_nowhere(aligned: dict[str, Any], template: Template) -> None:
    there = upsample(displacement_of(aligned, template), template.shape)
    back = displacement_of(aligned, template, "deformation_inverse")
    everywhere = voxels(template.shape, torch.device("cpu"))
    nodes = functional.avg_pool3d(everywhere, 2)
    inside = functional.max_pool3d(torch.from_numpy(template.brain_mask).float()[None], 2)[0] > 0

    def error(ends: Tensor, points: Tensor) -> Tensor:
        return (points + interpolate(there, points) - ends).norm(dim=0)

    assert error(nodes, nodes + back)[inside].mean() < 2e-3
    assert error(nodes, nodes - displacement_of(aligned, template))[inside].mean() > 0.02
    between = error(everywhere, everywhere + upsample(back, template.shape))[torch.from_numpy(template.brain_mask)]
    assert between.mean() < 0.05


def test_jacobian_is_the_local_change_of_volume(aligned: dict[str, Any], template: Template) -> None:
    points = voxels((12, 10, 8), torch.device("cpu"))
    factors = torch.tensor([1.2, 0.9, -0.5])[:, None, None, None]
    torch.testing.assert_close(torch.linalg.det(jacobian((factors - 1) * points)), torch.full((12, 10, 8), -0.54))

    image = nib.load(aligned["folder"] / aligned["status"]["outputs"]["jacobian"])
    determinant = np.asarray(image.dataobj)
    np.testing.assert_allclose(image.affine, template.affine)
    assert determinant.shape == template.shape
    assert determinant.min() > 0
    assert aligned["status"]["metrics"]["alignment_folding_percent"] == 0
    # The volume of the template's brain in the scan is the sum of its voxels' own.
    scan = (volume_of(aligned, template).numpy() > 0.3).sum()
    assert determinant[template.brain > 0.3].sum() == pytest.approx(scan, rel=0.02)


def test_folding_is_measured_inside_the_brain(
    tmp_path: Path, template: Template, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folded(self: Alignment, volume: Tensor) -> Tensor:
        displacement = torch.zeros(3, *self.shape)
        displacement[0, 10:] = -6  # everything right of a plane comes from further left
        return displacement

    monkeypatch.setattr(Alignment, "displacement", folded)
    write_preprocessed(tmp_path, template, template.brain)
    metrics = align_scan(SCAN, tmp_path, EMBEDDED, VOXEL_MM, cache)["metrics"]
    determinant = np.asarray(nib.load(tmp_path / f"{SPACE}_desc-jacobian_map.nii.gz").dataobj)
    assert metrics["alignment_folding_percent"] == pytest.approx(100 * (determinant[template.brain_mask] <= 0).mean())
    assert metrics["alignment_folding_percent"] > 3
    assert metrics["alignment_strain"] == pytest.approx(6**2 / 3 / (template.shape[0] // 2 - 1))
    assert metrics["alignment_similarity"] < 0.5


def test_registration_raises_the_similarity_that_is_told(aligned: dict[str, Any], template: Template) -> None:
    alignment, volume = Alignment.onto(template), volume_of(aligned, template)
    nowhere = torch.zeros(3, *alignment.shape)
    before = alignment.quality(volume, nowhere)["alignment_similarity"]
    assert before + 0.05 < aligned["status"]["metrics"]["alignment_similarity"] < 1
    itself = alignment.quality(2 * torch.from_numpy(template.brain) + 1, nowhere)
    assert itself == pytest.approx({"alignment_similarity": 1, "alignment_strain": 0})


def test_a_scan_that_was_not_preprocessed_is_skipped_without_loading_torch(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    told = {"status": "fail", "reasons": ["it is empty"], "metrics": {}, "volumes_ml": {}, "outputs": {}}
    (tmp_path / "status" / "sub-09.json").write_text(json.dumps(told))
    asked = (
        "import sys; from pathlib import Path; from brainscm.alignment.scan import align_scan; "
        f"print(align_scan('sub-09', Path({str(tmp_path)!r}), {EMBEDDED!r}, 4.0)['status'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["skipped", "False"]


def test_a_scan_that_cannot_be_aligned_fails_alone_and_keeps_no_earlier_deformation(
    tmp_path: Path, template: Template, cache: Path
) -> None:
    write_preprocessed(tmp_path, template, np.full(template.shape, np.nan))
    earlier = tmp_path / f"{ANAT}_from-T1w_to-{EMBEDDED}_mode-image_desc-deformable_xfm.nii.gz"
    earlier.touch()
    status = align_scan(SCAN, tmp_path, EMBEDDED, VOXEL_MM, cache)
    assert (status["status"], status["outputs"]) == ("fail", {})
    assert "holds NaN" in status["reasons"][0]
    assert not earlier.exists()
    assert (tmp_path / "alignment" / f"{SCAN}.json").is_file()


def test_a_preprocessed_image_that_is_gone_stops_the_job(tmp_path: Path, template: Template, cache: Path) -> None:
    write_preprocessed(tmp_path, template, template.brain)
    (tmp_path / f"{SPACE}_desc-preproc_T1w.nii.gz").unlink()
    with pytest.raises(BrainSCMError, match=r"was written but is gone; rerun it with: snakemake .* --force .*status/"):
        align_scan(SCAN, tmp_path, EMBEDDED, VOXEL_MM, cache)


def collected(folder: Path, is_aligned: bool) -> ScanTable:
    """The table of the one scan, with or without its alignment."""
    row = {"scan": SCAN, "participant": "sub-01", "split": "train", "path": "/data/sub-01/x_T1w.nii.gz"}
    write_table(pd.DataFrame([row]), folder / "scans.tsv")
    collect_preprocessing(folder / "scans.tsv", folder, folder / "qc.tsv", QualityOptions(), is_aligned)
    return ScanTable.read(folder / "scans.tsv", folder / "qc.tsv")


def test_the_table_of_scans_gives_the_displacement(aligned: dict[str, Any], template: Template) -> None:
    folder = aligned["folder"]
    scans = collected(folder, is_aligned=True)
    np.testing.assert_array_equal(scans.displacement(SCAN), displacement_of(aligned, template))
    unaligned = collected(folder, is_aligned=False)
    with pytest.raises(ScanError, match="left no deformation"):
        unaligned.displacement(SCAN)
    assert unaligned.geometry(SCAN).to_template is None


def test_regions_are_measured_again_where_the_alignment_lays_them(aligned: dict[str, Any], template: Template) -> None:
    """The volumes of the table are those that a later stage measures of the scan."""
    folder = aligned["folder"]
    scans = collected(folder, is_aligned=True)
    geometry = scans.geometry(SCAN)
    assert geometry.head_size == HEAD_SIZE
    measured = TissueMeasure(template, scans.levels(SCAN), geometry).volumes_ml(scans.volume(SCAN))
    for region, volume in measured.items():
        assert scans.rows.at[SCAN, f"{region}_ml"] == pytest.approx(volume, abs=1e-3), region
    as_it_lies = TissueMeasure(template, scans.levels(SCAN), Geometry(geometry.mask, HEAD_SIZE))
    assert measured["ventricles"] != pytest.approx(as_it_lies.volumes_ml(scans.volume(SCAN))["ventricles"], rel=1e-3)
