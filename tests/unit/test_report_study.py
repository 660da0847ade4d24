"""What the report reads of a finished run: scans, their quality, what each column is, and which scans can be used."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from brainscm.config import Config
from brainscm.report.inputs import TABLES
from brainscm.report.study import Study
from brainscm.scans import ScanTable
from brainscm.tables import write_table

CONFIG = Config.model_validate({"scm": {"nodes": {"age": {"unit": "years"}}, "image": {"formula": "age"}}})


def study_of(folder: Path, scans: pd.DataFrame, qc: pd.DataFrame, psnr: dict[str, float] | None = None) -> Study:
    """A study whose other stages gave nothing."""
    write_table(scans, folder / "scans.tsv")
    write_table(qc, folder / "preproc" / "qc.tsv")
    tables: dict = dict.fromkeys(TABLES, pd.DataFrame())
    tables["reconstruction"] = pd.DataFrame({"scan": list(psnr or {}), "psnr_brain_db": list((psnr or {}).values())})
    return Study(folder, CONFIG, ScanTable.read(folder / "scans.tsv", folder / "preproc" / "qc.tsv"), None, **tables)


def scans_of(names: str, **columns: list) -> pd.DataFrame:
    return pd.DataFrame({"scan": list(names), "participant": list(names), "split": "train"}).assign(**columns)


def qc_of(names: str, statuses: list[str], **columns: list) -> pd.DataFrame:
    return pd.DataFrame({"scan": list(names), "status": statuses, "reasons": None}).assign(**columns)


def test_every_table_is_a_field_and_every_field_is_read():
    told_apart = {"results", "config", "scans", "latents", "support", "refutation"}  # not every study has the last two
    assert {field.name for field in fields(Study)} == {*told_apart, *TABLES}


def test_scans_come_in_order_each_with_its_own_quality(tmp_path):
    scans = scans_of("cab", age=[70.0, 30.0, 50.0])
    qc = qc_of("bca", ["warn", "fail", "pass"], snr=[2.0, 3.0, 1.0])
    study = study_of(tmp_path, scans, qc, psnr={"b": 32.0, "a": 31.0})
    assert study.cohort[["scan", "age", "snr", "qc_status"]].to_numpy().tolist() == [
        ["a", 30.0, 1.0, "pass"],
        ["b", 50.0, 2.0, "warn"],
        ["c", 70.0, 3.0, "fail"],
    ]
    assert list(study.rows) == ["a", "b", "c"]
    assert study.rows["b"]["psnr_brain_db"] == 32.0


def test_scans_that_failed_or_were_not_preprocessed_are_shown_but_not_used(tmp_path):
    study = study_of(tmp_path, scans_of("abcd"), qc_of("abc", ["pass", "fail", "warn"]))
    assert study.cohort["qc_status"].tolist() == ["pass", "fail", "warn", "none"]
    assert study.usable["scan"].tolist() == ["a", "c"]


def test_columns_of_the_study_and_columns_of_preprocessing_are_told_apart(tmp_path):
    scans = scans_of("ab", session=["1", "1"], path=["a.nii", "b.nii"], age=[30.0, 40.0], sex=["F", "M"])
    qc = qc_of(
        "ab", ["pass", "pass"], gm_ml=[600.0, 620.0], snr=[9.0, 8.0], start_score=[None, None],
        preproc_t1w=["sub-a/anat/a.nii.gz", None], note=["good", "fair"],
    )  # fmt: skip
    study = study_of(tmp_path, scans, qc)
    assert study.scans.covariates == ("age", "sex")  # the halves of age are derived, not the study's own
    assert study.measures == ["snr", "gm_ml"]  # volumes last, without those that nobody has
    assert study.output_roles == ["preproc_t1w"]


def test_a_studys_own_column_may_be_called_as_one_of_quality_control(tmp_path):
    scans = scans_of("ab", status=["married", "single"], snr=[1, 2])
    study = study_of(tmp_path, scans, qc_of("ab", ["pass", "fail"], snr=[8.0, 9.0]))
    assert study.scans.covariates == ("status", "snr")
    assert study.cohort["status"].tolist() == ["married", "single"]
    assert study.cohort["qc_status"].tolist() == ["pass", "fail"]
    assert study.cohort["snr"].tolist() == [1, 2]
    assert study.measures == []


def test_a_measure_has_the_registrys_words_or_its_columns_name(tmp_path):
    study = study_of(tmp_path, scans_of("a"), qc_of("a", ["pass"]))
    assert (study.measure("gm_ml").label, study.measure("gm_ml").unit) == ("Grey matter", "ml")
    assert study.measure("cjv").better == "lower"
    assert study.measure("left_putamen_ml").label == "left putamen ml"


def test_units_stand_in_headings(tmp_path):
    study = study_of(tmp_path, scans_of("a"), qc_of("a", ["pass"]))
    assert [study.with_unit(column) for column in ("age", "site")] == ["age (years)", "site"]


def test_standing_counts_the_share_below_and_the_robust_distance(tmp_path):
    snr = [1.0, 2.0, 3.0, 4.0, 100.0]
    study = study_of(tmp_path, scans_of("abcde"), qc_of("abcde", ["pass"] * 5, snr=snr))
    percentile, z = study.standing({"snr": 100.0}, "snr")
    assert percentile == 90
    assert z == pytest.approx(97 / 1.4826)
    assert study.standing({"snr": 2.0}, "snr")[1] == pytest.approx(-1 / 1.4826)


def test_four_scans_are_too_few_to_rank_one_among(tmp_path):
    snr = [1.0, 2.0, 3.0, 4.0]
    study = study_of(tmp_path, scans_of("abcd"), qc_of("abcd", ["pass"] * 4, snr=snr))
    assert [str(number) for number in study.standing({"snr": 4.0}, "snr")] == ["nan", "nan"]


def test_limits_are_told_with_a_true_minus(tmp_path):
    study = study_of(tmp_path, scans_of("a"), qc_of("a", ["pass"]))
    assert study.limit_words("ncc_z", "warn") == "warn below −4"
    assert study.limit_words("ncc", "warn") == ""
    assert study.limit_words("mask_volume_ml", "fail") == "fail outside 700–2500"
