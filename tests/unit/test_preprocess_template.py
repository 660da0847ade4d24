"""The template's grid, priors and targets; and every way to name another template, right or wrong."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.config import CustomTemplate
from brainscm.errors import ConfigError
from brainscm.preprocess.template import EMBEDDED, Template, load_template

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded() -> Template:
    return load_template(EMBEDDED, 3.0)


@pytest.mark.parametrize(("voxel_mm", "shape", "label"), [(2.0, (80, 96, 88), "2mm"), (3.0, (56, 64, 56), "3mm")])
def test_grid_holds_the_brain_in_multiples_of_eight(voxel_mm: float, shape: tuple[int, ...], label: str) -> None:
    template = load_template(EMBEDDED, voxel_mm)
    assert template.shape == shape
    assert template.label == label
    assert template.brain_mask.sum() * template.voxel_ml == pytest.approx(1887, rel=0.02)
    corners = template.brain_mask.copy()
    corners[1:-1, 1:-1, 1:-1] = False
    assert not corners.any()
    assert nib.aff2axcodes(template.affine) == ("R", "A", "S")


def test_label_has_no_point() -> None:
    assert Template.label.fget(type("Half", (), {"voxel_mm": 1.5})) == "1p5mm"


def test_priors_share_out_the_brain(embedded: Template) -> None:
    total = embedded.gm + embedded.wm + embedded.csf
    np.testing.assert_allclose(total[embedded.brain_mask], 1, atol=1e-5)
    assert not total[~embedded.brain_mask].any()
    white = embedded.brain[embedded.wm > 0.95]
    grey = embedded.brain[embedded.gm > 0.95]
    assert np.median(white) == pytest.approx(1, abs=0.02)
    assert np.median(grey) < 0.85


def test_ventricle_region_holds_the_ventricles_and_no_sulci(embedded: Template) -> None:
    def at(x: float, y: float, z: float) -> bool:
        index = np.linalg.inv(embedded.affine) @ [x, y, z, 1]
        return bool(embedded.ventricles[tuple(np.round(index[:3]).astype(int))])

    assert at(12, -20, 22), "body of the right lateral ventricle"
    assert at(-12, -20, 22), "body of the left lateral ventricle"
    assert at(-26, -48, 6), "left atrium"
    assert at(0, -44, -30), "fourth ventricle"
    assert not at(0, -42, 2), "cistern behind the splenium"
    assert not at(-42, 0, 0), "Sylvian fissure"
    assert not at(0, 30, 40), "interhemispheric fissure"
    own = embedded.csf[embedded.ventricles].sum() * embedded.voxel_ml
    assert 10 < own < 45


def test_pseudo_head_has_a_dark_skull_and_a_bright_scalp(embedded: Template) -> None:
    from scipy import ndimage

    head, brain = embedded.heads[2]
    distance = ndimage.distance_transform_edt(brain.data < 0.5) * 2
    brightness = [np.median(head.data[(distance > a) & (distance <= b)]) for a, b in ((0, 7), (8, 13), (17, 30))]
    white = np.percentile(head.data[brain.data > 0.9], 90)
    assert brightness[0] < 0.2 * white < 0.6 * white < brightness[1]
    assert brightness[2] == 0


def template_files(folder: Path, embedded: Template, shift: float = 0.0) -> tuple[Path, Path]:
    affine = embedded.affine.copy()
    affine[:3, 3] += shift
    paths = folder / "T1w.nii.gz", folder / "mask.nii.gz"
    nib.save(nib.Nifti1Image(embedded.brain * 500, affine), paths[0])
    # As some tools write masks: 255 inside.
    nib.save(nib.Nifti1Image(255 * embedded.brain_mask.astype(np.uint8), affine), paths[1])
    return paths


def test_templateflow_copy_is_found_by_name_and_borrows_tissues_by_registration(
    tmp_path: Path, embedded: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tpl-Shifted"
    folder.mkdir()
    t1w, mask = template_files(tmp_path, embedded, shift=9.0)
    t1w.rename(folder / "tpl-Shifted_res-01_desc-brain_T1w.nii.gz")
    mask.rename(folder / "tpl-Shifted_res-01_desc-brain_mask.nii.gz")
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    own = load_template("Shifted", 3.0)
    assert own.name == "Shifted"
    white, grey = own.brain[own.wm > 0.9], own.brain[own.gm > 0.9]
    assert len(white) > 1000
    assert np.median(grey) < 0.85 * np.median(white)
    ventricles_ml = [part.csf[part.ventricles].sum() * part.voxel_ml for part in (own, embedded)]
    assert ventricles_ml[0] == pytest.approx(ventricles_ml[1], rel=0.15)


def test_unknown_template_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="MNI152 is neither MNI152NLin2009aSym"):
        load_template("MNI152", 2.0)
    monkeypatch.delenv("TEMPLATEFLOW_HOME")
    with pytest.raises(ConfigError, match="not set"):
        load_template("MNI152", 2.0)


def test_template_with_a_mask_on_another_grid_is_a_config_error(tmp_path: Path, embedded: Template) -> None:
    t1w, mask = template_files(tmp_path, embedded)
    nib.save(nib.Nifti1Image(np.ones((10, 10, 10), np.uint8), np.eye(4)), mask)
    with pytest.raises(ConfigError, match="not on one grid"):
        load_template(CustomTemplate(name="Own", t1w=t1w, brain_mask=mask), 2.0)


def test_missing_template_file_is_a_config_error(tmp_path: Path, embedded: Template) -> None:
    t1w, mask = template_files(tmp_path, embedded)
    mask.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_template(CustomTemplate(name="Own", t1w=t1w, brain_mask=mask), 2.0)


def test_kept_template_has_the_same_numbers_and_survives_a_broken_file(tmp_path: Path, embedded: Template) -> None:
    for _ in range(2):  # made and stored, then taken from there
        kept = load_template(EMBEDDED, 3.0, tmp_path)
    (path,) = tmp_path.iterdir()
    for name in ("affine", "brain", "brain_mask", "gm", "wm", "csf", "ventricles", "medial_temporal"):
        ours, expected = getattr(kept, name), getattr(embedded, name)
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    assert (kept.name, kept.shape, kept.voxel_mm) == (embedded.name, embedded.shape, embedded.voxel_mm)
    for mm, pair in embedded.heads.items():
        for ours, expected in zip(kept.heads[mm], pair, strict=True):
            np.testing.assert_array_equal(ours.data, expected.data)
            np.testing.assert_array_equal(ours.affine, expected.affine)
    path.write_bytes(path.read_bytes()[:1000])
    np.testing.assert_array_equal(load_template(EMBEDDED, 3.0, tmp_path).brain, embedded.brain)


def test_kept_template_is_that_of_its_grid_and_files(tmp_path: Path, embedded: Template) -> None:
    coarse = load_template(EMBEDDED, 4.0, tmp_path)
    assert load_template(EMBEDDED, 3.0, tmp_path).shape == embedded.shape != coarse.shape
    assert len(list(tmp_path.iterdir())) == 2
