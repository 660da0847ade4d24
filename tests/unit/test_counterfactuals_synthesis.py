"""Synthesis: which scans are asked, what is written, and that one bad scan stops nobody else."""

import json
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from test_scm_model import latent_shift
from torch import Tensor

from brainscm import scans
from brainscm.config import QueryOptions, ScmOptions, VolumeOptions
from brainscm.counterfactuals import synthesis
from brainscm.counterfactuals.collect import collect
from brainscm.counterfactuals.decoding import STRATEGIES
from brainscm.counterfactuals.group import average
from brainscm.counterfactuals.intervals import IntervalFactors
from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_for, plan_query
from brainscm.counterfactuals.synthesis import synthesize
from brainscm.encoding.encoder import Factual, Unaligned
from brainscm.encoding.layout import Layout
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.files import sidecar
from brainscm.identity import Identity
from brainscm.latents.encoded import EncodedScans
from brainscm.latents.store import LatentStore
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm
from brainscm.shards import Shard
from brainscm.tables import read_table, write_table
from made_up_measure import measured_by

GRID = (4, 4, 4)
N = 60
FACTORS = IntervalFactors({"gm": 3.0, "wm": 3.0}, {"gm": 24, "wm": 24})
IDENTITY = Identity(template="T", voxel_mm=3.0, transform="affine", encoder="halving")


class Halving(Unaligned):
    """z = 2x, and back: what the SCM adds to the latent is seen in the volume as half of it."""

    kind = "halving"
    grid_shape = GRID
    latent_shape = (1, *GRID)

    def encode(self, volumes: Tensor) -> Tensor:
        return 2 * volumes

    def quantize(self, latents: Tensor) -> Tensor:
        return latents.round()

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2


@measured_by
def measure(volume: np.ndarray, mask: np.ndarray, head_size: float) -> dict[str, float]:
    """Ten voxels of one intensity are a millilitre of a head of size 1."""
    return {"gm": float(volume[mask > 0].sum()) / 10 / head_size, "wm": float((mask > 0).sum()) / 10}


@dataclass
class Study:
    folder: Path
    scm: Scm
    scans: ScanTable
    store: LatentStore
    volumes: np.ndarray
    origin: dict[str, Any] = field(default_factory=dict)
    volumes_options: VolumeOptions | None = None

    @property
    def table(self) -> pd.DataFrame:
        return self.scans.rows

    @property
    def latents(self) -> np.ndarray:
        return self.store.latents

    def run(self, *queries: QueryOptions, shards: int = 1) -> pd.DataFrame:
        """Synthesize, average and collect as the rules do; the manifest."""
        encoded = EncodedScans(self.scans, self.store, Halving())
        encoded = encoded.leave_out(self.store.lacking(self.scans.rows["scan"]))
        out, parts = self.folder / "counterfactuals", []
        for shard in [Shard(number, shards) for number in range(1, shards + 1)]:
            made = synthesize(
                scm=self.scm,
                encoded=encoded,
                queries=queries,
                measure=measure,
                factors=FACTORS,
                out_dir=out,
                origin=self.origin,
                shard=shard,
                volumes=self.volumes_options,
            )
            parts.append(out / "questions" / "q" / f"{shard}.tsv")
            write_table(made.manifest, parts[-1])
            write_table(made.regions, out / "regions" / "q" / f"{shard}.tsv")
        write_table(average(queries, parts, self.scans, out, IDENTITY.space, self.origin), out / "group" / "q.tsv")
        scans, names = list(self.scans.rows["scan"]), [query.name for query in queries]
        collect(parts, scans, names, list(self.scm.covariates.columns), IDENTITY, out, [out / "group" / "q.tsv"])
        return read_table(out / "manifest.tsv")

    def regions(self) -> pd.DataFrame:
        table = read_table(self.folder / "counterfactuals" / "regions.tsv")
        return table.set_index(["query", "scan", "region"])

    def image(self, path: str) -> np.ndarray:
        return nib.load(self.folder / "counterfactuals" / path).get_fdata()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rng = np.random.default_rng(0)
    age, sex = rng.uniform(20, 80, N), rng.choice(["F", "M"], N)
    csf = 10 + 0.5 * age + rng.normal(0, 2, N)
    volumes = (1 - 0.004 * age[:, None, None, None] + 0.05 * rng.random((N, *GRID))).astype(np.float32)
    latents = 2 * volumes[:, None]  # a decoder knows no mask: its change reaches outside the brain
    ids = [f"sub-{i:02d}" for i in range(N)]
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = [-6, -9, -3]
    mask = np.ones(GRID, dtype=np.uint8)
    mask[0] = 0
    images, masks = [], []
    for scan, volume in zip(ids, volumes, strict=True):
        stem = f"{scan}/anat/{scan}_space-T_res-3mm_desc-"
        images.append(f"{stem}preproc_T1w.nii.gz")
        masks.append(f"{stem}brain_mask.nii.gz")
        (tmp_path / "preproc" / scan / "anat").mkdir(parents=True)
        volume *= mask
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / "preproc" / images[-1])
        nib.save(nib.Nifti1Image(mask, affine), tmp_path / "preproc" / masks[-1])
    split = np.where(np.arange(N) < 48, "train", "test")
    index = pd.DataFrame({"scan": ids, "participant": ids, "session": None, "split": split, "age": age, "sex": sex})
    measured = {"scan": ids, "status": "pass", "reasons": None, "csf_ml": csf, "head_size": 2.0}
    write_table(index, tmp_path / "scans.tsv")
    qc = pd.DataFrame(measured | {"preproc_t1w": images, "template_mask": masks})
    write_table(qc, tmp_path / "preproc" / "qc.tsv")
    table = ScanTable.read(tmp_path / "scans.tsv", tmp_path / "preproc" / "qc.tsv")
    store = LatentStore(latents, ids, Layout((1,)), IDENTITY)
    declared = ScmOptions.model_validate(
        {
            "nodes": {"age": {"unit": "years"}, "sex": {"levels": ["F", "M"]}, "csf": {"formula": "age"}},
            "image": {"formula": "age + sex + csf"},
        }
    )
    scm = Scm.fit(table.rows, latents, declared, seed=3, identity=IDENTITY)
    return Study(tmp_path, scm, table, store, volumes)


def query(**fields: Any) -> QueryOptions:
    return QueryOptions.model_validate({"name": "older", "do": {"age": "+10"}} | fields)


def test_volume_difference_and_uncertainty_are_what_the_model_says(study: Study) -> None:
    do: dict[str, Any] = {"age": "-10"}  # brighter, so that only the mask keeps the outside at zero
    manifest = study.run(query(name="younger", do=do))
    assert manifest["status"].tolist() == ["pass"] * 12
    row = manifest.iloc[0]
    assert row["path"] == "sub-48/anat/sub-48_space-T_res-3mm_desc-younger_T1w.nii.gz"
    one = study.table[study.table["scan"] == "sub-48"]
    changed = study.scm.intervene(one, do)
    shift = latent_shift(study.scm, one, changed)[0, 0]
    x = study.volumes[48]
    inside = np.arange(4)[:, None, None] * np.ones(GRID) > 0
    volume, difference = study.image(row["path"]), study.image(row["difference_path"])
    np.testing.assert_allclose(volume, np.where(inside, x + shift / 2, 0), atol=1e-6)
    np.testing.assert_allclose(difference, np.where(inside, shift / 2, 0), atol=1e-6)
    draws = [study.scm.draw(k) for k in range(study.scm.draws)]
    drawn = np.array([latent_shift(d, one, d.intervene(one, do))[0, 0] / 2 for d in draws])
    expected = np.where(inside, np.sqrt(np.square(drawn - shift / 2).mean(axis=0)), 0)
    np.testing.assert_allclose(study.image(row["uncertainty_path"]), expected, atol=1e-6)
    assert expected.max() > 1e-4
    assert (row["factual_age"], row["counterfactual_age"]) == (one["age"].iloc[0], one["age"].iloc[0] - 10)
    assert row["counterfactual_csf"] == pytest.approx(changed["csf_ml"].iloc[0])


def test_the_change_of_each_region_is_measured_on_the_volume(study: Study) -> None:
    do: dict[str, Any] = {"age": "-10"}
    older, younger = query(scans=["sub-48"]), query(name="younger", do=do, scans=["sub-48", "sub-49"])
    study.run(older, younger)
    regions = study.regions()
    assert len(regions) == 3 * 2
    one, inside = study.table[study.table["scan"] == "sub-48"], np.arange(4)[:, None, None] * np.ones(GRID) > 0

    def change_ml(scm: Scm) -> float:
        shift = latent_shift(scm, one, scm.intervene(one, do))[0, 0] / 2
        return float(shift[inside].sum()) / 10 / 2

    row = regions.loc[("younger", "sub-48", "gm")]
    assert row["before_ml"] == pytest.approx(study.volumes[48][inside].sum() / 20, rel=1e-5)
    assert row["change_ml"] == pytest.approx(change_ml(study.scm), rel=1e-4)
    assert row["change_percent"] == pytest.approx(100 * row["change_ml"] / row["before_ml"])
    drawn = [change_ml(study.scm.draw(k)) - change_ml(study.scm) for k in range(study.scm.draws)]
    half = FACTORS.factors["gm"] * np.sqrt(np.mean(np.square(drawn)))
    assert half > 0
    assert row["high_95_ml"] - row["change_ml"] == pytest.approx(half, rel=1e-3)
    assert row["change_ml"] - row["low_95_ml"] == pytest.approx(half, rel=1e-3)
    still = regions.loc[("younger", "sub-48", "wm")]
    assert still["change_ml"] == 0
    assert pd.isna(still["low_95_ml"])
    assert still["why_no_interval"] == "no draw of the parameters changes this region"
    study.run(younger)  # kept volumes keep their regions, and those of a removed question go
    pd.testing.assert_frame_equal(study.regions(), regions.loc[["younger"]])


def test_files_keep_the_scans_grid_and_say_where_they_come_from(study: Study) -> None:
    row = study.run(query(name="do-age_80", do={"age": 80}, scans=["sub-50"])).iloc[0]
    written = study.folder / "counterfactuals" / row["path"]
    assert written.name == "sub-50_space-T_res-3mm_desc-doAge80_T1w.nii.gz"
    source = nib.load(study.folder / "preproc" / study.table["preproc_t1w"].iloc[50])
    np.testing.assert_array_equal(nib.load(written).affine, source.affine)
    assert nib.load(written).get_data_dtype() == np.float32
    for column in ("path", "difference_path", "uncertainty_path"):
        sidecar = json.loads((study.folder / "counterfactuals" / row[column].replace(".nii.gz", ".json")).read_text())
        assert sidecar["Do"] == {"age": 80}
        assert sidecar["NodeValues"]["counterfactual_age"] == 80
        assert sidecar["Sources"] == [f"bids:preproc:{study.table['preproc_t1w'].iloc[50]}"]
    description = json.loads((study.folder / "counterfactuals" / "dataset_description.json").read_text())
    assert Identity.model_validate(description["Identity"]) == IDENTITY
    assert not list((study.folder / "counterfactuals").rglob("*partial*"))


def test_a_null_intervention_returns_the_scan(study: Study) -> None:
    row = study.run(query(do={"age": "+0"}, scans=["sub-50"])).iloc[0]
    np.testing.assert_array_equal(study.image(row["path"]).astype(np.float32), study.volumes[50])
    assert not study.image(row["difference_path"]).any()
    assert not study.image(row["uncertainty_path"]).any()
    assert pd.isna(row["pass_through"])


def test_bad_scans_are_listed_with_their_reason_and_the_others_go_on(study: Study) -> None:
    index, qc = (read_table(study.folder / name) for name in ("scans.tsv", "preproc/qc.tsv"))
    qc = qc.astype({"reasons": object})
    qc.loc[48, ["status", "reasons"]] = ["fail", "no brain found"]
    index.loc[49, "age"] = np.nan
    study.scans.path("sub-50", "preproc_t1w").write_bytes(b"not a gzip")
    write_table(index, study.folder / "scans.tsv")
    write_table(qc.drop(index=51), study.folder / "preproc" / "qc.tsv")
    study.scans = ScanTable.read(study.folder / "scans.tsv", study.folder / "preproc" / "qc.tsv")
    rows = np.array([row for row in range(N) if row != 52])
    study.store = replace(study.store, latents=study.latents[rows], scans=[study.store.scans[row] for row in rows])
    manifest = study.run(query()).set_index("scan")
    reasons = manifest.loc[manifest["status"] == "fail", "reason"]
    assert reasons.index.tolist() == ["sub-48", "sub-49", "sub-50", "sub-51", "sub-52"]
    assert reasons["sub-48"] == "preprocessing failed: no brain found"
    assert reasons["sub-49"] == "age is missing"
    assert "cannot be read" in reasons["sub-50"]
    assert reasons["sub-51"] == "preprocessing failed: no status"
    assert reasons["sub-52"] == "it has no latent; run encode_scans again"
    assert manifest.loc[manifest["status"] == "fail", "path"].isna().all()
    assert (manifest["status"] == "pass").sum() == 7


def test_a_query_is_planned_for_the_scans_that_can_be_used_and_keeps_those_that_cannot(study: Study) -> None:
    table = study.scans.leave_out(pd.Series({"sub-49": "it is upside down"}))
    plan = plan_for(study.scm, table, query(scans=["sub-48", "sub-49", "sub-50"]))
    assert plan.asked == ("sub-48", "sub-49", "sub-50")
    assert plan.rows.index.tolist() == plan.support.index.tolist() == ["sub-48", "sub-50"]
    assert len(plan.step) == 2


def test_a_causal_model_of_another_encoder_is_refused_before_anything_is_written(study: Study) -> None:
    study.store = replace(study.store, identity=IDENTITY.encoded_by("another"))
    with pytest.raises(BrainSCMError, match=r"causal model and the latents are of two different models; run fit_scm"):
        study.run(query())
    assert not (study.folder / "counterfactuals").exists()


def test_a_scan_alone_gives_the_same_volume_as_among_others(study: Study) -> None:
    among = study.image(study.run(query(scans="all")).set_index("scan").loc["sub-50", "path"])
    alone = study.image(study.run(query(scans=["sub-50"])).iloc[0]["path"])
    np.testing.assert_allclose(alone, among, atol=1e-6)


def test_an_unknown_scan_stops_the_job_before_anything_is_written(study: Study) -> None:
    with pytest.raises(ConfigError, match=r"\(older\).scans: 'sub-x48' is neither a scan nor a participant.*'sub-.8'"):
        study.run(query(scans=["sub-x48"]))
    assert not (study.folder / "counterfactuals").exists()


def test_questions_beyond_the_data_are_flagged(study: Study) -> None:
    manifest = study.run(query(do={"age": 95}), query(name="fine", do={"age": 50})).set_index("query")
    assert manifest.loc["older", "extrapolation"].all()
    assert manifest.loc["older", "warning"].str.contains("age 95 years lies outside the training range").all()
    assert manifest.loc["fine", "extrapolation"].mean() < 0.2
    assert (manifest.loc["fine", "positivity"] > 0).all()


def test_a_change_below_what_a_measured_node_can_be_is_refused(study: Study) -> None:
    nodes = {"age": {"unit": "years"}, "sex": {"levels": ["F", "M"]}, "csf": {"formula": "age", "family": "gamma"}}
    declared = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age + sex + csf"}})
    gamma = replace(study, scm=Scm.fit(study.table, study.latents, declared, seed=0))
    with pytest.raises(ConfigError, match=r"\(older\): csf: '-500' gives sub-48 -4.* a gamma node has values above 0"):
        gamma.run(query(do={"csf": "-500"}))


def test_an_intervention_that_cannot_reach_the_image_is_told(study: Study) -> None:
    declared = ScmOptions.model_validate({"nodes": {"age": {}, "sex": {}}, "image": {"formula": "age"}})
    scm = Scm.fit(study.table, study.latents, declared, seed=0)
    plan = plan_query(scm, study.table, query(do={"sex": "M"}))
    assert plan.support["warning"].str.contains("nothing leads from sex to the image").all()
    assert not plan.step.any()


def test_a_model_that_shrinkage_has_left_without_effects_is_told(study: Study) -> None:
    declared = ScmOptions.model_validate({"nodes": {"age": {}}, "image": {"formula": "age"}})
    noise = np.random.default_rng(1).normal(size=study.latents.shape)
    plan = plan_query(Scm.fit(study.table, noise, declared, seed=0), study.table, query(do={"age": 60}))
    assert plan.support["warning"].str.contains("no change is shown: no effect on the image stands out").all()
    plan = plan_query(Scm.fit(study.table, study.latents, declared, seed=0), study.table, query(do={"age": 60}))
    assert not plan.support["warning"].str.contains("stands out").any()


@pytest.mark.parametrize("decode", ["residual", "direct", "quantized"])
def test_the_files_hold_what_is_predicted_of_all_scans_at_once(study: Study, decode: Any) -> None:
    asked = query(decode=decode, do={"age": 75, "sex": "F"}, effect="direct")
    manifest = study.run(asked)
    rows = study.table[study.table["split"] == "test"]
    at = study.store.rows(rows["scan"])
    plan = plan_query(study.scm, rows, asked)
    factual = Factual(Halving(), *(torch.from_numpy(each[at]) for each in (study.volumes[:, None], study.latents)))
    made = predict(factual, study.scm.image, plan.step, decode)
    assert made.volume.shape == (12, 1, *GRID)
    for i, path in enumerate(manifest["path"]):
        np.testing.assert_allclose(study.image(path)[1:], made.volume[i, 0, 1:], atol=1e-5)
    drawn = [predict(factual, study.scm.image, step, decode, k).volume for k, step in enumerate(plan.drawn_steps)]
    assert len(drawn) == study.scm.draws
    if decode != "quantized":
        sd = (torch.stack(drawn) - made.volume).square().mean(dim=0).sqrt()
        for i, path in enumerate(manifest["uncertainty_path"]):
            np.testing.assert_allclose(study.image(path)[1:], sd[i, 0, 1:], atol=1e-5)


def test_a_decode_strategy_of_ones_own_is_asked_for_by_its_name(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(factual: Factual, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Twice the decoded change.

        A strategy as one may add it, who lists it in `STRATEGIES` and in the options.
        """
        difference = 2 * (factual.encoder.decode(factual.latents + shift) - factual.decoded)
        return factual.volumes + difference, difference

    monkeypatch.setitem(STRATEGIES, "doubled", doubled)
    asked = query(name="twice", do={"age": "-10"})
    asked.decode = "doubled"  # type: ignore[assignment]
    manifest = study.run(asked, query(name="once", do={"age": "-10"})).set_index("query")
    twice, once = (study.image(manifest.loc[name, "difference_path"].iloc[0]) for name in ("twice", "once"))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
    assert np.abs(once).max() > 0.01
    written = study.folder / "counterfactuals" / "sub-48" / "anat" / "sub-48_space-T_res-3mm_desc-twice_T1w.json"
    told = json.loads(written.read_text())
    assert (told["Decode"], told["Description"]) == ("doubled", "Counterfactual T1w. Twice the decoded change.")


@pytest.mark.parametrize("threads", [1, 3])
def test_memory_holds_a_scan_a_thread(study: Study, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    read: list[str] = []
    written: list[str] = []
    held: list[float] = []
    real_read: Callable[..., Any] = scans.read_volume
    real_write: Callable[..., Any] = synthesis.write_volume

    def reading(path: Path, grid: Any) -> Any:
        read.append(str(path))
        held.append(len(read) - len(written) / 6)
        return real_read(path, grid)

    def writing(path: Path, volume: Any, grid: Any, **how: Any) -> None:
        real_write(path, volume, grid, **how)
        written.append(str(path))

    monkeypatch.setattr(scans, "read_volume", reading)
    monkeypatch.setattr(synthesis, "write_volume", writing)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        study.run(query(), query(name="younger", do={"age": "-10"}))
    finally:
        torch.set_num_threads(before)
    # Each scan is read once, and all that is asked of it is written before its thread reads another; one thread more
    # than compute at once, which reads and writes meanwhile.
    assert len(set(read)) == len(read) == 12
    assert len(set(written)) == len(written) == 12 * 2 * 3
    assert max(held) <= threads + 1


def test_memory_is_flat_in_the_number_of_questions(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    real_make = synthesis.make_counterfactual

    def making(*given: Any) -> Any:
        alive.append(sum(volume() is not None for volume in made))
        found = real_make(*given)
        made.extend(weakref.ref(volume) for volume in (found.volume, found.difference, found.uncertainty))
        return found

    monkeypatch.setattr(synthesis, "make_counterfactual", making)
    study.run(*(query(name=f"older{k}", do={"age": f"+{k}"}, scans=["sub-50"]) for k in range(8)))
    assert len(alive) == 8
    assert max(alive) <= 3  # of the question before


def test_a_scan_is_computed_while_another_is_written(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, real_make, real_write = threading.Event(), synthesis.make_counterfactual, synthesis.write_volume
    at_once: list[int] = []
    makes: list[int] = []

    def making(*given: Any) -> Any:
        makes.append(1)
        at_once.append(len(makes) - len(done))
        if len(makes) > 1:
            computed.set()
        try:
            return real_make(*given)
        finally:
            done.append(1)

    done: list[int] = []

    def writing(*given: Any, **how: Any) -> None:
        assert computed.wait(60), "the next scan waits until this one is written"
        real_write(*given, **how)

    monkeypatch.setattr(synthesis, "make_counterfactual", making)
    monkeypatch.setattr(synthesis, "write_volume", writing)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        manifest = study.run(query(scans=["sub-50", "sub-51"]))
    finally:
        torch.set_num_threads(before)
    assert manifest["status"].tolist() == ["pass", "pass"]
    assert max(at_once) == 1  # and no more scans at once than there are threads


@pytest.mark.parametrize(("float_type", "gzip_level"), [("float64", 0), ("float32", 9)])
def test_volumes_are_written_in_the_type_and_compression_of_the_config(
    study: Study, float_type: Any, gzip_level: int
) -> None:
    asked = query(scans=["sub-50"], jacobian=True)
    usual = study.run(asked).iloc[0]
    voxels, times = study.image(usual["path"]), written(study)
    study.volumes_options = VolumeOptions(float_type=float_type, gzip_level=gzip_level)
    row = study.run(asked).iloc[0]
    for column in ("path", "difference_path", "uncertainty_path", "jacobian_path"):
        path = study.folder / "counterfactuals" / row[column]
        assert nib.load(path).get_data_dtype() == np.dtype(float_type)
        content = path.read_bytes()
        # In a gzip header (RFC 1952) 2 means the slowest way; and what is only stored is as large as its voxels.
        assert (content[8] == 2) == (gzip_level == 9)
        assert (len(content) > 352 + np.dtype(float_type).itemsize * voxels.size) == (gzip_level == 0)
    np.testing.assert_array_equal(study.image(row["path"]), voxels)
    assert all(time > times[name] for name, time in written(study).items())  # not kept as they were


def written(study: Study) -> dict[str, float]:
    """When each volume was last written."""
    return {path.name: path.stat().st_mtime_ns for path in (study.folder / "counterfactuals").rglob("*_T1w.nii.gz")}


def test_only_what_is_new_or_changed_is_made_again(study: Study) -> None:
    asked = query(scans=["sub-50", "sub-51"])
    first = study.run(asked)
    before = written(study)
    study.run(query(scans=["sub-50", "sub-51", "sub-52"]))
    after = written(study)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    (study.folder / "counterfactuals" / first["uncertainty_path"][1]).unlink()
    pd.testing.assert_frame_equal(study.run(asked), first)
    again = written(study)
    assert {name for name in before if again[name] != before[name]} == {
        name for name in before if name.startswith("sub-51")
    }
    study.run(query(scans=["sub-50", "sub-51"], do={"age": "+20"}))
    assert all(time > again[name] for name, time in written(study).items())


def test_of_a_job_that_is_killed_whole_scans_are_kept_and_no_half_written_one_is_used(study: Study) -> None:
    asked = query(scans=["sub-50", "sub-51", "sub-52", "sub-53"])
    study.run(asked)
    root = study.folder / "counterfactuals"
    undisturbed = {path.name: path.read_bytes() for path in root.rglob("*_T1w.nii.gz")}
    shutil.rmtree(root)
    child = os.fork()
    if child == 0:
        write = nib.Nifti1Image.to_stream

        def die(image: nib.Nifti1Image, file: Any) -> None:
            write(image, file)
            if "sub-53" in str(file.name):
                os.kill(os.getpid(), signal.SIGKILL)  # before the last bytes

        nib.Nifti1Image.to_stream = die
        torch.set_num_threads(1)  # hardly two scans at a time
        try:
            study.run(asked)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    half = list(root.rglob("sub-53*_T1w.nii.gz"))
    kept = {name: time for name, time in written(study).items() if name.startswith("sub-50")}
    assert len(half) == 1
    assert half[0].parent.name.endswith(".partial")
    assert len(kept) == 3
    study.run(asked)
    assert written(study).items() >= kept.items()
    assert {path.name: path.read_bytes() for path in root.rglob("*_T1w.nii.gz")} == undisturbed


def test_a_mended_scan_or_another_model_makes_its_volumes_anew(study: Study) -> None:
    asked = query(scans=["sub-50", "sub-51"])
    study.run(asked)
    before = written(study)
    source = study.scans.path("sub-50", "preproc_t1w")
    nib.save(nib.Nifti1Image(study.volumes[50] * 0.9, nib.load(source).affine), source)
    study.run(asked)
    mended = written(study)
    assert {name for name in before if mended[name] != before[name]} == {
        name for name in before if name.startswith("sub-50")
    }
    study.origin = {"CausalModelSHA256": "another"}
    study.run(asked)
    assert all(time > mended[name] for name, time in written(study).items())


def test_the_files_of_a_question_that_is_gone_go_and_nobody_elses(study: Study) -> None:
    root = study.folder / "counterfactuals"
    study.run(query(scans=["sub-50", "sub-51"]), query(name="younger", do={"age": "-10"}, scans=["sub-50"]))
    own = root / "sub-50" / "anat" / "sub-50_desc-mine_T1w.nii.gz"
    own.write_bytes(b"")
    sidecar(own).write_text('{"Description": "drawn by hand"}')
    (root / "sub-50" / "anat" / "sub-50_desc-bare_T1w.nii.gz").write_bytes(b"")
    write_table(pd.DataFrame(), root / "questions" / "gone" / "1-of-1.tsv")
    manifest = study.run(query(scans=["sub-50"]))
    paths = {path for column in ("path", "difference_path", "uncertainty_path") for path in manifest[column]}
    left = {path.relative_to(root).as_posix() for path in root.rglob("*.nii.gz")} - paths
    assert left == {f"sub-50/anat/sub-50_desc-{label}_T1w.nii.gz" for label in ("mine", "bare")}
    assert len(list(root.rglob("sub-*.json"))) == 4
    assert [path.name for path in (root / "questions").iterdir()] == ["q"]


def test_members_of_a_trajectory_say_so(study: Study) -> None:
    members = [query(name=f"ageing-age{age}", do={"age": age}, scans=["sub-50"]) for age in (50, 60)]
    for member in members:
        member.trajectory = "ageing"
    manifest = study.run(*members, query(scans=["sub-50"]))
    assert manifest["trajectory"].tolist()[:2] == ["ageing", "ageing"]
    assert pd.isna(manifest["trajectory"][2])
    assert [Path(path).name for path in manifest["path"][:2]] == [
        f"sub-50_space-T_res-3mm_desc-ageingAge{age}_T1w.nii.gz" for age in (50, 60)
    ]


def test_a_side_car_tells_all_that_made_its_volume(study: Study) -> None:
    study.origin = {"CausalModelSHA256": "abc", "Seed": 3}
    row = study.run(query(scans=["sub-50"])).iloc[0]
    told = json.loads((study.folder / "counterfactuals" / row["path"].replace(".nii.gz", ".json")).read_text())
    assert (told["SpatialReference"], told["Resolution"]) == ("T", "3 mm isotropic")
    assert (told["CausalModelSHA256"], told["Seed"], told["Decode"], told["Draws"]) == ("abc", 3, "residual", "moved")
    assert told["Support"]["positivity"] == row["positivity"]
    assert told["PassThrough"] == pytest.approx(row["pass_through"])
    ignored = (study.folder / "counterfactuals" / ".bidsignore").read_text().split()
    assert ignored == ["manifest.tsv", "plan.tsv", "questions", "regions.tsv", "regions", "*LogJacobian_map.*", "group"]


def test_shards_write_what_one_job_would_have_written(study: Study) -> None:
    ids = ["sub-50", "sub-51", "sub-52", "sub-53"]
    study.scans.path("sub-53", "preproc_t1w").write_bytes(b"damaged")  # a row without numbers
    asked = [query(scans=ids, group=True), query(name="younger", do={"age": "-10"}, scans=ids[::-1], jacobian=True)]
    root = study.folder / "counterfactuals"

    def written() -> dict[str, bytes]:
        kept = ("questions", "regions")
        files = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        return {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] not in kept}

    study.run(*asked)
    whole = written()
    assert b"fail" in whole["manifest.tsv"]
    shutil.rmtree(root)
    study.run(*asked, shards=4)
    assert len({Shard(4, 4).holds(scan) for scan in ids} | {Shard(1, 4).holds(scan) for scan in ids}) == 2
    assert written() == whole


def test_group_maps_are_means_over_participants_and_a_trajectory_is_a_series(study: Study) -> None:
    rows = study.table.copy()
    rows.loc["sub-51", "participant"] = "sub-50"  # two scans of one participant, who counts once
    study.scans = replace(study.scans, rows=rows)
    asked = {"scans": ["sub-50", "sub-52", "sub-53"], "group": True, "trajectory": "ageing"}
    members = [query(name=f"ageing-age{age}", do={"age": age}, **asked) for age in (50, 60)]
    alone = query(do={"age": "-10"}, scans=["sub-50"], group=True)
    manifest = study.run(*members, alone).set_index(["query", "scan"])
    row = manifest.loc["ageing-age60", "sub-50"]
    assert row["group_path"] == "group/query-ageing_space-T_res-3mm_stat-effect_statmap.nii.gz"
    paths = [manifest.loc[("ageing-age60", f"sub-{k}"), "difference_path"] for k in (50, 51, 52, 53)]
    first, second, *others = (study.image(path) for path in paths)
    own = np.array([(first + second) / 2, *others])
    effect, error = (study.image(row[column]) for column in ("group_path", "group_error_path"))
    assert effect.shape == (*GRID, 2)
    np.testing.assert_allclose(effect[..., 1], own.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(error[..., 1], own.std(axis=0, ddof=1) / np.sqrt(3), atol=1e-7)
    told = json.loads(sidecar(study.folder / "counterfactuals" / row["group_path"]).read_text())
    assert (told["Members"], told["Participants"]) == ([{"age": 50}, {"age": 60}], [3, 3])
    assert study.image(manifest.loc[("older", "sub-51"), "group_path"]).shape == GRID
    study.run(alone)
    assert len(list((study.folder / "counterfactuals" / "group").glob("*.nii.gz"))) == 2
