"""A simulated head is a smooth, invertible change of the canonical one, and has the volumes that its nodes declare."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from brainscm.errors import BrainSCMError
from brainscm.simulation import imaging
from brainscm.simulation.anatomy import BRAIN_LATTICE, FLOW_LATTICE, embedded_head
from brainscm.simulation.causal_model import draw_nodes, draw_noise, intervene
from brainscm.simulation.deformation import Lattice, exponential, jacobian_determinant
from brainscm.simulation.exterior import HEAD_LATTICE
from brainscm.simulation.imaging import LABELS, HeadInScanner
from brainscm.simulation.participant import ageing_displacement, distance_to_deep, draw_anatomy
from brainscm.simulation.scanner import acquire

pytestmark = pytest.mark.slow

SEED = 4
VOXEL_MM = 3.0


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def simulate(number: int, voxel_mm: float = VOXEL_MM):
    noise = draw_noise(SEED, number)
    nodes = draw_nodes(noise)
    acquisition = acquire(SEED, str(number), "ses-01", nodes.site, voxel_mm)
    anatomy = draw_anatomy(embedded_head(), SEED, str(number), nodes.head_size)
    return noise, nodes, anatomy, acquisition, HeadInScanner(anatomy, acquisition)


@pytest.fixture(scope="module")
def participant():
    return simulate(1)


def test_an_exponential_is_undone_by_its_negative():
    lattice = Lattice.spanning((0, 0, 0), (60, 60, 60), 3.0)
    noise = torch.randn(3, *lattice.shape, generator=torch.Generator().manual_seed(1)).numpy()
    velocity = ndimage.gaussian_filter(noise, (0, 3, 3, 3))
    velocity = torch.from_numpy(velocity / np.abs(velocity).max() * 6)
    there, back = exponential(velocity, lattice), exponential(-velocity, lattice)
    nodes = lattice.points() + there.movedim(0, -1)
    returned = nodes + lattice.sample(back, nodes).movedim(0, -1) - lattice.points()
    inner = (slice(4, -4),) * 3
    assert float(there.norm(dim=0).max()) > 3
    assert float(returned[inner].norm(dim=-1).max()) < 0.3
    assert bool((jacobian_determinant(there, 3.0) > 0).all())


@pytest.mark.parametrize("voxel_mm", [1.0, 3.0])
def test_no_brain_is_where_none_is_looked_up(voxel_mm):
    seen, _ = imaging._as_voxels_see(embedded_head(), voxel_mm)
    near = FLOW_LATTICE.sample(imaging._near_brain(embedded_head()), BRAIN_LATTICE.points())[0] > 0
    assert 0.2 < float(near.float().mean()) < 0.8
    assert float(seen[:, ~near].abs().max()) < 1e-6


def test_no_exterior_is_where_none_is_looked_up():
    _, exterior = imaging._as_voxels_see(embedded_head(), VOXEL_MM)
    points = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(1)) * 340 - torch.tensor([170, 170, 220])
    near = HEAD_LATTICE.sample(imaging._near_exterior(embedded_head(), VOXEL_MM), points, "nearest")[0] > 0
    assert 0.05 < float(near.float().mean()) < 0.5
    assert not HEAD_LATTICE.sample(exterior, points[~near]).any()


@pytest.mark.parametrize("ventricles_ml", [20.0, 90.0])
def test_the_strengths_do_not_depend_on_where_the_volumes_are_looked_up(participant, monkeypatch, ventricles_ml):
    _, nodes, anatomy, _, _ = participant
    nodes = replace(nodes, ventricles=ventricles_ml)
    near = ageing_displacement(anatomy, nodes)
    everywhere = torch.zeros_like(distance_to_deep(anatomy.head))
    monkeypatch.setattr("brainscm.simulation.participant.distance_to_deep", lambda _: everywhere)
    assert torch.equal(near, ageing_displacement(anatomy, nodes))


def test_the_jacobian_of_a_linear_map_is_its_determinant():
    lattice = Lattice.spanning((-10, -10, -10), (10, 10, 10), 2.0)
    matrix = torch.tensor([[0.1, 0.2, 0.0], [-0.1, 0.3, 0.05], [0.0, 0.1, -0.2]])
    displacement = (lattice.points() @ matrix.T).movedim(-1, 0)
    expected = float(torch.linalg.det(torch.eye(3) + matrix))
    np.testing.assert_allclose(jacobian_determinant(displacement, 2.0).numpy(), expected, rtol=1e-4)


def test_the_oldest_and_sickest_head_is_not_folded(participant):
    noise, nodes, anatomy, _, _ = participant
    oldest = intervene(nodes, noise, {"age": 95, "diagnosis": "AD"}, "total")
    jacobian = jacobian_determinant(ageing_displacement(anatomy, oldest), FLOW_LATTICE.spacing_mm)
    assert float(jacobian.min()) > 0


def test_a_change_that_would_fold_space_is_refused(participant):
    _, nodes, anatomy, _, _ = participant
    with pytest.raises(BrainSCMError, match="ask for a smaller change"):
        ageing_displacement(anatomy, replace(nodes, ventricles=900.0))


def test_six_heads_lie_in_the_field_of_view_and_have_the_declared_volumes():
    declared, labelled, measured = [], [], []
    for number in range(1, 7):
        _, nodes, _, acquisition, in_scanner = simulate(number)
        head = in_scanner.read(nodes)
        voxel_ml = abs(np.linalg.det(acquisition.affine)) / 1000
        declared.append((nodes.ventricles, nodes.medial_temporal_gm))
        labelled.append([(head.labels == label).sum() * voxel_ml for label in (4, 5)])
        measured.append((head.volumes_ml["ventricles"], head.volumes_ml["medial_temporal_gm"]))
        cavity = sum(head.volumes_ml[tissue] for tissue in ("gm", "wm", "csf", "ventricles"))
        assert cavity == pytest.approx(nodes.head_size, rel=0.03)
        assert not any(np.take(head.labels, end, axis).any() for axis in range(3) for end in (0, -1))
    assert (LABELS[4], LABELS[5]) == ("ventricles", "medial_temporal_gm")
    np.testing.assert_allclose(measured, declared, rtol=0.05)
    for region in range(2):
        assert np.corrcoef(np.array(declared)[:, region], np.array(labelled)[:, region])[0, 1] > 0.95


def test_ageing_and_disease_move_tissue_the_way_they_should(participant):
    noise, nodes, _, _, in_scanner = participant
    volumes = {
        (age, diagnosis): in_scanner.read(
            intervene(nodes, noise, {"age": age, "diagnosis": diagnosis}, "total")
        ).volumes_ml
        for age, diagnosis in ((30, "CN"), (80, "CN"), (80, "AD"))
    }
    young, old, ill = volumes.values()
    for before, after in ((young, old), (old, ill)):
        assert after["ventricles"] > 1.2 * before["ventricles"]
        assert after["csf"] > 1.01 * before["csf"]
        assert after["medial_temporal_gm"] < 0.9 * before["medial_temporal_gm"]
        assert after["gm"] < 0.98 * before["gm"]


def test_a_counterfactual_has_the_scan_s_noise_and_changes_the_brain_only(participant):
    noise, nodes, _, _, in_scanner = participant
    factual = in_scanner.read(nodes)
    changed = in_scanner.read(intervene(nodes, noise, {"age": 85}, "total"))
    near_brain = ndimage.binary_dilation(factual.labels > 0, iterations=3)
    assert np.array_equal(factual.image[~near_brain], changed.image[~near_brain])
    inside = factual.labels > 0
    assert (factual.image[inside] != changed.image[inside]).mean() > 0.5


def test_the_other_site_changes_contrast_and_not_anatomy(participant):
    noise, nodes, _, _, in_scanner = participant
    other = "B" if nodes.site == "A" else "A"
    here, there = in_scanner.read(nodes), in_scanner.read(intervene(nodes, noise, {"site": other}, "total"))
    assert np.array_equal(here.labels, there.labels)
    assert here.volumes_ml == there.volumes_ml

    def look(head):
        white = np.median(head.image[head.labels == 3])
        air = head.image[:5, :5, :5]
        return np.median(head.image[head.labels == 2]) / white, air.mean() / white

    seen = {nodes.site: look(here), other: look(there)}
    assert seen["A"][0] > seen["B"][0] + 0.03
    assert 1.3 * seen["A"][1] < seen["B"][1]


def test_true_volumes_do_not_depend_on_the_scanner(participant):
    _, nodes, anatomy, _, in_scanner = participant
    elsewhere = HeadInScanner(anatomy, acquire(SEED + 1, "1", "ses-02", "B", 2.0)).read(nodes).volumes_ml
    here = in_scanner.read(nodes).volumes_ml
    for region, volume in here.items():
        assert elsewhere[region] == pytest.approx(volume, rel=0.05), region
