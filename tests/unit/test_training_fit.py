"""From the table of scans to a model with its card, of either kind, and its refusal for other scans."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from test_training_volume_store import GRID, write_scans

from brainscm.config import AutoencoderOptions
from brainscm.encoding.aligned import Aligned, align
from brainscm.encoding.model import save_encoder
from brainscm.encoding.pca import PCA
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.images import Grid
from brainscm.training.card import check_card, make_card
from brainscm.training.fidelity import psnr
from brainscm.training.fit import FittedAutoencoder, fit_autoencoder
from brainscm.training.reconstruction import reconstruction_table

PREPROCESSING = {"template": "MNI152NLin2009aSym", "voxel_mm": 3.0, "transform": "affine"}
IDENTITY = Identity(template="MNI152NLin2009aSym", voxel_mm=3.0, transform="affine")
OPTIONS = {
    kind: AutoencoderOptions(
        kind=kind,
        alignment="none",
        channels=[4],
        residual_blocks=1,
        latent_channels=4,
        codebook_size=8,
        max_steps=4,
        validation_interval=2,
        components=3,
    )
    for kind in ("vqvae", "pca")
}


@pytest.fixture
def scans(tmp_path: Path) -> pd.DataFrame:
    return write_scans(tmp_path / "preproc", 7).assign(split=["train"] * 4 + ["validation"] + ["test"] * 2)


def fit(scans: pd.DataFrame, work_dir: Path, kind: str = "pca", seed: int = 1) -> FittedAutoencoder:
    return fit_autoencoder(scans, PREPROCESSING, OPTIONS[kind], seed, work_dir)


def make_model_and_card(scans: pd.DataFrame, folder: Path, kind: str) -> tuple[Path, Path]:
    fitted = fit(scans, folder / "work", kind)
    model_path, card_path = folder / "model.pt", folder / "model.json"
    save_encoder(fitted.model, IDENTITY, model_path)
    reconstruction = reconstruction_table(fitted.model, scans, fitted.grid, torch.device("cpu"))
    card = make_card(fitted, model_path, PREPROCESSING, OPTIONS[kind], 1, reconstruction)
    card_path.write_text(json.dumps(card))
    return model_path, card_path


@pytest.mark.parametrize("kind", ["vqvae", "pca"])
def test_a_fit_leaves_a_model_a_picture_and_a_history(scans, tmp_path, kind):
    fitted = fit(scans, tmp_path / "work", kind)
    assert fitted.model.kind == kind
    assert fitted.model.grid_shape == GRID.shape
    assert fitted.picture.read_bytes().startswith(b"\x89PNG")
    assert fitted.history["step"].tolist() == ([0, 2, 2, 4, 4] if kind == "vqvae" else [])


def test_aligned_scans_are_what_an_aligning_model_learns(scans, tmp_path, monkeypatch):
    """The inner model is fitted on scans brought to the template, and each displacement is found once."""
    brain = np.asarray(nib.load(scans["image"].iloc[0]).dataobj, np.float32)
    drawn = SimpleNamespace(brain=brain, brain_mask=brain > 0, voxel_mm=3.0)
    monkeypatch.setattr("brainscm.training.fit.load_template", lambda *_: drawn)
    preprocessing = {"template": "MNI152NLin2009aSym", "options": {"voxel_mm": 3.0}}
    options = OPTIONS["pca"].model_copy(update={"alignment": "deformable"})
    model = fit_autoencoder(scans, preprocessing, options, 1, tmp_path / "work").model
    assert isinstance(model, Aligned)
    train = scans[scans["split"] == "train"]["image"]
    volumes = [torch.from_numpy(np.asarray(nib.load(path).dataobj, np.float32)) for path in train]
    aligned = torch.stack([align(volume, model.alignment.displacement(volume)) for volume in volumes])
    expected = PCA.fit(aligned[:, None].half().numpy(), 3)
    torch.testing.assert_close(model.inner.mean, expected.mean, atol=1e-3, rtol=0)


def test_the_test_split_is_never_seen(scans, tmp_path):
    seen = fit(scans, tmp_path / "work").model
    Path(scans["image"].iloc[-1]).write_bytes(b"spoilt")
    assert torch.equal(fit(scans, tmp_path / "other").model.components, seen.components)


def test_each_training_has_a_state_of_its_own(scans, tmp_path):
    first = fit(scans, tmp_path / "work").picture.parent
    assert fit(scans, tmp_path / "work").picture.parent == first
    assert fit(scans, tmp_path / "work", seed=2).picture.parent != first
    assert fit(scans, tmp_path / "work", kind="vqvae").picture.parent != first
    assert fit(scans[1:], tmp_path / "work").picture.parent != first


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("validation", "validation")])
def test_an_empty_split_is_told(scans, tmp_path, split, name):
    with pytest.raises(BrainSCMError, match=f"the {name} split has no usable scan"):
        fit(scans[scans["split"] != split], tmp_path)


def test_every_scan_is_reconstructed(scans, tmp_path):
    fitted = fit(scans, tmp_path / "work")
    table = reconstruction_table(fitted.model, scans, fitted.grid, torch.device("cpu"))
    assert table["scan"].tolist() == scans["scan"].tolist()
    train, held_out = table[table["split"] == "train"], table[table["split"] != "train"]
    assert train["psnr_brain_db"].min() > held_out["psnr_brain_db"].max()
    assert np.array_equal(table["psnr_brain_db"], table["quantized_psnr_brain_db"])
    # float16 storage of the training volumes costs less than 0.1 dB
    assert psnr(fitted.model.mean.numpy(), 0 * fitted.model.mean.numpy()) < train["psnr_db"].min()


def test_regional_volumes_of_people_not_trained_on_are_compared(scans, tmp_path):
    fitted = fit(scans, tmp_path / "work")

    def segment(volume, mask):
        return {"brain": float(volume[mask].sum())}

    table = reconstruction_table(fitted.model, scans, fitted.grid, torch.device("cpu"), segment).set_index("split")
    assert table.loc["train", "brain_error_ml"].isna().all()
    assert table.drop("train")["brain_error_ml"].abs().min() > 0


@pytest.mark.parametrize("kind", ["vqvae", "pca"])
def test_the_card_accepts_the_scans_it_was_made_from(scans, tmp_path, kind):
    model_path, card_path = make_model_and_card(scans, tmp_path, kind)
    card = check_card(card_path, model_path, PREPROCESSING, GRID)
    assert card["kind"] == kind
    assert card["data"]["scans"] == {"train": 4, "validation": 1, "test": 2}
    assert set(card["metrics"]) == {"train", "validation", "test"}
    assert card["options"] == OPTIONS[kind].model_dump()


def test_the_card_refuses_scans_preprocessed_otherwise_and_names_the_difference(scans, tmp_path):
    model_path, card_path = make_model_and_card(scans, tmp_path, "pca")
    with pytest.raises(BrainSCMError, match=r"voxel_mm is 2.0 instead of 3.0"):
        check_card(card_path, model_path, {**PREPROCESSING, "voxel_mm": 2.0}, GRID)
    with pytest.raises(BrainSCMError, match="template is 'Other' instead of 'MNI152NLin2009aSym'"):
        check_card(card_path, model_path, {**PREPROCESSING, "template": "Other"}, GRID)
    with pytest.raises(BrainSCMError, match=r"8×8×8 at 3×3×3 mm .* instead of 8×8×16"):
        check_card(card_path, model_path, PREPROCESSING, Grid((8, 8, 8), GRID.affine))


def test_the_card_of_another_model_is_refused(scans, tmp_path):
    model_path, card_path = make_model_and_card(scans, tmp_path, "pca")
    save_encoder(fit(scans[1:], tmp_path / "other").model, IDENTITY, model_path)
    with pytest.raises(BrainSCMError, match="is not the card of"):
        check_card(card_path, model_path, PREPROCESSING, GRID)
