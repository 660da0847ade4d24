"""Which counterfactuals are scored: those that were written where there are any, the rest as predicted here."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from brainscm.config import QueryOptions
from brainscm.counterfactuals.intervals import COLUMNS
from brainscm.errors import BrainSCMError, ScanError
from brainscm.evaluation.answers import EncodedScan, answer
from brainscm.evaluation.cases import Case
from brainscm.evaluation.methods import Method, Methods, Voxels
from brainscm.evaluation.questions import PreparedCase
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.truth import Truth
from brainscm.evaluation.written import WrittenCounterfactuals
from brainscm.files import write_dataset_description
from brainscm.identity import Identity
from brainscm.images import Grid, write_volume
from brainscm.regions import COMPARED, Geometry
from brainscm.tables import write_table
from made_up_measure import MadeUpMeasure

SHAPE = (8, 8, 8)
GRID = Grid(SHAPE, np.eye(4))
MASK = np.zeros(SHAPE, bool)
MASK[2:-2, 2:-2, 2:-2] = True
WRITTEN = Counterfactual(np.full(SHAPE, 7, np.float32), np.full(SHAPE, 3, np.float32))


class Halving(Voxels):
    """Keeps half of a volume, also outside the brain."""

    def decode(self, latents):
        return latents / 2 + 1

    def quantize(self, latents):
        return latents.round()


class Adds:
    """An image node that adds `amount` times the step to every voxel."""

    mean = np.zeros((1, *SHAPE))

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def predict(self, step):
        return np.full((len(step), 1, *SHAPE), self.amount * step[0, 0])


def sums(volume, mask, head_size):
    return dict.fromkeys(COMPARED, float(volume.sum()))


METHODS = Methods(
    voxel_glm=Method("voxel_glm", Voxels(SHAPE), Adds(1.0)),
    voxel_shrunken=Method("voxel_shrunken", Voxels(SHAPE), Adds(0.5)),
    pca_glm=Method("pca_glm", Halving(SHAPE), Adds(1.0)),
    latent_glm=Method("latent_glm", Halving(SHAPE), Adds(1.0)),
)
ONES = np.where(MASK, 1, 0).astype(np.float32)
SCAN = Scan(ONES, MASK, ONES[None], MadeUpMeasure(sums, Geometry(MASK)))
TRUTH = Truth(np.where(MASK, 3, 0).astype(np.float32), {})
WHERE = MASK.sum()


def prepared(decode: str, source: str = "simulated") -> PreparedCase:
    case = Case(source, "s1", "p1", QueryOptions(name="older", do={"age": "+20"}, decode=decode), "")
    return PreparedCase(case, pd.Series(), 20.0, np.array([2.0]), np.array([4.0]), {}, np.zeros((1, 0)), {}, {})


def answers(case: PreparedCase, truth: Truth | None = None, with_ceilings: bool = False, written=WRITTEN):
    """By method and decoding."""
    encoded = EncodedScan.of(SCAN, METHODS)
    inputs = SimpleNamespace(written=SimpleNamespace(find=lambda scan, query: written))
    found = [*answer(case, encoded, inputs, METHODS, truth, with_ceilings)]
    assert len({(each.method, each.decode) for each in found}) == len(found)
    return {(each.method, each.decode): each.made for each in found}


@pytest.mark.parametrize("decode", ["residual", "direct", "quantized"])
def test_what_was_written_is_taken_in_its_own_decoding_and_nowhere_else(decode):
    found = answers(prepared(decode))
    assert [key for key, made in found.items() if made is WRITTEN] == [("latent_glm", decode)]
    assert set(found) == {
        ("voxel_glm", "residual"),
        ("pca_glm", "residual"),
        *(("latent_glm", each) for each in ("residual", "direct", "quantized")),
    }


def test_what_was_not_written_is_predicted_as_are_follow_ups():
    for found in (answers(prepared("residual"), written=None), answers(prepared("residual", "follow-up"))):
        np.testing.assert_array_equal(found["latent_glm", "residual"].volume, np.where(MASK, 2, 0))
        np.testing.assert_array_equal(found["latent_glm", "direct"].volume, np.where(MASK, 2.5, 0))


def test_each_prediction_is_the_methods_own_and_lies_inside_the_brain():
    found = answers(prepared("residual"), TRUTH, with_ceilings=True, written=None)
    for made in found.values():
        assert not made.volume[~MASK].any()
        assert not made.difference[~MASK].any()
    added = {
        method: float(found[method, "residual"].difference.sum() / WHERE)
        for method, _ in found
        if (method, "residual") in found
    }
    assert added == {
        "voxel_glm": 2.0,
        "pca_glm": 1.0,
        "latent_glm": 1.0,
        "voxel_shrunken": 1.0,
        "mean_change": 4.0,
        "pca_ceiling": 1.0,  # half of the true change
        "latent_ceiling": 1.0,
    }
    still = found["persistence", "none"]
    np.testing.assert_array_equal(still.volume, SCAN.volume)
    assert not still.difference.any()


def test_without_ceilings_the_truth_is_not_encoded():
    methods = {method for method, _ in answers(prepared("residual"), TRUTH)}
    assert methods == {"voxel_glm", "pca_glm", "latent_glm", "persistence", "voxel_shrunken", "mean_change"}


def test_a_change_starts_from_what_its_decoding_makes_of_the_scan():
    encoded = EncodedScan.of(SCAN, METHODS)
    start = {decode: regions["gm"] for decode, regions in encoded.start_ml.items()}
    assert start == {"none": WHERE, "residual": WHERE, "direct": 1.5 * WHERE, "quantized": 1.5 * WHERE}
    assert encoded.own_ml["gm"] == WHERE
    assert set(encoded.decoded) == {"pca_glm", "latent_glm"}


def test_the_stored_latent_is_taken_and_not_made_anew():
    stored = replace(SCAN, latent=np.full((1, *SHAPE), 5, np.float32))
    factuals = METHODS.encode(stored)
    assert (factuals["latent_glm"].latents == 5).all()
    assert torch.equal(factuals["pca_glm"].latents[0, 0], torch.from_numpy(SCAN.volume))


def written_study(tmp_path) -> WrittenCounterfactuals:
    rows = [
        {"scan": "s1", "query": "older", "path": "a.nii.gz", "difference_path": "b.nii.gz"},
        {"scan": "s2", "query": "older", "path": None, "difference_path": None},
    ]
    write_volume(tmp_path / "a.nii.gz", WRITTEN.volume, GRID)
    write_volume(tmp_path / "b.nii.gz", WRITTEN.difference, GRID)
    return WrittenCounterfactuals(pd.DataFrame(rows), tmp_path, GRID, pd.DataFrame(columns=COLUMNS))


def test_a_written_counterfactual_is_found_by_scan_and_query(tmp_path):
    written, older = written_study(tmp_path), QueryOptions(name="older", do={"age": "+20"})
    found = written.find("s1", older)
    np.testing.assert_array_equal(found.volume, WRITTEN.volume)
    np.testing.assert_array_equal(found.start, WRITTEN.volume - WRITTEN.difference)
    assert written.find("s2", older) is None
    assert written.find("s1", older.model_copy(update={"name": "younger"})) is None


def test_counterfactuals_of_other_latents_are_refused(tmp_path):
    written, identity = written_study(tmp_path), Identity(template="T", voxel_mm=2, transform="affine", encoder="a")
    write_table(written.manifest, tmp_path / "manifest.tsv")
    write_table(written.regions, tmp_path / "regions.tsv")
    with pytest.raises(BrainSCMError, match="does not tell from which latents"):
        WrittenCounterfactuals.open(tmp_path / "manifest.tsv", GRID, identity)
    write_dataset_description(tmp_path, "made", further={"Identity": identity.as_json()})
    assert len(WrittenCounterfactuals.open(tmp_path / "manifest.tsv", GRID, identity).made) == 1
    with pytest.raises(BrainSCMError, match="two different models; run synthesize_counterfactuals again"):
        WrittenCounterfactuals.open(tmp_path / "manifest.tsv", GRID, identity.encoded_by("b"))


def test_a_counterfactual_of_another_grid_or_without_its_difference_says_what_to_run(tmp_path):
    written, older = written_study(tmp_path), QueryOptions(name="older", do={"age": "+20"})
    write_volume(tmp_path / "b.nii.gz", WRITTEN.difference, Grid(SHAPE, 2 * np.eye(4)))
    with pytest.raises(ScanError, match=r"a\.nii\.gz: .*run synthesize_counterfactuals again"):
        written.find("s1", older)
    (tmp_path / "b.nii.gz").unlink()
    with pytest.raises(ScanError, match="run synthesize_counterfactuals again"):
        written.find("s1", older)
