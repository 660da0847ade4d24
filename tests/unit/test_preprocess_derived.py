"""Of a folder as fMRIPrep or sMRIPrep leaves it the T1w and mask on the scan's own grid are taken, and only its own."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.config import PreprocessOptions
from brainscm.errors import ScanError
from brainscm.preprocess.derived import require_files
from brainscm.preprocess.scan import preprocess_scan
from brainscm.preprocess.template_files import EMBEDDED

SHAPE = (40, 48, 44)
NATIVE = np.diag([4.0, 4.0, 4.0, 1.0])
TEMPLATE = np.diag([2.0, 2.0, 2.0, 1.0])
SPACES = ("", "space-MNI152NLin2009cAsym_", "space-MNI152NLin2009cAsym_res-2_", "space-MNI152NLin6Asym_res-01_")


def write_image(path: Path, affine: np.ndarray, told: dict[str, object] | None = None, code: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    at = np.indices(SHAPE) - np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    image = nib.Nifti1Image(((at**2).sum(0) < 15**2).astype(np.uint8), affine)
    image.set_sform(affine, code=code)
    nib.save(image, path)
    if told is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(told))
    return path


def write_fmriprep(top: Path, stem: str, sources: list[str], spaces: tuple[str, ...] = SPACES) -> Path:
    """What fMRIPrep 23 to 25 and sMRIPrep write of the anatomy: names as in the lists that their own tests compare."""
    described = {"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1.3"}]}
    (top / "logs").mkdir(parents=True, exist_ok=True)
    (top / "dataset_description.json").write_text(json.dumps(described))
    names = [part for part in stem.split("_") if part.startswith(("sub-", "ses-"))]
    anat = top.joinpath(*names, "anat")
    (top / f"{names[0]}.html").touch()
    for space in spaces:
        affine, code = (TEMPLATE, 4) if space else (NATIVE, 1)
        own = {"Resolution": "Template MNI152NLin2009cAsym"} if space else {}
        write_image(anat / f"{stem}_{space}desc-preproc_T1w.nii.gz", affine, {"SkullStripped": False} | own, code)
        of_mask = {"RawSources": sources, "Type": "Brain"} | own
        write_image(anat / f"{stem}_{space}desc-brain_mask.nii.gz", affine, of_mask, code)
        for suffix in ("dseg.nii.gz", "label-GM_probseg.nii.gz"):
            (anat / f"{stem}_{space}{suffix}").touch()
    for suffix in (
        "desc-ribbon_mask.nii.gz", "desc-aseg_dseg.nii.gz", "desc-preproc_T2w.nii.gz", "hemi-L_white.surf.gii",
        "from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5", "from-fsnative_to-T1w_mode-image_xfm.txt",
    ):  # fmt: skip
        (anat / f"{stem}_{suffix}").touch()
    bold = top.joinpath(*names, "func", f"{'_'.join(names)}_task-rest_desc-brain_mask.nii.gz")
    bold.parent.mkdir(exist_ok=True)
    bold.touch()
    return anat


def raw(scan: str, entities: str = "") -> Path:
    return Path("/data/bids", *scan.split("_"), "anat", f"{scan}_{entities}T1w.nii.gz")


@pytest.mark.parametrize("source", ["{}", "/scratch/job/bids/sub-01/anat/{}", "bids:raw:sub-01/anat/{}"])
@pytest.mark.parametrize(("scan", "entities"), [("sub-01", ""), ("sub-01_ses-2", ""), ("sub-01_ses-2", "acq-fast_")])
def test_the_pair_on_the_scans_own_grid_is_taken(scan: str, entities: str, source: str, tmp_path: Path) -> None:
    stem = f"{scan}_{entities}".removesuffix("_")
    anat = write_fmriprep(tmp_path, stem, [source.format(raw(scan, entities).name)])
    t1w, mask = require_files(tmp_path, scan, [raw(scan, entities)])
    assert (t1w, mask) == (anat / f"{stem}_desc-preproc_T1w.nii.gz", anat / f"{stem}_desc-brain_mask.nii.gz")


@pytest.mark.parametrize("name", ["sub-01_desc-brain_mask.nii", "sub-01_space-T1w_desc-brain_mask.nii.gz"])
def test_a_mask_without_compression_or_in_the_scans_own_space_is_taken(name: str, tmp_path: Path) -> None:
    mask = tmp_path / "sub-01" / "anat" / name
    mask.parent.mkdir(parents=True)
    mask.touch()
    assert require_files(tmp_path, "sub-01", [raw("sub-01")]) == (None, mask)


def test_a_mask_that_names_no_source_is_known_by_its_name(tmp_path: Path) -> None:
    mask = tmp_path / "sub-01" / "anat" / "sub-01_acq-fast_desc-brain_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.touch()
    assert require_files(tmp_path, "sub-01", [raw("sub-01", "acq-fast_run-1_")])[1] == mask
    with pytest.raises(ScanError, match="is of another T1w by its name, and this study takes sub-01_acq-slow_T1w"):
        require_files(tmp_path, "sub-01", [raw("sub-01", "acq-slow_")])


def test_a_mean_of_runs_is_that_of_the_session(tmp_path: Path) -> None:
    runs = [raw("sub-01", f"run-{k}_") for k in (1, 2)]
    anat = write_fmriprep(tmp_path, "sub-01", [str(run) for run in runs])
    assert require_files(tmp_path, "sub-01", runs)[1] == anat / "sub-01_desc-brain_mask.nii.gz"
    runs = [raw("sub-02_ses-1", f"run-{k}_") for k in (1, 2)]
    anat = write_fmriprep(tmp_path, "sub-02", [str(run) for run in runs])  # whose name has no session then
    assert require_files(tmp_path, "sub-02_ses-1", runs)[1] == anat / "sub-02_desc-brain_mask.nii.gz"


def test_what_is_not_of_this_scan_or_not_on_its_grid_is_refused(tmp_path: Path) -> None:
    def refusal(top: str, scan: str, entities: str = "") -> str:
        with pytest.raises(ScanError) as refused:
            require_files(tmp_path / top, scan, [raw(scan, entities)])
        assert "\n" not in str(refused.value)
        return str(refused.value)

    write_fmriprep(tmp_path / "templates", "sub-01", [], SPACES[1:])
    assert "template's space (sub-01_space-MNI152NLin2009cAsym_desc-brain" in refusal("templates", "sub-01")
    write_fmriprep(tmp_path / "mean", "sub-01", [f"sub-01_ses-{k}_T1w.nii.gz" for k in (1, 2)])
    assert "one image of all sessions is not taken" in refusal("mean", "sub-01_ses-1")
    assert "run the program" in refusal("mean", "sub-02")
    write_fmriprep(tmp_path / "other", "sub-01_acq-fast", ["sub-01/anat/sub-01_acq-fast_T1w.nii.gz"])
    assert "is of sub-01_acq-fast_T1w.nii.gz, and this study takes sub-01_T1w" in refusal("other", "sub-01")
    (tmp_path / "other/sub-01/anat/sub-01_acq-slow_desc-brain_mask.nii.gz").touch()
    assert "several files of sub-01" in refusal("other", "sub-01", "acq-fast_")
    (tmp_path / "other/sub-01/anat/sub-01_acq-fast_desc-brain_mask.nii.gz").unlink()
    assert "differ in their names" in refusal("other", "sub-01", "acq-fast_")


def test_a_mask_of_another_grid_or_without_content_fails_the_scan_in_one_sentence(tmp_path: Path) -> None:
    scan = write_image(tmp_path / "bids/sub-01/anat/sub-01_T1w.nii.gz", NATIVE)
    anat = write_fmriprep(tmp_path / "fmriprep", "sub-01", ["sub-01/anat/sub-01_T1w.nii.gz"])
    mask = anat / "sub-01_desc-brain_mask.nii.gz"

    def reasons() -> list[str]:
        options = PreprocessOptions(voxel_mm=4)
        derivatives = tmp_path / "fmriprep"
        status = preprocess_scan("sub-01", scan, tmp_path / "out", EMBEDDED, options, 1, derivatives=derivatives)
        assert status["status"] == "fail"
        return list(status["reasons"])

    mask.write_bytes((anat / "sub-01_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz").read_bytes())
    (told,) = reasons()
    assert "sub-01_desc-brain_mask.nii.gz: does not lie on the grid of sub-01_desc-preproc_T1w.nii.gz" in told
    mask.unlink()
    mask.symlink_to(tmp_path / ".git" / "annex" / "nowhere")
    (told,) = reasons()
    assert "its content is not there; fetch it" in told
