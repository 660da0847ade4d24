"""Whom intervals are calibrated on, and what is learnt from them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.evaluation.calibration import CALIBRATION_PARTICIPANTS, calibrate, calibration_scans
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.regions import COMPARED, Geometry
from made_up_measure import MadeUpMeasure

OLDER = QueryOptions(name="older", do={"age": "+20"})
SHAPE = (4, 4, 4)
MASK = np.zeros(SHAPE, bool)
MASK[1:3, 1:3, 1:3] = True  # 8 voxels


def scans(**participants: int) -> pd.DataFrame:
    """So many participants by split, each scanned twice."""
    rows = [
        {"scan": f"{split}{n}_{visit}", "participant": f"{split}{n}", "split": split}
        for split, count in participants.items()
        for n in range(count)
        for visit in "ab"
    ]
    return pd.DataFrame(rows).set_index("scan", drop=False).rename_axis(None)


def test_nobody_of_the_test_split_calibrates_and_everybody_else_does_once():
    chosen = calibration_scans(scans(train=3, validation=2, test=4))
    assert sorted(chosen["scan"]) == ["train0_a", "train1_a", "train2_a", "validation0_a", "validation1_a"]


def test_training_participants_fill_up_what_the_validation_split_leaves():
    chosen = calibration_scans(scans(train=60, validation=10))
    assert chosen["split"].value_counts().to_dict() == {"validation": 10, "train": CALIBRATION_PARTICIPANTS - 10}
    many = calibration_scans(scans(train=60, validation=40))
    assert set(many["split"]) == {"validation"}
    assert len(many) == CALIBRATION_PARTICIPANTS


def sums(volume, mask, head_size):
    """The sum of the whole volume, as a segmentation that looks beyond the mask might give it."""
    return dict.fromkeys(COMPARED, float(volume.sum()))


class Adds:
    """A method that adds `amount` to every voxel, also outside the brain."""

    def __init__(self, name: str, amount: float) -> None:
        self.name, self.amount = name, amount

    def predict(self, factual, step):
        return Counterfactual(factual + self.amount * step[0], np.zeros(SHAPE))


def test_the_excess_is_what_is_measured_in_the_brain_beyond_what_is_expected():
    table = scans(train=8)
    rng = np.random.default_rng(0)
    lost, still = "train0_a", "train1_a"
    expected = {row: 0.0 if row == still else 1.0 for row in calibration_scans(table)["scan"]}

    def read_scan(scan):
        if scan == lost:
            raise ScanError("gone")
        volume = np.where(MASK, rng.random(SHAPE), 0).astype(np.float32)
        return Scan(volume, MASK, np.zeros(1), MadeUpMeasure(sums, Geometry(MASK)))

    def expect(query, asked, draws):
        step = asked["scan"].map(expected).to_numpy()[:, None]
        return SimpleNamespace(step=step, change_ml=step @ np.full((1, len(COMPARED)), 3.0))

    methods = SimpleNamespace(
        compared=(Adds("voxel_glm", 0.25), Adds("latent_glm", 1.0)),
        encode=lambda scan: dict.fromkeys(("voxel_glm", "latent_glm"), scan.volume),
    )
    inputs = SimpleNamespace(scans=SimpleNamespace(usable=table), read_scan=read_scan)
    regional = SimpleNamespace(regions=COMPARED, expect=expect)
    found = calibrate({"older": OLDER}, inputs, methods, regional)["older"]
    assert found["voxel_glm"].bias_ml[0] == pytest.approx(8 * 0.25 - 3, abs=1e-5)
    assert found["latent_glm"].bias_ml[0] == pytest.approx(8 * 1.0 - 3, abs=1e-5)
    assert found["latent_glm"].sd_ml[0] == pytest.approx(0, abs=1e-5)
    assert found["latent_glm"].participants == 6  # one could not be read, and one does not change
    expected.update(dict.fromkeys([*expected][2:5], 0.0))
    assert calibrate({"older": OLDER}, inputs, methods, regional) == {"older": {}}
