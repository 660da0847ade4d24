"""The store of latents: the right rows, the same alone as in company, never half written, for its own scans alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_encoding_model import OPTIONS, trained_vqvae

from brainscm.alignment.registration import Alignment
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.layout import Layout, Mirror
from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.vqvae import VQVAE
from brainscm.errors import BrainSCMError, ScanError
from brainscm.identity import Identity
from brainscm.latents.collect import collect
from brainscm.latents.encode import encode_scans, run
from brainscm.latents.store import LatentStore
from brainscm.provenance import SCRIPTS
from brainscm.scans import ScanTable
from brainscm.shards import Shard
from made_up_scans import GRID, write_scans

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
ENCODED = IDENTITY.encoded_by("hash")


@pytest.fixture
def encoder() -> VQVAE:
    return trained_vqvae(OPTIONS, GRID.shape)


def test_rows_are_the_usable_scans(tmp_path, encoder):
    scans = write_scans(tmp_path, ["train", "validation", "test"]).leave_out(pd.Series({"sub-1": "spoilt"}))
    encode_scans(scans, encoder, ENCODED, tmp_path / "latents.zarr")
    store = LatentStore.open(tmp_path / "latents.zarr")
    assert store.scans == ("sub-0", "sub-2")
    assert store.identity == ENCODED
    assert store.layout == encoder.layout
    latents = store.latents
    assert latents.shape == (2, *encoder.latent_shape)
    assert latents.array.chunks == (1, *encoder.latent_shape)
    assert latents[0].dtype == np.float32
    for row, scan in enumerate(store.scans):
        volume = torch.from_numpy(scans.volume(scan))[None, None]
        assert np.array_equal(latents[row], encoder.encode(volume)[0].numpy())


def test_aligned_scans_are_encoded_by_the_displacements_that_were_found(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(Alignment, "displacement", lambda *_: pytest.fail("registered again"))
    scans = write_scans(tmp_path, ["train", "test"], is_aligned=True)
    aligned = Aligned(encoder, Alignment(torch.rand(GRID.shape), torch.ones(GRID.shape), 3.0))
    encode_scans(scans, aligned, ENCODED, tmp_path / "latents.zarr")
    latents = LatentStore.open(tmp_path / "latents.zarr").latents
    for row, scan in enumerate(("sub-0", "sub-1")):
        volume, displacement = (torch.from_numpy(part) for part in (scans.volume(scan), scans.displacement(scan)))
        found = aligned.encode(volume[None, None], displacement[None], [scans.levels(scan)])
        assert np.array_equal(latents[row], found[0].numpy())


def test_the_store_says_what_a_mirrored_latent_is(tmp_path, encoder):
    encoder.layout = Layout(encoder.layout.parts, Mirror([1, 0], [-1, 1]))
    encode_scans(write_scans(tmp_path, ["train"]), encoder, ENCODED, tmp_path / "latents.zarr")
    assert LatentStore.open(tmp_path / "latents.zarr").layout == encoder.layout


def test_a_scan_alone_has_the_same_latent_as_in_company(tmp_path, encoder):
    scans = write_scans(tmp_path, ["train"] * 3)
    encode_scans(scans, encoder, ENCODED, tmp_path / "all.zarr")
    alone = scans.leave_out(pd.Series({"sub-0": "another", "sub-2": "another"}))
    encode_scans(alone, encoder, ENCODED, tmp_path / "one.zarr")
    one, company = (LatentStore.open(tmp_path / name).latents for name in ("one.zarr", "all.zarr"))
    assert np.array_equal(one[0], company[1])


def test_a_failure_leaves_no_store_behind_and_the_next_run_mends_it(tmp_path, encoder):
    scans = write_scans(tmp_path, ["train", "train"])
    path, image = tmp_path / "latents.zarr", scans.path("sub-1", "preproc_t1w")
    content = image.read_bytes()
    image.write_bytes(content[:100])
    with pytest.raises(ScanError, match="sub-1_T1w"):
        encode_scans(scans, encoder, ENCODED, path)
    assert not path.exists()
    image.write_bytes(content)
    encode_scans(scans, encoder, ENCODED, path)
    encode_scans(scans, encoder, IDENTITY.encoded_by("again"), path)
    assert LatentStore.open(path).identity.encoder == "again"


def test_the_stage_remembers_the_model_and_refuses_scans_that_are_not_for_it(tmp_path: Path, encoder):
    scans, model, path = write_scans(tmp_path, ["train"]), tmp_path / "model.pt", tmp_path / "latents.zarr"
    saved = save_encoder(encoder, IDENTITY, model)
    run(scans, IDENTITY, model, path)
    store = LatentStore.open(path)
    assert store.identity == saved
    volume = torch.from_numpy(scans.volume("sub-0"))[None, None]
    assert np.array_equal(store.latents[0], load_encoder(model).encode(volume)[0].numpy())
    with pytest.raises(BrainSCMError, match=r"voxel_mm is 2.0 here and 3.0 there.*train the autoencoder again"):
        run(scans, IDENTITY.model_copy(update={"voxel_mm": 2.0}), model, path)
    with pytest.raises(BrainSCMError, match="template is 'Other' here and 'T' there"):
        run(scans, IDENTITY.model_copy(update={"template": "Other"}), model, path)
    save_encoder(trained_vqvae(OPTIONS, (8, 8, 8)), IDENTITY, model)
    with pytest.raises(BrainSCMError, match=r"the grid is 8×8×16 at 3×3×3 mm .* here and 8×8×8 there"):
        run(scans, IDENTITY, model, path)


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize("count", [2, 8])  # several scans in one shard, none in another
def test_gathered_shards_are_the_store_of_one_job_byte_for_byte(tmp_path, encoder, count):
    scans = write_scans(tmp_path, ["train"] * 5).leave_out(pd.Series({"sub-3": "spoilt"}))
    encode_scans(scans, encoder, ENCODED, tmp_path / "one.zarr")
    shards = [tmp_path / "shards" / f"{number}-of-{count}.zarr" for number in range(1, count + 1)]
    for number, shard in enumerate(shards, start=1):
        encode_scans(scans, encoder, ENCODED, shard, Shard(number, count))
    (tmp_path / "shards" / "1-of-4.zarr").mkdir()  # of another dealing
    collect(shards, scans.usable["scan"].tolist(), tmp_path / "latents.zarr")
    assert content(tmp_path / "latents.zarr") == content(tmp_path / "one.zarr")
    assert {*(tmp_path / "shards").iterdir()} == {*shards}


# Encodes two scans, and dies with the second half written.
KILLED = """
import os, signal, sys
from pathlib import Path
from brainscm.encoding.model import load_encoder
from brainscm.identity import Identity
from brainscm.latents import encode
from brainscm.scans import ScanTable
folder = Path(sys.argv[1])
encode_scan = encode.encode_scan

def die(encoder, scans, scan):
    if scan == "sub-1":
        os.kill(os.getpid(), signal.SIGKILL)
    return encode_scan(encoder, scans, scan)

encode.encode_scan = die
scans = ScanTable.read(folder / "scans.tsv", folder / "preproc" / "qc.tsv")
identity = Identity(template="T", voxel_mm=3, transform="affine")
encode.run(scans, identity, folder / "model.pt", folder / "shards" / "1-of-1.zarr")
"""


def test_a_shard_that_is_killed_is_taken_for_none_and_made_by_the_next_run(tmp_path, encoder):
    write_scans(tmp_path, ["train", "test"])
    save_encoder(encoder, IDENTITY, tmp_path / "model.pt")
    shard = tmp_path / "shards" / "1-of-1.zarr"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(SCRIPTS)}
    )
    assert killed.returncode == -signal.SIGKILL
    assert not shard.exists()
    with pytest.raises(BrainSCMError, match="is not a store of latents"):
        collect([shard], ["sub-0", "sub-1"], tmp_path / "latents.zarr")
    scans = ScanTable.read(tmp_path / "scans.tsv", tmp_path / "preproc" / "qc.tsv")
    run(scans, IDENTITY, tmp_path / "model.pt", shard)
    assert [path.name for path in shard.parent.iterdir()] == [shard.name]
    collect([shard], ["sub-0", "sub-1"], tmp_path / "latents.zarr")


def test_a_gather_uses_no_damaged_shard_and_no_other_models(tmp_path, encoder):
    scans = write_scans(tmp_path, ["train", "test"])
    shards = [tmp_path / "shards" / f"{number}-of-2.zarr" for number in (1, 2)]
    for number, shard in enumerate(shards, start=1):
        encode_scans(scans, encoder, ENCODED, shard, Shard(number, 2))
    names = scans.usable["scan"].tolist()
    with pytest.raises(ScanError, match="sub-9: it has no latent"):
        collect(shards, [*names, "sub-9"], tmp_path / "latents.zarr")
    chunk = next(path for path in (tmp_path / "shards").rglob("*") if path.is_file() and "/c/" in str(path))
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(BrainSCMError, match=r"of-2\.zarr: the latent of sub-. is damaged or gone; remove this folder"):
        collect(shards, names, tmp_path / "latents.zarr")
    assert not (tmp_path / "latents.zarr").exists()
    for number, shard in enumerate(shards, start=1):
        encode_scans(scans, encoder, IDENTITY.encoded_by(f"hash {number}"), shard, Shard(number, 2))
    with pytest.raises(BrainSCMError, match=r"2-of-2\.zarr and .*1-of-2\.zarr are of two different models"):
        collect(shards, names, tmp_path / "latents.zarr")


@pytest.mark.parametrize("damage", ["a flipped bit", "gone"])
def test_a_damaged_latent_is_named_and_not_used(tmp_path, encoder, damage):
    encode_scans(write_scans(tmp_path, ["train", "test"]), encoder, ENCODED, tmp_path / "latents.zarr")
    (chunk,) = (path for path in (tmp_path / "latents.zarr" / "latents" / "c" / "1").rglob("*") if path.is_file())
    if damage == "gone":
        chunk.unlink()
    else:
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    store = LatentStore.open(tmp_path / "latents.zarr")
    assert np.isfinite(store.of("sub-0")).all()
    with pytest.raises(BrainSCMError, match=r"latents\.zarr: the latent of sub-1 is damaged or gone; remove"):
        store.of("sub-1")
    with pytest.raises(BrainSCMError, match="sub-1"):
        store.latents[1]
