"""From scans to a fitted encoder of any kind: what it is fitted on, and which state belongs to which training."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brainscm.config import AutoencoderOptions
from brainscm.encoding.pca import PCA
from brainscm.errors import BrainSCMError
from brainscm.files import reconstruction_name
from brainscm.identity import Identity
from brainscm.images import read_volume
from brainscm.scans import ScanTable
from brainscm.training.fit import FittedAutoencoder, fit_autoencoder
from brainscm.training.history import Progress
from brainscm.training.reconstruction import BRIGHTEST, reconstruction_table
from brainscm.training.task import TrainingTask
from brainscm.training.trainer import Trainer
from brainscm.training.volume_store import VolumeStore
from made_up_measure import measured_by
from made_up_scans import GRID, write_image, write_scans

SPLITS = ["train"] * 4 + ["validation"] + ["test"] * 2
IDENTITY = Identity(template="MNI152NLin2009aSym", voxel_mm=3.0, transform="affine")
OPTIONS = {
    "kind": "pca", "alignment": "none", "channels": [4], "residual_blocks": 1, "latent_channels": 4, "codebook_size": 8,
    "max_steps": 4, "validation_interval": 2, "components": 3,
}  # fmt: skip


def task_in(folder: Path, seed: int = 1, work: str = "work", **options: object) -> TrainingTask:
    """On the scans that lie in `folder`."""
    return TrainingTask(
        scans_tsv=folder / "scans.tsv",
        qc_tsv=folder / "preproc" / "qc.tsv",
        identity=IDENTITY,
        options=AutoencoderOptions.model_validate({**OPTIONS, **options}),
        seed=seed,
        work_dir=folder / work,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scans(tmp_path, SPLITS, is_aligned=True)
    return tmp_path


def split_volumes(scans: ScanTable, split: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(scans.volume(scan)) for scan in scans.of_split(split)["scan"]])[:, None]


@pytest.mark.parametrize("kind", ["vqvae", "pca"])
def test_a_fit_leaves_an_encoder_a_picture_and_a_history(folder, kind):
    task = task_in(folder, kind=kind)
    fitted = fit_autoencoder(task)
    assert fitted.encoder.kind == kind
    assert fitted.encoder.grid_shape == GRID.shape
    assert fitted.picture.read_bytes().startswith(b"\x89PNG")
    assert fitted.history["step"].tolist() == ([0, 2, 2, 4, 4] if kind == "vqvae" else [])
    assert fitted.steps == (4 if kind == "vqvae" else 0)
    assert fitted.parameters > 1000
    assert fitted.codes["split"].tolist() == (["train"] * 4 + ["validation"] * 4 if kind == "vqvae" else [])


def test_what_is_told_of_a_training_is_how_far_it_came(folder, monkeypatch):
    def run(trainer: Trainer) -> None:
        trainer.progress = Progress(step=9, best_step=6, seconds=2.5, history=[{"step": 6, "split": "validation"}])

    monkeypatch.setattr(Trainer, "run", run)
    fitted = fit_autoencoder(task_in(folder, kind="vqvae", device="cpu"))
    assert (fitted.steps, fitted.best_step, fitted.seconds, fitted.device) == (9, 6, 2.5, "cpu")
    assert fitted.history["step"].tolist() == [6]
    assert fitted.parameters == sum(parameter.numel() for parameter in fitted.encoder.parameters())


def test_the_encoder_is_fitted_on_the_training_scans_alone(folder):
    task = task_in(folder)
    encoder = fit_autoencoder(task).encoder
    expected = PCA.fit(split_volumes(task.scans, "train").half().numpy(), 3)
    assert torch.equal(encoder.components, expected.components)


def test_aligned_scans_are_what_an_aligning_encoder_learns(folder):
    task = task_in(folder, alignment="deformable")
    encoder = fit_autoencoder(task).encoder
    chosen = task.scans.of_split("train")["scan"].tolist()
    aligned = VolumeStore.open_or_build(task.scans, chosen, folder / "other", is_aligned=True)
    assert torch.equal(encoder.components, PCA.fit(aligned.volumes, 3).components)
    assert not torch.allclose(encoder.components, fit_autoencoder(task_in(folder)).encoder.components)


def test_the_test_split_is_never_seen(folder):
    seen = fit_autoencoder(task_in(folder)).encoder
    (folder / "preproc" / "sub-6_T1w.nii.gz").write_bytes(b"spoilt")
    assert torch.equal(fit_autoencoder(task_in(folder, work="other")).encoder.components, seen.components)


def state_of(fitted: FittedAutoencoder) -> Path:
    return fitted.picture.parent


def test_each_training_has_a_state_of_its_own(folder):
    first = state_of(fit_autoencoder(task_in(folder)))
    assert state_of(fit_autoencoder(task_in(folder))) == first
    assert state_of(fit_autoencoder(task_in(folder, device="cpu"))) == first
    others = [task_in(folder, seed=2), task_in(folder, components=2), task_in(folder, alignment="deformable")]
    others.append(task_in(folder).model_copy(update={"identity": IDENTITY.model_copy(update={"voxel_mm": 2.0})}))
    states = {first, *(state_of(fit_autoencoder(task)) for task in others)}
    assert len(states) == 5
    write_image(folder / "preproc" / "sub-4_T1w.nii.gz", split_volumes(task_in(folder).scans, "test")[0, 0].numpy())
    assert state_of(fit_autoencoder(task_in(folder))) not in states


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("validation", "validation")])
def test_an_empty_split_is_told(tmp_path, split, name):
    write_scans(tmp_path, [other for other in SPLITS if other != split])
    with pytest.raises(BrainSCMError, match=f"the {name} split has no usable scan"):
        fit_autoencoder(task_in(tmp_path))


def test_a_task_survives_its_file(folder):
    task = task_in(folder, channels=[8, 16])
    assert TrainingTask.model_validate_json(task.model_dump_json()) == task


@measured_by
def measure(volume, mask, head_size):
    return {"brain": float(volume[mask].sum()), "everything": float(volume.sum())}


def test_every_usable_scan_is_reconstructed_and_kept_to_be_looked_at(folder, tmp_path):
    task = task_in(folder)
    encoder = fit_autoencoder(task).encoder
    scans = task.scans.leave_out(pd.Series({"sub-5": "spoilt"}))
    table = reconstruction_table(encoder, scans, measure, tmp_path)
    assert table["scan"].tolist() == ["sub-0", "sub-1", "sub-2", "sub-3", "sub-4", "sub-6"]
    assert table["split"].tolist() == [*SPLITS[:5], "test"]
    for scan in table["scan"]:
        volume = torch.from_numpy(scans.volume(scan))
        decoded = encoder.decode(encoder.encode(volume[None, None]))[0, 0].numpy().clip(0, BRIGHTEST)
        kept = read_volume(tmp_path / reconstruction_name(scan), scans.grid)
        assert np.abs(kept - decoded).max() <= 0.51 * np.ptp(decoded) / 255
    # Three components hold four scans but for the half precision in which they are stored.
    train, held_out = table[table["split"] == "train"], table[table["split"] != "train"]
    assert train["psnr_brain_db"].min() > 55
    assert held_out["psnr_brain_db"].max() < 20
    assert train["ssim_brain"].min() > 0.999 > held_out["ssim_brain"].max()
    assert (table["psnr_brain_db"] == table["quantized_psnr_brain_db"]).all()  # PCA has no codes


def test_regional_volumes_of_participants_not_trained_on_are_compared(folder, tmp_path):
    task = task_in(folder)
    encoder = fit_autoencoder(task).encoder
    table = reconstruction_table(encoder, task.scans, measure, tmp_path).set_index("scan")
    assert table.loc[table["split"] == "train", "brain_error_ml"].isna().all()
    volume, mask = torch.from_numpy(task.scans.volume("sub-6")), task.scans.mask("sub-6")
    decoded = encoder.decode(encoder.encode(volume[None, None]))[0, 0]
    for region, inside in (("brain", mask), ("everything", mask | True)):
        expected = float((decoded - volume)[torch.from_numpy(inside)].sum())
        assert math.isclose(table.at["sub-6", f"{region}_error_ml"], expected, rel_tol=1e-3, abs_tol=1e-3)


@pytest.mark.parametrize("quantized", [False, True], ids=["continuous", "quantised"])
def test_the_two_reconstructions_are_not_mixed_up(folder, tmp_path, quantized):
    task = task_in(folder, kind="vqvae", quantizer_step=1.0)
    encoder = fit_autoencoder(task).encoder
    row = reconstruction_table(encoder, task.scans, measure, tmp_path).iloc[-1]
    volume, mask = torch.from_numpy(task.scans.volume("sub-6")), torch.from_numpy(task.scans.mask("sub-6"))
    latents = encoder.encode(volume[None, None])
    decoded = encoder.decode(encoder.quantize(latents) if quantized else latents)[0, 0]
    psnr = -10 * math.log10(float((decoded - volume)[mask].square().mean()))
    assert math.isclose(row["quantized_psnr_brain_db" if quantized else "psnr_brain_db"], psnr, abs_tol=1e-3)
