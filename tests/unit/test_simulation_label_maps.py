"""Heads from label maps: volumes as declared on each of them, and no anatomy on both sides of the split."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from simulated_label_maps import write_label_map

from brainscm.cohort.index import index_cohort
from brainscm.cohort.split import split_groups
from brainscm.config import CohortOptions, Config, SimulationOptions, SplitOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.simulation import cohort, label_maps
from brainscm.simulation.anatomies import anatomy_name, draw_label_map, find_label_maps
from brainscm.simulation.causal_model import Nodes, draw_nodes, draw_noise
from brainscm.simulation.imaging import Head, HeadInScanner
from brainscm.simulation.label_maps import LANDMARKS_MM, head_of_label_map
from brainscm.simulation.participant import draw_anatomy
from brainscm.simulation.scanner import Acquisition, acquire
from brainscm.tables import read_table

SEED = 4
MAPS = [Path(f"map-{number}.nii.gz") for number in range(5)]


def write_points(path: Path, without: tuple[int, ...] = (), voxel_mm: float = 1.0, mirrored: bool = False) -> Path:
    """A map of single voxels: deep structures at their places, and one voxel of all else that a head needs."""
    numbers = np.zeros((80, 120, 80), dtype=np.float32)
    for pair, (x, y, z) in LANDMARKS_MM.items():
        for number, side in zip(pair, (1, -1) if mirrored else (-1, 1), strict=True):
            numbers[int(40 + side * x), int(80 + y), int(50 + z)] = number
    rest = iter(np.ndindex(3, 3, 3))
    for number in (4, 43, 3, 42, 2, 41, 24, 515):
        numbers[next(rest)] = number
    numbers[np.isin(numbers, without)] = 0
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = (-40, -80, -50)
    nib.save(nib.Nifti1Image(numbers, affine), path)
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"without": (4,)}, "no lateral ventricles"),
        ({"without": (53,)}, "no hippocampi"),
        ({"without": (515,)}, "no labels outside the brain"),
        ({"voxel_mm": 3.0}, "voxels of 3.0 mm"),
        ({"mirrored": True}, "left and right may be exchanged"),
    ],
)
def test_a_map_that_no_head_can_be_made_from_is_refused(tmp_path, change, says):
    label_maps._read(write_points(tmp_path / "whole.nii.gz"))
    with pytest.raises(BrainSCMError, match=says) as told:
        label_maps._read(write_points(tmp_path / "poor.nii.gz", **change))
    assert "poor.nii.gz" in str(told.value)


def test_a_file_that_is_no_label_map_is_refused(tmp_path):
    cut, image = tmp_path / "cut.nii.gz", tmp_path / "image.nii.gz"
    cut.write_bytes(write_points(tmp_path / "whole.nii.gz").read_bytes()[:300])
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 8), dtype=np.float32), np.eye(4)), image)
    for path, says in ((cut, "cannot be read"), (image, "fractions")):
        with pytest.raises(BrainSCMError, match=says):
            label_maps._read(path)
    with pytest.raises(BrainSCMError, match="holds no label maps"):
        find_label_maps(tmp_path / "elsewhere")


def test_every_anatomy_is_drawn_as_often_in_no_fixed_order():
    drawn = [draw_label_map(MAPS, SEED, number) for number in range(1, 101)]
    assert all(drawn.count(path) == 20 for path in MAPS)
    assert drawn[:5] != drawn[5:10]
    # Neither sex nor age tells the anatomy.
    nodes = pd.DataFrame([vars(draw_nodes(draw_noise(SEED, number))) for number in range(1, 101)])
    by_map = nodes.groupby([anatomy_name(path) for path in drawn])
    assert by_map["age"].mean().between(45, 65).all()
    assert by_map["sex"].apply(lambda sex: (sex == "F").mean()).between(0.2, 0.8).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_group_is_in_one_part_and_the_shares_hold(seed):
    numbers = range(1, 161)
    groups = pd.Series([f"g{number % 15}" for number in numbers], index=[f"sub-{n}" for n in numbers], name="g")
    options = SplitOptions(train=0.75, validation=0.05, test=0.2)
    split = split_groups(groups, options, seed)
    assert split.groupby(groups).nunique().eq(1).all()
    shares = split.value_counts(normalize=True)
    assert abs(shares["train"] - 0.75) < 0.06
    assert abs(shares["test"] - 0.2) < 0.06
    assert split.equals(split_groups(groups.sample(frac=1, random_state=1), options, seed)[groups.index])
    few = split_groups(groups[groups.isin(["g1", "g2", "g3"])], SplitOptions(), seed)
    assert set(few) == {"train", "validation", "test"}
    with pytest.raises(BrainSCMError, match="2 groups in 'g'"):
        split_groups(groups[groups.isin(["g1", "g2"])], SplitOptions(), seed)


def test_who_has_no_group_is_on_their_own():
    groups = pd.Series(["a", "a", None, None, "b", "b"], index=list("uvwxyz"), name="family", dtype=object)
    split = split_groups(groups, SplitOptions(), 0)
    assert split["u"] == split["v"]
    assert split["y"] == split["z"]
    assert split.notna().all()


def test_participants_of_one_anatomy_are_split_together_unless_the_study_says_how():
    maps = {"anatomies": "somewhere"}
    assert Config.model_validate({"simulation": maps}).cohort.split.group == "anatomy"
    assert Config().cohort.split.group is None
    assert Config.model_validate({"simulation": maps, "bids_dir": "study"}).cohort.split.group is None
    own = Config.model_validate({"simulation": maps, "cohort": {"split": {"column": "fold"}}})
    assert own.cohort.split.group is None


class QuickHead:
    """Stands for a head in the scanner: an empty image, and no head at all for one participant."""

    def __init__(self, anatomy: object, acquisition: Acquisition) -> None:
        self._shape = acquisition.shape

    def read(self, nodes: Nodes) -> Head:
        if nodes == draw_nodes(draw_noise(SEED, 5)):
            raise BrainSCMError("it would fold")
        return Head(np.zeros(self._shape, np.int16), np.zeros(self._shape, np.uint8), {"gm": 1.0})


def test_train_and_test_participants_come_from_different_anatomies(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in MAPS:
        (maps / path).touch()
    monkeypatch.setattr(cohort, "head_of_label_map", lambda _: None)
    monkeypatch.setattr(cohort, "draw_anatomy", lambda *_: None)
    monkeypatch.setattr(cohort, "HeadInScanner", QuickHead)
    options = SimulationOptions(participants=20, voxel_mm=4.0, follow_up_share=0, truncated_scans=0, anatomies=maps)
    cohort.simulate_cohort(tmp_path / "bids", options, SEED, workers=1)
    table = read_table(tmp_path / "bids" / "participants.tsv").set_index("participant_id")
    assert len(table) == 19
    assert set(table["anatomy"]) == {anatomy_name(path) for path in MAPS}
    assert table.loc["sub-007", "anatomy"] == anatomy_name(draw_label_map(MAPS, SEED, 7))
    (refused,) = read_table(tmp_path / "bids" / "derivatives/truth/refused.tsv").itertuples(index=False)
    assert (refused.scan, refused.reason) == ("sub-005_ses-01", "it would fold")

    config = Config.model_validate({"simulation": {"anatomies": str(maps)}})
    scans = index_cohort(tmp_path / "bids", config.cohort, ["age", "sex"], SEED).scans
    assert scans.groupby("anatomy")["split"].nunique().eq(1).all()
    assert set(scans["split"]) == {"train", "validation", "test"}
    with pytest.raises(ConfigError, match="did you mean 'anatomy'"):
        index_cohort(tmp_path / "bids", CohortOptions(split=SplitOptions(group="anatomi")), ["age"], SEED)


@pytest.mark.slow
def test_a_head_of_a_label_map_has_the_declared_volumes_and_lies_in_the_scanner(tmp_path):
    path = tmp_path / "turned.nii.gz"
    write_label_map(path, turn_degrees=15.0, bend_mm=2.5)
    head = head_of_label_map(path)
    for number in (1, 2):
        nodes = draw_nodes(draw_noise(SEED, number))
        anatomy = draw_anatomy(head, SEED, str(number), nodes.head_size)
        in_scanner = HeadInScanner(anatomy, acquire(SEED, str(number), "ses-01", nodes.site, 4.0))
        found = in_scanner.read(nodes)
        for region in ("ventricles", "medial_temporal_gm"):
            assert found.volumes_ml[region] == pytest.approx(getattr(nodes, region), rel=0.04)
        cavity = sum(found.volumes_ml[tissue] for tissue in ("gm", "wm", "csf", "ventricles"))
        assert cavity == pytest.approx(nodes.head_size, rel=0.02)
        assert not any(np.take(found.labels, end, axis).any() for axis in range(3) for end in (0, -1))
        # Around the brain is more than noise: scalp, face and neck.
        bright = found.image > 0.3 * np.median(found.image[found.labels == 3])
        assert (bright & (found.labels == 0)).sum() > 10_000
    with pytest.raises(BrainSCMError, match="ask for a smaller change"):
        in_scanner.read(replace(nodes, ventricles=900.0))
