"""Runs of one session become one scan with less noise; what is no run of it is left out and told."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess.described import notes_of_sidecars
from brainscm.preprocess.runs import Session, read_session
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.resampling import sample

pytestmark = pytest.mark.slow

NOISE = 12.0


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(EMBEDDED, 4.0)


@pytest.fixture(scope="module")
def runs(template: Template, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A head; a file cut short; the head turned, moved, brighter and with its own noise; and something else."""
    folder = tmp_path_factory.mktemp("runs")
    head = template.heads[4][0]
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", [3, -2, 4], degrees=True).as_matrix()
    moved[:3, 3] = (2.3, -4.1, 3.7)
    rng = np.random.default_rng(0)
    again = sample(head, head.affine, head.data.shape, np.linalg.inv(moved), order=3)
    noisy = [part + rng.normal(0, NOISE, head.data.shape) for part in (head.data, again)]
    other = np.linalg.norm((np.indices(head.data.shape).T - np.array(head.data.shape) / 2), axis=3).T < 20
    paths = [folder / f"sub-1_run-{k}_T1w.nii.gz" for k in range(4)]
    for path, data in zip(paths, (noisy[0], noisy[0], 1.7 * noisy[1], 100.0 * other), strict=True):
        nib.save(nib.Nifti1Image(data.astype(np.float32), head.affine), path)
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    return paths


@pytest.fixture(scope="module")
def session(runs: list[Path]) -> Session:
    return read_session(runs, seed=1)


def test_average_has_less_noise_and_the_first_runs_grid(session: Session, template: Template) -> None:
    head = template.heads[4][0]
    np.testing.assert_allclose(session.scan.affine, head.affine)
    inner = template.heads[4][1].data > 0.5
    noise = (session.scan.data - head.data)[inner].std()
    assert noise < 0.8 * NOISE  # 0.71 for two runs of one grid; interpolation smooths the second a little
    assert session.scan.data[inner].mean() == pytest.approx(head.data[inner].mean(), rel=0.03)


def test_unreadable_and_foreign_runs_are_told(session: Session, runs: list[Path]) -> None:
    assert session.sources == [runs[0], runs[2]]
    assert len(session.notes) == 2
    assert "truncated" in session.notes[0]
    assert f"{runs[3]} correlates" in session.notes[1]


def test_first_readable_run_leads(runs: list[Path]) -> None:
    session = read_session([runs[1], runs[0]], seed=1)
    assert session.sources == [runs[0]]
    np.testing.assert_array_equal(session.scan.data, nib.load(runs[0]).get_fdata(dtype=np.float32))


def test_a_run_of_larger_voxels_is_left_out_though_it_comes_first(runs: list[Path], tmp_path: Path) -> None:
    fine = nib.load(runs[0])
    coarse = tmp_path / "sub-1_run-0_T1w.nii.gz"
    thick = fine.affine @ np.diag([1, 1, 1.5, 1])
    data = sample(Image(fine.get_fdata(dtype=np.float32), fine.affine), thick, fine.shape, order=1)
    nib.save(nib.Nifti1Image(data, thick), coarse)
    session = read_session([coarse, runs[0]], seed=1)
    assert session.sources == [runs[0]]
    assert session.notes == [f"a run was left out: {coarse} has voxels of up to 6 mm, another run of 4 mm"]


@pytest.mark.parametrize("key", ["ContrastBolusIngredient", "ContrastBolusAgent"])
def test_a_contrast_agent_that_the_side_car_names_is_told(key: str, runs: list[Path], tmp_path: Path) -> None:
    scan = tmp_path / "sub-1_T1w.nii.gz"
    scan.symlink_to(runs[0])
    scan.with_name("sub-1_T1w.json").write_text(json.dumps({key: "GADOLINIUM"}))
    notes = read_session([scan], seed=1).notes
    assert any("sub-1_T1w.nii.gz: has a contrast agent (GADOLINIUM)" in note for note in notes)
    scan.with_name("sub-1_T1w.json").write_text(json.dumps([key]))
    assert not any("contrast agent" in note for note in read_session([scan], seed=1).notes)


def test_a_side_car_of_the_session_the_participant_or_the_data_set_holds_too(tmp_path: Path) -> None:
    scan = tmp_path / "sub-1" / "ses-2" / "anat" / "sub-1_ses-2_acq-a_T1w.nii.gz"
    scan.parent.mkdir(parents=True)

    def told(name: str, agent: str) -> list[str]:
        (tmp_path / name).write_text(json.dumps({"ContrastBolusIngredient": agent}))
        return [note for note in notes_of_sidecars(scan) if f"({agent})" in note]

    assert told("T1w.json", "of the data set")
    assert told("acq-a_T1w.json", "of the protocol")
    assert told("sub-1/sub-1_T1w.json", "of the participant")
    assert told("sub-1/ses-2/sub-1_ses-2_T1w.json", "of the session")
    for other in ("acq-b_T1w.json", "bold.json", "sub-1/sub-1_T1w.json", "sub-1/ses-2/anat/sub-1_ses-2_run-1_T1w.json"):
        assert not told(other, "of others, or of what is nearer")
    assert told("sub-1/ses-2/anat/sub-1_ses-2_acq-a_T1w.json", "its own")


def test_session_without_a_readable_run_fails_in_one_sentence(runs: list[Path]) -> None:
    with pytest.raises(ScanError, match="truncated"):
        read_session([runs[1]], seed=1)
    with pytest.raises(ScanError, match=r"truncated.*none of its 2 runs"):
        read_session([runs[1], runs[1].with_name("gone.nii.gz")], seed=1)
