"""An atlas that does not fit is refused before any scan is touched; labels are counted under the names given."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.config import AtlasOptions
from brainscm.errors import ConfigError
from brainscm.images import Image
from brainscm.preprocess.atlas import Atlas
from brainscm.preprocess.template import EMBEDDED, Template, load_template

pytestmark = pytest.mark.slow

LABELS = "index\tname\n0\tUnknown\n7\tLeft Half\n11\tright.half\n"


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(EMBEDDED, 4.0)


def atlas_files(folder: Path, template: Template, table: str = LABELS, shift_mm: float = 0.0) -> AtlasOptions:
    """The template's brain in two halves, with a label (3) that the table leaves out."""
    left = np.arange(template.shape[0])[:, None, None] < template.shape[0] // 2
    data = np.where(left, 7, 11) * template.brain_mask
    data[template.ventricles] = 3
    affine = template.affine.copy()
    affine[:3, 3] += shift_mm
    nib.save(nib.Nifti1Image(data.astype(np.int16), affine), folder / "labels.nii.gz")
    (folder / "labels.tsv").write_text(table)
    return AtlasOptions(path=folder / "labels.nii.gz", labels=folder / "labels.tsv")


def test_labels_of_the_table_are_kept_under_column_names(tmp_path: Path, template: Template) -> None:
    atlas = Atlas.load(atlas_files(tmp_path, template), template)
    assert atlas.names == {7: "left_half", 11: "right_half"}
    assert set(np.unique(atlas.labels.data)) == {0, 7, 11}
    expected = (template.brain_mask & ~template.ventricles).sum() * template.voxel_ml
    assert sum(atlas.volumes_ml(atlas.labels).values()) == pytest.approx(expected, rel=0.03)


def test_absent_region_has_volume_zero(tmp_path: Path, template: Template) -> None:
    atlas = Atlas.load(atlas_files(tmp_path, template), template)
    data = np.zeros((4, 4, 4), np.float32)
    data[0] = 7
    assert atlas.volumes_ml(Image(data, np.diag([5.0, 5.0, 5.0, 1.0]))) == pytest.approx(
        {"left_half": 2.0, "right_half": 0.0}
    )


def test_atlas_of_another_space_is_refused(tmp_path: Path, template: Template) -> None:
    with pytest.raises(ConfigError, match=r"only \d+% of the labels .* lie in the brain of MNI152NLin2009aSym"):
        Atlas.load(atlas_files(tmp_path, template, shift_mm=60.0), template)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("index\tname\n7\tVentricles\n", "'ventricles' names two regions"),
        ("index\tname\n7\ta b\n11\ta-b\n", "'a_b' names two regions"),
        ("index\tname\n99\tnowhere\n", "must be one 3D label map that holds labels of"),
        ("label\tname\n7\ta\n", "needs the columns index and name"),
    ],
)
def test_table_that_does_not_fit_is_refused(tmp_path: Path, template: Template, table: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Atlas.load(atlas_files(tmp_path, template, table), template)
