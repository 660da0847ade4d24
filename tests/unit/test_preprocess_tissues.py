"""Tissue volumes: right where the tissues are known, in the scan's own millilitres, the same for every caller."""

import numpy as np
import pytest
from scipy import ndimage

from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import SegmentRegions, segment_tissues
from brainscm.regions import REGIONS

NAMES = [region.name for region in REGIONS]


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(EMBEDDED, 3.0)


@pytest.fixture(scope="module")
def brain(template: Template) -> np.ndarray:
    """A brain with exactly the template's tissues, at T1w-like intensities, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.04, template.shape)
    clean = 0.7 * template.gm + 1.0 * template.wm + 0.25 * template.csf
    return ((clean + noise) * template.brain_mask).astype(np.float32)


def test_known_tissues_are_found(template: Template, brain: np.ndarray) -> None:
    tissues = segment_tissues(brain, template.brain_mask, template)
    total = tissues.gm + tissues.wm + tissues.csf
    np.testing.assert_allclose(total[template.brain_mask], 1, atol=1e-4)
    assert not total[~template.brain_mask].any()
    for found, true in ((tissues.gm, template.gm), (tissues.wm, template.wm), (tissues.csf, template.csf)):
        sure = true > 0.8
        assert found[sure].mean() > 0.85
        assert found.sum() == pytest.approx(true.sum(), rel=0.2)


def test_volumes_are_in_the_scans_own_millilitres(template: Template, brain: np.ndarray) -> None:
    in_template = SegmentRegions(template)(brain, template.brain_mask)
    small_head = SegmentRegions(template)(brain, template.brain_mask, head_size=1.5)
    assert set(in_template) == set(NAMES)
    for region in NAMES:
        assert small_head[region] == pytest.approx(in_template[region] / 1.5)
    whole = sum(in_template[tissue] for tissue in ("gm", "wm", "csf"))
    assert whole == pytest.approx(template.brain_mask.sum() * template.voxel_ml, rel=1e-3)


def test_larger_ventricles_are_measured_larger(template: Template, brain: np.ndarray) -> None:
    core = (template.csf > 0.5) & template.ventricles
    sizes_ml, measured = [], []
    for steps in (1, 2, 3):
        grown = ndimage.binary_dilation(core, iterations=steps) & template.ventricles
        sizes_ml.append(grown.sum() * template.voxel_ml)
        measured.append(SegmentRegions(template)(np.where(grown, 0.25, brain), template.brain_mask))
    found = [volumes["ventricles"] for volumes in measured]
    assert np.diff(found) == pytest.approx(np.diff(sizes_ml), rel=0.25)
    assert measured[2]["medial_temporal_gm"] == pytest.approx(measured[0]["medial_temporal_gm"], rel=0.1)


def test_global_brightness_does_not_matter(template: Template, brain: np.ndarray) -> None:
    reference = SegmentRegions(template)(brain, template.brain_mask)
    brighter = SegmentRegions(template)(brain * 1.15, template.brain_mask)
    for region in NAMES:
        assert brighter[region] == pytest.approx(reference[region], rel=0.05)
