"""The evaluation of a made-up study; and what it says when the method is broken on purpose."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import made_up_study
from brainscm.config import Config, ImageOptions
from brainscm.encoding.model import save_encoder
from brainscm.encoding.pca import PCA
from brainscm.errors import BrainSCMError
from brainscm.evaluation import evaluator
from brainscm.evaluation.cases import follow_up_cases, simulated_cases
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.methods import voxel_shrunken
from brainscm.evaluation.peers import Peers
from brainscm.evaluation.scores import ShardScores
from brainscm.evaluation.stage import Evaluation, evaluate, fit_peers, gather, score
from brainscm.evaluation.written import WrittenCounterfactuals
from brainscm.images import write_volume
from brainscm.regions import COMPARED
from brainscm.scm.model import Scm
from brainscm.shards import Shard
from made_up_measure import MadeUpMeasure

pytestmark = pytest.mark.slow

METRICS = {"psnr_brain_db", "change_correlation", "change_slope", "region_volume_mae_ml", "interval_coverage_95"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def config(folder) -> Config:
    return made_up_study.make_study(folder)


@pytest.fixture(scope="module")
def study(folder, config) -> EvaluationInputs:
    return made_up_study.open_study(folder, config)


@pytest.fixture(scope="module")
def evaluated(study) -> Evaluation:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluator, "CEILING_SCANS", 2)
        return evaluate(study, seed=1)


def with_scm(study: EvaluationInputs, scm: Scm, folder: Path, config: Config, out_dir: Path) -> EvaluationInputs:
    """The study with another causal model, and the counterfactuals that this one makes."""
    manifest = made_up_study.write_counterfactuals(out_dir, folder, scm, config)
    written = WrittenCounterfactuals.open(manifest, study.scans.grid, study.store.identity)
    return replace(study, scm=scm, written=written)


def mean(metrics: pd.DataFrame, method: str, metric: str, decode: str = "residual", source: str = "simulated") -> float:
    rows = metrics[(metrics["level"] == "mean") & (metrics["stratum"] == "all") & metrics["region"].isna()]
    by_name = rows.set_index(["source", "method", "decode", "metric"])["value"]
    return float(by_name[source, method, decode, metric])


def test_summary_has_the_contracts_shape(evaluated):
    summary = evaluated.summary
    assert set(summary["reconstruction"]) == {"psnr_brain_db", "ssim_brain"}
    assert list(summary["methods"]) == ["persistence", "voxel_glm", "pca_glm", "latent_glm"]
    for method in summary["methods"].values():
        assert set(method) == METRICS | {"why_null"}
        for metric in METRICS:
            assert (method[metric] is None) == (metric in method["why_null"])


def test_the_results_are_the_same_to_the_last_bit_whatever_the_number_of_shards_is(study, evaluated, tmp_path):
    evaluated.write(tmp_path / "one")
    peers, dealt = tmp_path / "peers", [Shard(number, 4) for number in range(1, 5)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluator, "CEILING_SCANS", 2)
        fit_peers(study).write(peers, study)
        for shard in dealt:
            score(study, Peers.read(peers, study), shard).write(tmp_path / str(shard))
    scores = [ShardScores.read(tmp_path / str(shard)) for shard in dealt]
    scored = [set(part.measurements["scan"]) for part in scores]
    assert sum(map(bool, scored)) >= 2
    assert sum(map(len, scored)) == len(set.union(*scored))
    gather(study, scores, seed=1).write(tmp_path / "many")
    for name in ("summary.json", "metrics.tsv", "regional_slopes.tsv", "minimality.tsv", "realism.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name


def test_least_squares_is_not_fitted_twice_under_two_names(evaluated):
    assert "voxel_glm" in set(evaluated.metrics["method"])
    assert "voxel_shrunken" not in set(evaluated.metrics["method"])


def test_the_shrunken_voxelwise_peer_estimates_left_and_right_together_where_the_study_does(study):
    scm = replace(
        study.scm,
        image=replace(study.scm.image, estimator="shrinkage by component"),
        options=study.scm.options.model_copy(update={"image": ImageOptions(formula="age", shrinkage="by_component")}),
    )
    rng = np.random.default_rng(0)
    effect = np.zeros((8, 8, 8))
    effect[1:3, 2:6, 2:6] = effect[5:7, 2:6, 2:6] = 1
    age = scm.training["age"].to_numpy(dtype=float)
    volumes = ((age - age.mean())[:, None, None, None] / age.std() * effect)[:, None]
    volumes = volumes + 0.3 * rng.standard_normal(volumes.shape)
    apart, together = (voxel_shrunken(scm, volumes, (8, 8, 8), mirrored).image for mirrored in (False, True))
    assert (apart.sides, together.sides) == ("", "match")
    slopes = together.coefficients[1:]
    np.testing.assert_allclose(slopes, slopes[..., ::-1, :, :], atol=1e-9)
    assert not np.allclose(apart.coefficients[1:], apart.coefficients[1:, ..., ::-1, :, :], atol=1e-3)


def test_persistence_changes_nothing_and_says_so(evaluated):
    persistence = evaluated.summary["methods"]["persistence"]
    assert persistence["change_slope"] == 0
    assert persistence["change_correlation"] is None
    assert "no change" in persistence["why_null"]["change_correlation"]


def test_every_glm_beats_persistence_where_age_is_what_changes_the_brain(evaluated):
    methods = evaluated.summary["methods"]
    for name in ("voxel_glm", "pca_glm", "latent_glm"):
        assert methods[name]["change_correlation"] > 0.5
        assert methods[name]["psnr_brain_db"] > methods["persistence"]["psnr_brain_db"] + 2


def test_pca_baseline_and_a_pca_latent_are_the_same_method(evaluated):
    """The study's own encoder is PCA of nearly the same scans, so the two roads through the code must meet."""
    latent, pca = (evaluated.summary["methods"][name]["change_correlation"] for name in ("latent_glm", "pca_glm"))
    assert latent == pytest.approx(pca, abs=0.01)


def test_null_interventions_return_the_scan_under_residual_decoding_only(evaluated):
    metrics = evaluated.metrics
    assert mean(metrics, "latent_glm", "composition_10_l1", source="axiom") == 0
    assert mean(metrics, "latent_glm", "composition_10_l1", "direct", source="axiom") > 0.01


def test_the_shift_of_slopes_points_the_way_of_the_participants(evaluated):
    slopes = evaluated.regional_slopes.set_index("region")
    assert slopes.loc["csf", "participants_slope_ml"] > 0.3
    assert slopes.loc["csf", "counterfactual_slope_ml"] > 0.2
    assert slopes.loc["gm", "participants_slope_ml"] * slopes.loc["gm", "counterfactual_slope_ml"] > 0


def test_follow_ups_are_scored_beside_the_simulated_truth(evaluated):
    summary, metrics = evaluated.summary, evaluated.metrics
    assert summary["truth"]["source"] == "simulated"
    assert mean(metrics, "latent_glm", "change_correlation", source="follow-up") > 0.2
    strata = {"all", "query=older-by-20", "query=follow-up", "sex=F", "years=20 or more"}
    assert strata <= set(metrics["stratum"].dropna())


def test_a_wrong_sign_turns_the_correlation_negative(study, folder, config, tmp_path):
    image = study.scm.image
    broken = replace(study.scm, image=replace(image, coefficients=-image.coefficients))
    summary = evaluate(with_scm(study, broken, folder, config, tmp_path), seed=1).summary
    assert summary["methods"]["latent_glm"]["change_correlation"] < -0.5
    assert summary["methods"]["voxel_glm"]["change_correlation"] > 0.5  # refitted, hence sound


def test_shuffled_ages_leave_no_change_of_the_right_size(study, evaluated, folder, config, tmp_path):
    table = study.scans.rows
    training = (table["split"] == "train") & table["age"].notna()
    ages = table[training].groupby("participant")["age"].mean().sort_values()
    shuffled = dict(zip(ages.index, np.random.default_rng(1).permutation(ages), strict=True))
    table = table.assign(age=table["age"].where(~training, table["participant"].map(shuffled)))
    encoded = table.loc[[*study.store.scans]].reset_index(drop=True)
    scm = Scm.fit(encoded, study.store.latents, study.scm.options, seed=0)
    broken = evaluate(with_scm(study, scm, folder, config, tmp_path), seed=1).summary["methods"]
    for method in ("voxel_glm", "pca_glm", "latent_glm"):
        sound = evaluated.summary["methods"][method]
        assert abs(broken[method]["change_slope"]) < 0.3 * sound["change_slope"]
        assert broken[method]["psnr_brain_db"] < sound["psnr_brain_db"] - 1


def test_a_test_split_that_was_fitted_on_is_refused(study):
    rows = study.scans.rows
    leaked = replace(study.scans, rows=rows.assign(split=rows["split"].replace("train", "test")))
    with pytest.raises(BrainSCMError, match="participants of the test split"):
        evaluate(replace(study, scans=leaked), seed=1)


def test_no_encoding_beats_its_own_ceiling(evaluated):
    for method in ("pca", "latent"):
        ceiling = mean(evaluated.metrics, f"{method}_ceiling", "psnr_brain_db")
        assert ceiling > mean(evaluated.metrics, f"{method}_glm", "psnr_brain_db")


def test_the_costly_ceilings_are_asked_of_some_scans_and_the_methods_of_all(evaluated):
    rows = evaluated.metrics
    rows = rows[(rows["level"] == "mean") & (rows["stratum"] == "all") & (rows["metric"] == "change_correlation")]
    scans = rows[rows["source"] == "simulated"].set_index(["method", "decode"])["scans"]
    assert scans["pca_ceiling", "residual"] == scans["latent_ceiling", "residual"] == 2
    assert scans["latent_glm", "residual"] == scans["voxel_glm", "residual"] == evaluated.summary["truth"]["scans"] > 2


def test_intervals_of_every_level_are_scored_and_widen(evaluated):
    levels = [mean(evaluated.metrics, "latent_glm", f"interval_coverage_{level}") for level in (50, 80, 95)]
    assert levels == sorted(levels)
    assert evaluated.summary["methods"]["latent_glm"]["interval_coverage_95"] > 0.8


def test_the_minimality_matrix_has_every_region_of_every_query(evaluated):
    matrix = evaluated.minimality[evaluated.minimality["method"] == "latent_glm"]
    residual = matrix[matrix["decode"] == "residual"].set_index(["query", "region"])
    assert len(residual) == 2 * len(COMPARED)
    older = residual.loc["older-by-20"]
    assert older.loc["csf", "expected_ml"] > 2
    assert abs(older.loc["csf", "measured_ml"] - older.loc["csf", "true_ml"]) < older.loc["csf", "true_ml"]
    assert residual.loc["man"]["true_ml"].isna().all()
    assert (residual["noise_ml"] > 0).all()


def test_realism_gives_a_figure_or_the_reason(evaluated):
    realism = evaluated.realism
    assert set(realism["features"]) == {"regions", "image"}
    assert (realism["p"].isna() == realism["why_null"].notna()).all()


def test_without_any_truth_everything_is_null_with_the_reason_but_reconstruction_and_slopes_stay(study, tmp_path):
    rows = study.scans.rows
    again = rows["scan"].str.endswith("ses-2") & (rows["split"] == "test")
    alone = study.scans.leave_out(again.map({True: "scanned twice", False: ""}))
    found = evaluate(replace(study, scans=alone, bids_dir=tmp_path), seed=1)
    summary, metrics, slopes = found.summary, found.metrics, found.regional_slopes
    for method in summary["methods"].values():
        assert all(method[metric] is None for metric in METRICS)
        assert all("no true counterfactual" in reason for reason in method["why_null"].values())
    assert summary["reconstruction"]["psnr_brain_db"] > 15
    assert len(slopes) == len(COMPARED)
    assert set(metrics["source"]) == {"axiom", "unanswered", "reconstruction"}
    assert not metrics["metric"].isin(METRICS - {"psnr_brain_db", "region_volume_mae_ml"}).any()
    assert len(found.minimality)
    assert found.minimality["true_ml"].isna().all()


def test_usable_are_scans_that_were_preprocessed_are_encoded_and_have_every_covariate(study):
    reasons = study.scans.unusable
    assert "cut short" in reasons[f"{made_up_study.FAILED}_ses-1"]
    assert reasons["sub-02_ses-1"] == "age is missing"
    assert (reasons.drop(reasons[reasons.index.str.startswith((made_up_study.FAILED, "sub-02"))].index) == "").all()


def test_an_encoder_that_did_not_make_the_latents_is_refused(folder, config, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    noise = np.random.default_rng(0).random((12, 1, *made_up_study.SHAPE), dtype=np.float32)
    save_encoder(PCA.fit(noise, 8), made_up_study.IDENTITY, tmp_path / "autoencoder" / "model.pt")
    with pytest.raises(BrainSCMError, match="two different models; run encode_scans again"):
        made_up_study.open_study(tmp_path, config)


def test_a_follow_up_is_shown_in_the_mask_of_the_first_scan_and_measured_by_its_measure_in_its_own(study):
    def sums(volume, mask, head_size):
        return dict.fromkeys(COMPARED, float(volume[mask].sum()) / head_size)

    usable = study.scans.usable
    case = follow_up_cases(usable, "age")[0]
    scan = study.read_scan(case.scan)
    mask = scan.mask & (scan.volume > 0.5)
    narrow = replace(scan, mask=mask, measure=MadeUpMeasure(sums, replace(scan.measure.geometry, mask=mask)))
    truth = study.read_truth(case, narrow)
    later, its_own = study.scans.volume(case.answer), study.scans.mask(case.answer)
    np.testing.assert_array_equal(truth.volume, later * mask)
    assert truth.regions_ml == sums(later, its_own, usable.loc[case.answer, "head_size"])
    assert study.read_truth(replace(case, source="unanswered"), scan) is None


def test_the_truth_of_a_simulated_case_lies_where_the_scan_was_brought(study):
    case = simulated_cases(study.bids_dir, study.scans.usable, study.queries)[0]
    scan = study.read_scan(case.scan)
    truth = study.read_truth(case, scan)
    change = truth.volume - scan.volume
    older = nib.load(case.answer).get_fdata() - nib.load(study.scans.usable.loc[case.scan, "path"]).get_fdata()
    assert np.corrcoef(change[scan.mask], older[scan.mask])[0, 1] > 0.95
    assert truth.regions_ml["csf"] > scan.regions_ml(scan.volume)["csf"] + 5


@pytest.fixture(scope="module")
def altered(study, tmp_path_factory) -> tuple[Evaluation, list[str]]:
    """Evaluated with the counterfactual of one scan altered and its difference reversed, that of a second cut short,
    and the raw head of a third gone; these scans.
    """
    folder = tmp_path_factory.mktemp("altered")
    shutil.copytree(study.written.folder, folder, dirs_exist_ok=True)
    written = replace(study.written, folder=folder)
    first, second, third = written.made[written.made["query"] == "older-by-20"].head(3).to_dict("records")
    made = written.read(first)
    write_volume(folder / first["path"], np.where(made.volume > 0, 0.1, 0), written.grid)
    write_volume(folder / first["difference_path"], -made.difference, written.grid)
    cut = folder / second["path"]
    cut.write_bytes(cut.read_bytes()[:500])
    rows = study.scans.rows.copy()
    rows.loc[third["scan"], "path"] = "gone.nii.gz"
    found = evaluate(replace(study, written=written, scans=replace(study.scans, rows=rows)), seed=1)
    return found, [first["scan"], second["scan"], third["scan"]]


def test_the_volumes_that_were_written_are_what_is_scored(altered, evaluated):
    found, (scan, _, _) = altered

    def of_scan(evaluation: Evaluation, metric: str) -> pd.Series:
        """By method and decoding."""
        rows = evaluation.metrics.query("level == 'scan' and query == 'older-by-20'")
        rows = rows[(rows["scan"] == scan) & (rows["metric"] == metric) & rows["region"].isna()]
        return rows.set_index(["method", "decode"])["value"]

    written = ("latent_glm", "residual")
    before, after = (of_scan(each, "psnr_brain_db") for each in (evaluated, found))
    assert after[written] < before[written] - 10
    assert of_scan(found, "change_correlation")[written] == -of_scan(evaluated, "change_correlation")[written]
    predicted = [("latent_glm", "direct"), ("latent_glm", "quantized"), ("voxel_glm", "residual")]
    pd.testing.assert_series_equal(after[predicted], before[predicted])
    slopes = [each.regional_slopes.set_index("region")["counterfactual_slope_ml"] for each in (evaluated, found)]
    assert slopes[1]["csf"] < 0.8 * slopes[0]["csf"]


def test_what_cannot_be_read_costs_its_case_and_no_other(altered, evaluated):
    found, (_, cut, gone) = altered

    def answered(evaluation: Evaluation) -> set[str]:
        return set(evaluation.metrics.query("level == 'scan' and source == 'simulated'")["scan"])

    assert answered(found) == answered(evaluated) - {cut, gone}
    assert {cut, gone} < set(found.metrics.query("source == 'unanswered'")["scan"])
    counts = [each.regional_slopes["counterfactuals"].iloc[0] for each in (evaluated, found)]
    assert counts[1] == counts[0] - 1


def test_what_was_not_written_is_predicted(study, evaluated):
    written = replace(study.written, manifest=study.written.manifest.assign(path=None, difference_path=None))
    found = evaluate(replace(study, written=written), seed=1)
    assert found.summary == evaluated.summary
    assert found.regional_slopes.empty
