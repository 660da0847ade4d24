"""Tissue volumes: right where the tissues are known, in the scan's own millilitres, the same for every caller."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import MeasureTissues, find_levels, segment_tissues
from brainscm.regions import REGIONS, Geometry

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
    in_template = MeasureTissues(template)(brain, Geometry(template.brain_mask))
    small_head = in_template.at(Geometry(template.brain_mask, head_size=1.5)).volumes_ml(brain)
    volumes = in_template.volumes_ml(brain)
    assert set(volumes) == set(NAMES)
    for region in NAMES:
        assert small_head[region] == pytest.approx(volumes[region] / 1.5)
    whole = sum(volumes[tissue] for tissue in ("gm", "wm", "csf"))
    assert whole == pytest.approx(template.brain_mask.sum() * template.voxel_ml, rel=1e-5)


def test_regions_go_where_the_alignment_lays_them(template: Template, brain: np.ndarray) -> None:
    """The brain lies 9 mm further forward than the template, and its alignment says so."""
    voxels = 3
    scan, mask = (np.roll(each, voxels, axis=1) for each in (brain, template.brain_mask))
    back = np.zeros((3, *template.grid.nodes.shape), np.float32)
    back[1] = -voxels
    measure = MeasureTissues(template)(brain, Geometry(template.brain_mask))
    own = measure.volumes_ml(brain)
    carried = measure.at(Geometry(mask, to_template=back)).volumes_ml(scan)
    for region in NAMES:
        assert carried[region] == pytest.approx(own[region], rel=1e-4), region
    left_behind = measure.at(Geometry(mask)).volumes_ml(scan)
    for region in ("ventricles", "medial_temporal_gm"):
        assert left_behind[region] != pytest.approx(own[region], rel=0.01), region


def ventricles_and_gyri(template: Template, around_mm: float = 0.0) -> tuple[np.ndarray, dict[str, float]]:
    """A brain in 3 mm voxels, drawn in ones of 1.5 mm, with its outer boundary moved inwards; and its volumes in ml.

    White matter under a cortex of 9 mm with furrows of 3 mm and more, and round ventricles.
    """
    fine = (np.indices(tuple(2 * n for n in template.shape)).astype(np.float32) - 0.5) / 2
    x, y, z = (axis * template.voxel_mm for axis in fine)
    x, y, z = (axis + low for axis, low in zip((x, y, z), template.affine[:3, 3], strict=True))
    furrows = 2.5 * (np.cos(x / 4) * np.cos(y / 5) + 0.3)
    depth = (1 - np.sqrt((x / 66) ** 2 + ((y + 18) / 82) ** 2 + ((z - 8) / 60) ** 2)) * 66 + furrows
    middle = 16 - np.sqrt((np.abs(x) - 12) ** 2 + ((y + 10) / 2) ** 2 + (z - 14) ** 2)
    inside = (depth > around_mm) & (middle < 0)
    white = (depth > 9) & (middle < 0)
    noise = np.random.default_rng(1).normal(0, 0.03, template.shape)

    def seen(fine: np.ndarray) -> np.ndarray:
        x, y, z = template.shape
        return fine.astype(np.float32).reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))

    wm, brain = seen(white), seen(inside)
    volume = 0.35 + 0.42 * brain + 0.23 * wm + noise
    shares = {"wm": wm, "gm": brain - wm, "csf": 1 - brain}
    truth = {name: float(share[template.brain_mask].sum()) * template.voxel_ml for name, share in shares.items()}
    return (volume * template.brain_mask).astype(np.float32), truth


def test_a_moved_boundary_is_measured_as_it_was_moved(template: Template) -> None:
    scan, before = ventricles_and_gyri(template)
    measure = MeasureTissues(template)(scan, Geometry(template.brain_mask))
    own = measure.volumes_ml(scan)
    for moved_mm in (0.3, 1.0):
        image, after = ventricles_and_gyri(template, moved_mm)
        found = measure.volumes_ml(image)
        for tissue in ("gm", "csf"):
            assert found[tissue] - own[tissue] == pytest.approx(after[tissue] - before[tissue], rel=0.12)
    assert own["csf"] == pytest.approx(before["csf"], rel=0.05)


def test_levels_are_held_so_that_a_loss_everywhere_is_seen(template: Template, brain: np.ndarray) -> None:
    """All grey matter darkens as if a fifth of it had gone: classes fitted anew would call that grey matter, too."""
    measure = MeasureTissues(template)(brain, Geometry(template.brain_mask))
    own, after = (measure.volumes_ml(brain - loss * template.gm * (0.7 - 0.25)) for loss in (0, 0.2))
    anew = MeasureTissues(template)(brain - 0.2 * template.gm * (0.7 - 0.25), Geometry(template.brain_mask))
    assert after["csf"] - own["csf"] > 100
    assert anew.levels.gm < measure.levels.gm - 0.05


def test_larger_ventricles_are_measured_larger(template: Template, brain: np.ndarray) -> None:
    core = (template.csf > 0.5) & template.ventricles
    measure = MeasureTissues(template)(brain, Geometry(template.brain_mask))
    sizes_ml, cortex_ml, measured = [], [], []
    for steps in (1, 2, 3):
        grown = ndimage.binary_dilation(core, iterations=steps) & template.ventricles
        sizes_ml.append(grown.sum() * template.voxel_ml)
        cortex_ml.append(template.gm[template.medial_temporal & ~grown].sum() * template.voxel_ml)
        measured.append(measure.volumes_ml(np.where(grown, 0.25, brain)))
    found = [volumes["ventricles"] for volumes in measured]
    assert np.diff(found) == pytest.approx(np.diff(sizes_ml), rel=0.15)
    eaten_ml = measured[2]["medial_temporal_gm"] - measured[0]["medial_temporal_gm"]
    assert eaten_ml == pytest.approx(cortex_ml[2] - cortex_ml[0], rel=0.4)


def test_global_brightness_does_not_matter(template: Template, brain: np.ndarray) -> None:
    measured = [
        MeasureTissues(template)(scan, Geometry(template.brain_mask)).volumes_ml(scan) for scan in (brain, brain * 1.15)
    ]
    for region in NAMES:
        assert measured[1][region] == pytest.approx(measured[0][region], rel=0.02)


def test_thin_fluid_does_not_set_the_level_of_fluid(template: Template, brain: np.ndarray) -> None:
    """Mixed with its walls it is brighter, in a participant with narrow sulci more than in others."""
    sulci = (template.csf > 0.2) & ~template.ventricles
    levels = []
    for brightness in (0.3, 0.45):
        volume = np.where(sulci, np.maximum(brain, brightness), brain)
        tissues = segment_tissues(volume, template.brain_mask, template)
        levels.append(find_levels(volume, tissues, template).csf)
    assert levels[1] == pytest.approx(levels[0], abs=0.01)
    nowhere = replace(template, ventricles=np.zeros_like(template.brain_mask))
    assert find_levels(volume, tissues, nowhere).csf > levels[1] + 0.05  # what the class's mean would say


@pytest.mark.parametrize("kind", ["inverted", "uniform"])
def test_what_is_no_t1w_is_measured_in_numbers(template: Template, brain: np.ndarray, kind: str) -> None:
    scan = (1.3 - brain if kind == "inverted" else np.ones_like(brain)) * template.brain_mask
    volumes = MeasureTissues(template)(scan, Geometry(template.brain_mask)).volumes_ml(scan)
    assert np.isfinite([*volumes.values()]).all()
    assert min(volumes.values()) >= 0
