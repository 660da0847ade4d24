"""The stage as a whole: what it writes, and that this fits together."""

import json

import pytest
import torch
from test_training_fit import IDENTITY, SPLITS, measure, task_in

import brainscm.training.stage
from brainscm.encoding.model import encoder_identity, load_encoder
from brainscm.tables import read_table
from brainscm.training.fit import fit_autoencoder
from brainscm.training.stage import run
from made_up_scans import GRID, write_scans


class DrawnTemplate:
    """What the stage takes from a template."""

    voxel_mm = 3.0
    brain_mask = torch.ones(GRID.shape).numpy() > 0
    brain = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.fixture(autouse=True)
def template(monkeypatch):
    asked = []
    monkeypatch.setattr(brainscm.training.stage, "load_template", lambda *args: asked.append(args) or DrawnTemplate)
    monkeypatch.setattr(brainscm.training.stage, "MeasureTissues", lambda template: measure)
    return asked


@pytest.mark.parametrize("kind", ["vqvae", "pca"])
@pytest.mark.parametrize("alignment", ["deformable", "none"])
def test_the_stage_writes_a_model_and_what_tells_of_it(tmp_path, template, kind, alignment):
    scans = write_scans(tmp_path, SPLITS, is_aligned=alignment != "none")
    task, out = task_in(tmp_path, kind=kind, alignment=alignment), tmp_path / "autoencoder"
    run(task, "T", out)
    written = {"model.pt", "model.json", "history.tsv", "codes.tsv", "reconstruction.tsv", "progress.png"}
    assert {path.name for path in out.iterdir()} == {*written, "reconstructions"}
    assert len(list((out / "reconstructions").iterdir())) == len(task.scans.usable)
    assert template == [("T", 3.0, task.work_dir / "template")]

    encoder, fitted = load_encoder(out / "model.pt"), fit_autoencoder(task)
    assert encoder.kind == kind
    assert encoder.is_aligned == (alignment != "none")
    inner = encoder.inner if encoder.is_aligned else encoder
    for name, tensor in fitted.encoder.state_dict().items():
        assert torch.equal(inner.state_dict()[name], tensor), name
    if encoder.is_aligned:
        assert torch.equal(encoder.alignment.target, torch.from_numpy(DrawnTemplate.brain))
        assert encoder.alignment.voxel_mm == 3.0

    reconstruction = read_table(out / "reconstruction.tsv")
    assert reconstruction["scan"].tolist() == scans.rows["scan"].tolist()
    assert reconstruction["brain_error_ml"].notna().tolist() == [split != "train" for split in SPLITS]
    assert len(read_table(out / "history.tsv")) == len(fitted.history)

    card = json.loads((out / "model.json").read_text())
    assert card["kind"] == kind
    assert card["identity"] == encoder_identity(out / "model.pt").as_json()
    assert card["identity"] == {**IDENTITY.as_json(), "encoder": card["identity"]["encoder"]}
    assert card["latent_shape"] == list(encoder.latent_shape)
    assert card["grid"] == {"shape": list(GRID.shape), "affine": GRID.affine.tolist()}
    assert card["data"] == {"fingerprint": fitted.data_fingerprint, "scans": {"train": 4, "validation": 1, "test": 2}}
    assert card["options"] == task.options.model_dump()
    assert card["steps"] == (4 if kind == "vqvae" else 0)
    test = reconstruction[reconstruction["split"] == "test"]
    assert card["metrics"]["test"]["psnr_brain_db"] == pytest.approx(test["psnr_brain_db"].mean())
    assert set(card["metrics"]) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("kind", "processes", "mpi", "launched"),
    [("vqvae", 0, None, False), ("vqvae", 1, None, False), ("vqvae", 2, None, True), ("vqvae", 1, "srun", True),
     ("pca", 4, "srun", False)],
)  # fmt: skip
def test_several_processes_are_started_where_there_is_work_for_them(
    tmp_path, monkeypatch, kind, processes, mpi, launched
):
    write_scans(tmp_path, SPLITS)
    calls = []
    monkeypatch.setattr(brainscm.training.stage, "launch", lambda *given: calls.append(given))
    task = task_in(tmp_path, kind=kind)
    run(task, "T", tmp_path / "autoencoder", processes, mpi)
    assert calls == ([(task, processes, mpi)] if launched else [])
