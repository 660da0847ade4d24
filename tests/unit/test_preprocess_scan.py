"""One made-up head through the whole stage, against what is known of it; and bad scans, which must not raise."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brainscm.config import AtlasOptions, PreprocessOptions, QualityOptions
from brainscm.errors import BrainSCMError, ConfigError, ScanError
from brainscm.files import bids_uri
from brainscm.images import Image
from brainscm.preprocess import scan
from brainscm.preprocess.brain import Brain
from brainscm.preprocess.figures import mosaic
from brainscm.preprocess.given import Given
from brainscm.preprocess.itk import read_matrix, write_matrix
from brainscm.preprocess.register import register_brain
from brainscm.preprocess.scan import BACKGROUND_WHITE, preprocess_scan
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.qc.limits import apply_limits
from brainscm.qc.measures import MEASURES
from brainscm.regions import Geometry
from brainscm.resampling import sample

pytestmark = pytest.mark.slow

SCAN = "sub-01_ses-02"
SHRINK = 0.93
OPTIONS = PreprocessOptions(voxel_mm=3.0)
OF_GIVEN_BRAINS = {"given_outside_percent", "brain_missing_percent", "asymmetry_percent"}


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(EMBEDDED, 3.0)


def pose() -> np.ndarray:
    """From the made-up scan's world to the template's: smaller, tilted, off centre."""
    angle = np.deg2rad(14)
    to_scan = np.eye(4)
    to_scan[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    to_scan[:3, :3] *= SHRINK
    to_scan[:3, 3] = (8, -14, 21)
    return np.linalg.inv(to_scan)


def made_up_head(template: Template) -> tuple[Image, Image]:
    """The template's pseudo-head, posed, biased, noisy, anisotropic, stored in an odd orientation; and its mask."""
    affine = np.diag([2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = (-100, -140, -90)
    shape = (100, 130, 90)
    head, brain = (sample(part, affine, shape, pose(), order=1) for part in template.heads[2])
    x, y, z = np.ogrid[-1:1:100j, -1:1:130j, -1:1:90j]
    bias = np.exp(0.25 * x + 0.2 * y * z)
    noisy = np.clip(head * bias + np.random.default_rng(0).normal(0, 5, shape), 0, None) * 3
    volumes = []
    for data in (noisy, brain > 0.5):
        image = nib.Nifti1Image(data.astype(np.float32), affine)
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt("PIR"))
        image = image.as_reoriented(turn)
        volumes.append(Image(image.get_fdata(), image.affine))
    return volumes[0], volumes[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, template: Template) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("preprocess")
    head, mask = made_up_head(template)
    raw = folder / "raw" / "sub-01" / "ses-02" / "anat" / f"{SCAN}_T1w.nii.gz"
    raw.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(head.data.astype(np.int16), head.affine), raw)
    halves = np.where(np.arange(template.shape[0])[:, None, None] < template.shape[0] // 2, 1, 2) * template.brain_mask
    nib.save(nib.Nifti1Image(halves.astype(np.int16), template.affine), folder / "atlas.nii.gz")
    (folder / "atlas.tsv").write_text("index\tname\n1\tLeft half\n2\tRight half\n")
    options = OPTIONS.model_copy(
        update={"atlas": AtlasOptions(path=folder / "atlas.nii.gz", labels=folder / "atlas.tsv")}
    )
    status = preprocess_scan(SCAN, raw, folder / "preproc", EMBEDDED, options, seed=1)
    return {"status": status, "folder": folder / "preproc", "mask": mask, "raw": raw, "options": options}


def read(done: dict[str, Any], role: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(done["folder"] / done["status"]["outputs"][role])
    return np.asanyarray(image.dataobj), image.affine


def test_good_head_passes_and_its_status_is_on_disk(done: dict[str, Any]) -> None:
    assert (done["status"]["status"], done["status"]["reasons"]) == ("done", [])
    assert apply_limits(done["status"]["metrics"], QualityOptions()) == ("pass", [])
    assert json.loads((done["folder"] / "status" / f"{SCAN}.json").read_text()) == done["status"]


def test_outputs_have_the_contracts_names_and_no_temporary_file_is_left(done: dict[str, Any]) -> None:
    anat = f"sub-01/ses-02/anat/{SCAN}"
    space = f"{anat}_space-MNI152NLin2009aSym_res-3mm"
    assert done["status"]["outputs"] == {
        "preproc_t1w": f"{space}_desc-preproc_T1w.nii.gz",
        "template_mask": f"{space}_desc-brain_mask.nii.gz",
        "native_mask": f"{anat}_desc-brain_mask.nii.gz",
        "gm_probseg": f"{space}_label-GM_probseg.nii.gz",
        "wm_probseg": f"{space}_label-WM_probseg.nii.gz",
        "csf_probseg": f"{space}_label-CSF_probseg.nii.gz",
        "dseg": f"{space}_dseg.nii.gz",
        "to_template": f"{anat}_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.mat",
        "from_template": f"{anat}_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.mat",
        "mask_figure": f"figures/{SCAN}_mask.png",
        "background_figure": f"figures/{SCAN}_background.png",
        "registration_figure": f"figures/{SCAN}_registration.png",
    }
    for name in done["status"]["outputs"].values():
        assert (done["folder"] / name).is_file()
    assert not [path for path in done["folder"].rglob(".*") if path.is_file()]


def test_every_image_has_a_name_and_a_side_car_of_bids_derivatives(done: dict[str, Any]) -> None:
    """Entities in BIDS's order, and the side-car's keys that its derivatives require: see the pages on common data
    types and on imaging derivatives."""
    entities = r"_space-[a-zA-Z0-9]+_res-[a-zA-Z0-9]+"
    name = re.compile(
        rf"sub-01_ses-02(({entities})?_desc-brain_mask|{entities}_desc-preproc_T1w"
        rf"|{entities}_label-(GM|WM|CSF)_probseg|{entities}_dseg)"
    )
    images = list((done["folder"] / "sub-01/ses-02/anat").glob("*.nii.gz"))
    assert len(images) == 7
    for image in images:
        stem = image.name.removesuffix(".nii.gz")
        assert name.fullmatch(stem), stem
        sidecar = json.loads(image.with_name(f"{stem}.json").read_text())
        assert sidecar["Description"]
        assert all(source.startswith("bids:raw:sub-01/") for source in sidecar["Sources"])
        assert sidecar["SpatialReference"] == ("MNI152NLin2009aSym" if "_space-" in stem else "orig")
        assert ("Resolution" in sidecar) == ("_res-" in stem)
        assert (sidecar.get("Type") == "Brain") == stem.endswith("_mask")
        assert ("SkullStripped" in sidecar) == stem.endswith("_T1w")


def test_mask_lies_on_the_raw_grid_and_on_the_brain(done: dict[str, Any]) -> None:
    mask, affine = read(done, "native_mask")
    assert mask.shape == nib.load(done["raw"]).shape
    np.testing.assert_allclose(affine, nib.load(done["raw"]).affine, atol=1e-4)
    truth = done["mask"].data > 0
    dice = 2 * (mask.astype(bool) & truth).sum() / (mask.sum() + truth.sum())
    assert dice > 0.96


def test_brain_lies_on_the_templates(done: dict[str, Any], template: Template) -> None:
    volume, affine = read(done, "preproc_t1w")
    np.testing.assert_allclose(affine, template.affine, atol=1e-4)
    assert volume.dtype == np.float32
    mask = read(done, "template_mask")[0] > 0
    assert not volume[~mask].any()
    assert volume.min() >= 0
    assert np.median(volume[template.wm > 0.95]) == pytest.approx(1, abs=0.03)
    assert np.corrcoef(volume[template.brain_mask], template.brain[template.brain_mask])[0, 1] > 0.95
    to_scan = read_matrix(done["folder"] / done["status"]["outputs"]["to_template"])
    corners = np.array([[-50, -80, 0, 1], [50, 40, 0, 1], [0, 0, 60, 1], [0, -60, -40, 1]]).T
    error = (pose() @ to_scan @ corners - corners)[:3]
    assert np.linalg.norm(error, axis=0).max() < 2.5


def test_segmentation_is_the_largest_share_of_each_voxel_of_the_brain(done: dict[str, Any]) -> None:
    labels, affine = read(done, "dseg")
    np.testing.assert_allclose(affine, read(done, "template_mask")[1])
    assert labels.dtype == np.uint8
    mask = read(done, "template_mask")[0] > 0
    assert not labels[~mask].any()
    maps = np.stack([read(done, f"{tissue}_probseg")[0] for tissue in ("gm", "wm", "csf")])
    np.testing.assert_array_equal(labels[mask], 1 + maps[:, mask].argmax(axis=0))


def test_shares_add_up_to_the_volumes_that_are_told(done: dict[str, Any]) -> None:
    status = done["status"]
    for tissue in ("gm", "wm", "csf"):
        share, affine = read(done, f"{tissue}_probseg")
        own_ml = share.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000 / status["metrics"]["head_size"]
        assert status["volumes_ml"][tissue] == pytest.approx(own_ml, rel=1e-4)


def test_every_measure_of_a_scan_is_registered_and_every_limit_is_measured(done: dict[str, Any]) -> None:
    metrics = set(done["status"]["metrics"])
    assert metrics <= set(MEASURES)
    limited = {name for name, measure in MEASURES.items() if measure.limits} - OF_GIVEN_BRAINS
    assert {name for name in limited - metrics if not name.startswith("alignment_")} == {"mask_volume_z", "ncc_z"}


def test_transforms_are_each_others_inverse(done: dict[str, Any]) -> None:
    matrices = [
        read_matrix(done["folder"] / done["status"]["outputs"][key]) for key in ("to_template", "from_template")
    ]
    np.testing.assert_allclose(matrices[0] @ matrices[1], np.eye(4), atol=1e-5)


def test_volumes_are_those_of_the_small_head(done: dict[str, Any], template: Template) -> None:
    assert done["status"]["metrics"]["head_size"] == pytest.approx(SHRINK**-3, rel=0.03)
    whole = MeasureTissues(template)(template.brain, Geometry(template.brain_mask)).volumes_ml(template.brain)
    for region in ("gm", "wm", "brain", "ventricles"):
        assert done["status"]["volumes_ml"][region] == pytest.approx(whole[region] * SHRINK**3, rel=0.15), region


def test_regions_of_the_atlas_are_measured_in_the_scan(done: dict[str, Any]) -> None:
    left, right = (done["status"]["volumes_ml"][region] for region in ("left_half", "right_half"))
    whole = (done["mask"].data > 0).sum() * done["mask"].voxel_ml
    assert left + right == pytest.approx(whole, rel=0.04)
    assert left == pytest.approx(right, rel=0.06)


def test_registration_and_raw_scan_are_measured(done: dict[str, Any]) -> None:
    metrics = done["status"]["metrics"]
    assert metrics["fov_cut_percent"] < 0.5
    assert metrics["holes_ml"] < 10
    assert 0.3 < metrics["efc"] < 0.9
    assert 0.3 < metrics["jacobian_p01"] < 1 < metrics["jacobian_p99"] < 3


def test_sidecar_tells_sources_and_space(done: dict[str, Any]) -> None:
    image = done["folder"] / done["status"]["outputs"]["preproc_t1w"]
    sidecar = json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["SkullStripped"] is True
    assert sidecar["SpatialReference"] == "MNI152NLin2009aSym"
    assert sidecar["Sources"] == [f"bids:raw:sub-01/ses-02/anat/{SCAN}_T1w.nii.gz"]
    assert sidecar["Software"]["antspyx"]
    assert "NaN" not in image.with_name(image.name.replace(".nii.gz", ".json")).read_text()


def test_figures_are_small_and_not_blank(done: dict[str, Any]) -> None:
    from PIL import Image

    for role in ("mask_figure", "registration_figure"):
        path = done["folder"] / done["status"]["outputs"][role]
        assert path.stat().st_size <= 150_000
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert pixels.std() > 20
        assert (np.ptp(pixels, axis=2) > 60).mean() > 0.01, "the outline is coloured"


def test_ghosts_in_the_air_are_seen_in_the_picture_of_the_background(done: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    assert (done["folder"] / done["status"]["outputs"]["background_figure"]).stat().st_size <= 150_000
    head = np.zeros((40, 48, 40))
    head[12:28, 12:36, 12:28] = 100.0
    head[2:8] += 4.0  # a ghost with a twenty-fifth of the head's brightness
    shown = []
    for white in (1.1, BACKGROUND_WHITE):
        path = tmp_path / f"{white}.png"
        mosaic(head, np.ones(3), [], np.ones(head.shape, bool), path, slices=3, white=white)
        shown.append(np.asarray(Image.open(path).convert("L")).astype(int)[80, :160])  # through the middle of a slice
    left_of_the_head = slice(32, 46)
    assert shown[0][left_of_the_head].max() < 40
    assert shown[1][left_of_the_head].max() > 80


def test_a_scan_preprocessed_twice_gives_the_same_bytes(done: dict[str, Any], tmp_path: Path) -> None:
    preprocess_scan(SCAN, done["raw"], tmp_path, EMBEDDED, done["options"], seed=1)
    written = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(path.suffix in (".gz", ".mat") for path in written) >= 8
    for name, path in written.items():
        if "status" not in name.parts:  # which tells how long each step took
            assert path.read_bytes() == (done["folder"] / name).read_bytes(), name


def test_truncated_scan_ends_as_a_failed_status_in_one_sentence(done: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "sub-09_T1w.nii.gz"
    broken.write_bytes(done["raw"].read_bytes()[:50_000])
    status = preprocess_scan("sub-09", broken, tmp_path / "preproc", EMBEDDED, OPTIONS, seed=1)
    assert status["status"] == "fail"
    assert len(status["reasons"]) == 1
    assert "truncated" in status["reasons"][0]
    assert json.loads((tmp_path / "preproc/status/sub-09.json").read_text()) == status


def test_failed_scan_keeps_no_images_of_an_earlier_run(tmp_path: Path) -> None:
    earlier = tmp_path / "sub-09" / "anat" / "sub-09_desc-brain_mask.nii.gz"
    alignment = tmp_path / "alignment" / "sub-09.json"
    neighbour = tmp_path / "figures" / "sub-09_ses-1_mask.png"
    for path in (earlier, alignment, neighbour):
        path.parent.mkdir(parents=True)
        path.touch()
    preprocess_scan("sub-09", tmp_path / "gone.nii.gz", tmp_path, EMBEDDED, OPTIONS, seed=1)
    assert not earlier.exists()
    assert not alignment.exists()
    assert neighbour.exists()


def test_unexpected_error_fails_the_scan_not_the_job(
    done: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("ITK says no")

    monkeypatch.setattr("brainscm.preprocess.brain.bias_field", explode)
    status = preprocess_scan(SCAN, done["raw"], tmp_path, EMBEDDED, OPTIONS, seed=1)
    assert status["status"] == "fail"
    assert "ITK says no" in status["reasons"][0]
    assert "in step bias_field" in status["reasons"][0]
    assert (tmp_path / status["outputs"]["mask_figure"]).is_file(), "a partial picture of the head"


def test_a_registration_that_mirrors_the_brain_is_refused(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left and right are exchanged where the header is wrong, and the brain fits all the same."""
    head, _ = made_up_head(template)
    raw = tmp_path / f"{SCAN}_T1w.nii.gz"
    nib.save(nib.Nifti1Image(head.data.astype(np.int16), head.affine), raw)

    def find_brain(status: Any, head: Image, *_: object) -> Brain:
        return Brain(head, np.ones(head.data.shape), head.with_data(head.data - 1), np.eye(4))

    monkeypatch.setattr("brainscm.preprocess.scan.find_brain", find_brain)
    monkeypatch.setattr("brainscm.preprocess.scan.register_brain", lambda *_: np.diag([-1.0, 1, 1, 1]))
    status = preprocess_scan(SCAN, raw, tmp_path, EMBEDDED, OPTIONS, seed=1)
    assert status["status"] == "fail"
    assert "mirrors the brain" in status["reasons"][0]


def test_full_disk_stops_the_job_and_blames_no_scan(
    done: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("brainscm.preprocess.scan.figures.mosaic", full)
    with pytest.raises(BrainSCMError, match=f"^{SCAN}: nothing can be written under .*No space left"):
        preprocess_scan(SCAN, done["raw"], tmp_path, EMBEDDED, OPTIONS, seed=1)
    assert not (tmp_path / "status").exists()


def test_unusable_template_stops_the_job(done: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        preprocess_scan(SCAN, done["raw"], tmp_path, "NoSuchTemplate", OPTIONS, seed=1)


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_restricted_transform_keeps_shape(kind: Any, template: Template) -> None:
    head, mask = template.heads[4]
    fixed = head.with_data(head.data * (mask.data > 0.5))
    squeeze = np.diag([0.95, 1.03, 1.0, 1.0])
    moving = head.with_data(sample(fixed, fixed.affine, fixed.data.shape, np.linalg.inv(squeeze), order=1))
    found = register_brain(fixed, moving, squeeze, kind, seed=1)
    lengths = np.linalg.svd(found[:3, :3], compute_uv=False)
    assert lengths == pytest.approx([1.0] * 3 if kind == "rigid" else [lengths.mean()] * 3, abs=1e-3)
    centre = np.array([0, -18, 8, 1.0])
    assert np.linalg.norm(found @ centre - squeeze @ centre) < 3


def test_brain_of_coarser_voxels_is_found_where_it_lies(template: Template) -> None:
    """The fixed brain is halved then; a slip of half a voxel in that would show as 1.7 mm."""
    head, mask = template.heads[2]
    fixed = head.with_data(head.data * (mask.data > 0.5))
    truth = np.array([[1.04, 0.03, 0, 3], [-0.02, 0.97, 0.04, -2], [0, -0.03, 1.02, 4], [0, 0, 0, 1]])
    coarse = template.heads[4][0]
    moving = coarse.with_data(sample(fixed, coarse.affine, coarse.data.shape, np.linalg.inv(truth), order=1))
    found = register_brain(fixed, moving, np.eye(4), "affine", seed=1)
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-90, 55) for z in (-40, 65)]).T
    assert np.linalg.norm((found - truth) @ corners, axis=0).max() < 1


def test_registration_is_the_same_twice(template: Template) -> None:
    head, _ = template.heads[4]
    start = np.diag([1.02, 1.0, 0.98, 1.0])
    first, second = (register_brain(head, head, start, "affine", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_matrix_survives_the_file(tmp_path: Path) -> None:
    matrix = pose()
    write_matrix(matrix, tmp_path / "x.mat")
    np.testing.assert_allclose(read_matrix(tmp_path / "x.mat"), matrix, atol=1e-6)


def test_ants_reads_our_transform_as_we_do(tmp_path: Path, template: Template) -> None:
    import ants

    from brainscm.preprocess.itk import to_ants

    head, _ = template.heads[8]
    smooth = head.with_data(ndimage.gaussian_filter(head.data, 1.0))
    write_matrix(pose(), tmp_path / "x.mat")
    image = to_ants(smooth)
    theirs = ants.apply_transforms(image, image, [str(tmp_path / "x.mat")]).numpy()
    ours = sample(smooth, smooth.affine, smooth.data.shape, pose(), order=1)
    inner = tuple(slice(3, -3) for _ in range(3))
    np.testing.assert_allclose(theirs[inner], ours[inner], atol=2)


def test_ants_loads_without_what_nothing_asks_of_it() -> None:
    asked = "import sys; from brainscm.preprocess.itk import load_ants; load_ants().registration; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], text=True, capture_output=True, check=True)
    assert not {"matplotlib", "sklearn", "statsmodels"} & set(done.stdout.split())


def test_source_is_told_relative_to_its_dataset() -> None:
    assert bids_uri(Path("/a/b/sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz"), "raw") == (
        "bids:raw:sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz"
    )
    assert bids_uri(Path("/a/b/scan.nii.gz"), "raw") == "bids:raw:scan.nii.gz"


def test_a_brain_that_was_stripped_before_keeps_its_outline(done: dict[str, Any], tmp_path: Path) -> None:
    head, mask = nib.load(done["raw"]), done["mask"]
    raw = tmp_path / "sub-02_T1w.nii.gz"
    nib.save(nib.Nifti1Image((head.get_fdata() * mask.data).astype(np.int16), head.affine), raw)
    status = preprocess_scan("sub-02", raw, tmp_path / "preproc", EMBEDDED, OPTIONS, seed=1)
    assert apply_limits(status["metrics"], QualityOptions()) == ("pass", [])
    native = nib.load(tmp_path / "preproc" / status["outputs"]["native_mask"]).get_fdata() > 0
    assert 2 * (native & (mask.data > 0)).sum() / (native.sum() + (mask.data > 0).sum()) > 0.98
    assert status["metrics"].keys() >= OF_GIVEN_BRAINS
    assert status["metrics"]["head_size"] == pytest.approx(done["status"]["metrics"]["head_size"], rel=0.05)


def test_a_brain_that_was_cut_loosely_is_told(done: dict[str, Any], tmp_path: Path) -> None:
    head, mask = nib.load(done["raw"]), done["mask"]
    mm = np.linalg.norm(mask.affine[:3, :3], axis=0)
    wider = ndimage.distance_transform_edt(mask.data == 0, sampling=mm) <= 5
    raw = tmp_path / "sub-02_T1w.nii.gz"
    nib.save(nib.Nifti1Image((head.get_fdata() * wider).astype(np.int16), head.affine), raw)
    status = preprocess_scan("sub-02", raw, tmp_path / "preproc", EMBEDDED, OPTIONS, seed=1)
    assert any("it is probably cut loosely" in reason for reason in status["reasons"])


def test_another_programs_mask_is_taken_in_place_of_finding_the_brain(done: dict[str, Any], tmp_path: Path) -> None:
    def preprocess(derivatives: Path) -> dict[str, Any]:
        return preprocess_scan(SCAN, done["raw"], tmp_path / "out", EMBEDDED, OPTIONS, 1, derivatives=derivatives)

    status = preprocess(done["folder"])
    assert apply_limits(status["metrics"], QualityOptions()) == ("pass", [])
    ours, given = (
        nib.load(folder / status["outputs"]["native_mask"]).get_fdata() > 0
        for folder in (tmp_path / "out", done["folder"])
    )
    assert 2 * (ours & given).sum() / (ours.sum() + given.sum()) > 0.98
    assert "no sub-01_ses-02_desc-brain_mask" in preprocess(tmp_path / "nowhere")["reasons"][0]
    elsewhere = tmp_path / "other" / "sub-01" / "ses-02" / "anat" / f"{SCAN}_desc-brain_mask.nii.gz"
    elsewhere.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4)), elsewhere)
    assert "does not lie on the grid" in preprocess(tmp_path / "other")["reasons"][0]


@pytest.mark.parametrize(("skull_strip", "is_head"), [("auto", True), ("ants", False)])
def test_a_head_that_looks_like_a_given_brain_is_stripped_if_the_network_may_be_asked(
    skull_strip: str, is_head: bool, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, mask = template.heads[4]
    raw = tmp_path / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(head.data.astype(np.float32), head.affine), raw)
    whole = ndimage.binary_dilation(mask.data > 0.5, iterations=4)  # 16 mm: skull and scalp
    monkeypatch.setattr(scan, "find_given", lambda *_: Given(whole))
    for name in ("find_brain", "take_brain"):
        monkeypatch.setattr(scan, name, lambda *_, asked=name: (_ for _ in ()).throw(ScanError(asked)))
    options = PreprocessOptions(voxel_mm=3.0, skull_strip=skull_strip)
    status = preprocess_scan("sub-01", raw, tmp_path / "preproc", EMBEDDED, options, seed=1)
    assert status["reasons"] == ["find_brain" if is_head else "take_brain"]
