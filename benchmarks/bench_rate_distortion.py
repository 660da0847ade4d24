"""What codes of so many bits keep of a brain: the rate–distortion curve of each quantiser on real heads.

python benchmarks/bench_rate_distortion.py RESULTS [--steps 0] [--scans 24]

RESULTS is the output folder of a study that has been preprocessed and aligned (`snakemake preprocess` is enough). The
default autoencoder is fitted on its training split: its linear start, from which training begins, or what --steps of
training make of it (the best by the validation split). Quantisers are fitted on the same latents and judged on the
test split. In template space, inside the brain, each is told by

- bits a latent vector: of `residual` the sum of log2 of its codebooks' sizes; of `scalar` the entropy of the levels;
- `bits_per_voxel`: the entropy of all codes, which is nearly what an archive takes, over the voxels of the grid;
- PSNR and SSIM of what is decoded.

At the top level stand the figures of the default. `archive` is the whole way of a scan through `codes.zarr`, with its
displacement, compared in the scan's own anatomy. With vector-quantize-pytorch installed, its ResidualVQ is fitted on
the same vectors. Writes benchmarks/results/rate_distortion.json (elsewhere with --output).
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.quantizer import Levels, Quantizer, Residual, to_rows
from brainscm.encoding.scan import encode_scan
from brainscm.encoding.vqvae import VQVAE
from brainscm.identity import Identity
from brainscm.latents.archive import Archive, archive_codes
from brainscm.latents.store import LatentStore
from brainscm.preprocess.template import load_template
from brainscm.scans import ScanTable
from brainscm.training.code_use import CodeUse
from brainscm.training.fidelity import psnr, ssim
from brainscm.training.trainer import Trainer
from brainscm.training.volume_store import Stores, VolumeStore

STEPS = (0.0375, 0.15, 0.3, 0.6, 1.2)  # of `scalar`, beside the default
CODEBOOKS = {4: [1], 16: [1], 256: [1, 2, 3, 4, 6, 8]}  # numbers of them by their size, of `residual`: 2 to 64 bits
SEED = 20260101


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output folder of a preprocessed and aligned study")
    parser.add_argument("--steps", type=int, default=0, help="training steps after the linear start")
    parser.add_argument("--scans", type=int, default=24, help="at most so many test scans")
    parser.add_argument("--template", default="MNI152NLin2009aSym", help="that the study was aligned to")
    parser.add_argument("--output", type=Path, default=RESULTS / "rate_distortion.json")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scans = ScanTable.read(arguments.results / "cohort" / "scans.tsv", arguments.results / "preproc" / "qc.tsv")
    splits = {split: scans.of_split(split)["scan"].tolist() for split in ("train", "validation", "test")}
    tested = splits["test"][: arguments.scans]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        stores = {split: VolumeStore.open_or_build(scans, of, work, True) for split, of in splits.items() if of}
        network, seconds = fit(Stores(stores["train"], stores["validation"]), arguments.steps, work)
        bench = Bench(network, stores["train"], stores["test"], len(tested))
        latent_db, latent_ssim = bench.fidelity(lambda latents: latents)
        default = bench.measure(network.quantizer)
        figures: dict[str, Any] = {
            "codes_psnr_db": default["psnr_db"],
            "latent_psnr_db": latent_db,
            "ssim": default["ssim"],
            "latent_ssim": latent_ssim,
            "bits_per_voxel": default["bits_per_voxel"],
            "scans": {"train": len(splits["train"]), "test": len(tested)},
            "voxel_mm": float(np.linalg.norm(scans.grid.affine[:3, 0])),
            "latent_channels": network.options.latent_channels,
            "voxels_a_latent_vector": network.voxels,
            "training": {"steps": arguments.steps, "seconds": round(seconds)},
            "scalar": [bench.scalar(step) for step in STEPS] + [{"step": network.options.quantizer_step, **default}],
            "residual": [row for size, numbers in CODEBOOKS.items() for row in bench.residual(size, numbers)],
        }
        figures["scalar"].sort(key=lambda row: row["bits_per_voxel"])
        if importlib.util.find_spec("vector_quantize_pytorch"):
            figures["vector_quantize_pytorch"] = [bench.peer(codebooks) for codebooks in (1, 4, 8)]
        voxel_mm = figures["voxel_mm"]
        alignment = Alignment.onto(load_template(arguments.template, voxel_mm))
        figures["archive"] = whole_way(Aligned(network, alignment), scans, tested, work)
    figures |= circumstances(
        "CPU",
        f"{torch.get_num_threads()} threads",
        command=f"python benchmarks/bench_rate_distortion.py <results of a study> --steps {arguments.steps}",
    )
    print(write(figures, arguments.output))


def fit(stores: Stores, steps: int, folder: Path) -> tuple[VQVAE, float]:
    """The default autoencoder after so many steps, and how long they took."""
    grid = stores.training.volumes.shape[2:]
    options = AutoencoderOptions(device="cpu", max_steps=max(1, steps), validation_interval=max(1, steps // 4))
    torch.manual_seed(SEED)
    trainer = Trainer(VQVAE(grid, options), stores, options, SEED, folder / "run")
    if steps:
        trainer.run()
    else:
        (folder / "run").mkdir()
        trainer._start()
    return trainer.network.eval(), trainer.progress.seconds  # type: ignore[return-value]  # the network given above


class Bench:
    """Quantisers on the latents of one network."""

    def __init__(self, network: VQVAE, training: VolumeStore, test: VolumeStore, count: int) -> None:
        self.network, self.test, self.count = network, test, count
        generator, samples = torch.Generator().manual_seed(SEED), []
        for row in range(len(training)):
            vectors = to_rows(network.encode(volume_of(training, row)))
            drawn = torch.randint(len(vectors), (max(1, (1 << 16) // len(training)),), generator=generator)
            samples.append(vectors[drawn])
        self.vectors = torch.cat(samples)
        self.latents = [network.encode(volume_of(test, row)) for row in range(count)]

    def fidelity(self, quantize: Any) -> tuple[float, float]:
        """PSNR (dB) and SSIM in the brain, of the test scans decoded from what `quantize` makes of their latents."""
        found = []
        for row, latents in enumerate(self.latents):
            volume, mask = self.test.volumes[row, 0].astype(np.float32), self.test.masks[row, 0]
            decoded = self.network.decode(quantize(latents))[0, 0].numpy()
            found.append((psnr(decoded, volume, mask), ssim(decoded, volume, mask)))
        dbs, ssims = zip(*found, strict=True)
        return float(np.mean(dbs)), float(np.mean(ssims))

    def measure(self, quantizer: Quantizer) -> dict[str, float]:
        db, similarity = self.fidelity(lambda latents: quantizer(latents)[0])
        logging.info("%s of %d codes: %.2f dB", type(quantizer).__name__, sum(quantizer.sizes), db)
        counts = sum(quantizer.count(quantizer.encode(latents)) for latents in self.latents)
        assert isinstance(counts, Tensor)
        use = CodeUse.of(counts, quantizer.sizes, self.network.voxels)
        return {
            "psnr_db": db,
            "ssim": similarity,
            "bits_per_voxel": use.bits_per_voxel,
            "bits_a_vector": use.bits_per_voxel * self.network.voxels,
            "codes": sum(quantizer.sizes),
            "share_of_codes_used": use.usage,
        }

    def scalar(self, step: float) -> dict[str, float]:
        quantizer = Levels(self.network.latent_shape[0], step)
        quantizer.centre.copy_(self.network.linear.empty)
        quantizer.start(self.vectors, torch.Generator())
        return {"step": step, **self.measure(quantizer)}

    def residual(self, size: int, numbers: list[int]) -> Iterator[dict[str, float]]:
        """Of so many codebooks: each is fitted after those before it, so that fewer are the first of more."""
        whole = Residual(max(numbers), size, self.network.latent_shape[0], 0.99)
        whole.start(self.vectors, torch.Generator().manual_seed(SEED))
        for codebooks in numbers:
            quantizer = Residual(codebooks, size, self.network.latent_shape[0], 0.99)
            quantizer.codebooks = whole.codebooks[:codebooks]
            found = self.measure(quantizer) | {"bits_a_vector": codebooks * math.log2(size)}
            yield {"codebooks": codebooks, "size": size, **found}

    def peer(self, codebooks: int) -> dict[str, float]:
        """vector-quantize-pytorch on the same vectors: k-means start, then moving averages over ten passes."""
        from vector_quantize_pytorch import ResidualVQ

        torch.manual_seed(SEED)
        model = ResidualVQ(
            dim=self.vectors.shape[1], num_quantizers=codebooks, codebook_size=256, kmeans_init=True, kmeans_iters=10,
            threshold_ema_dead_code=2,
        )  # fmt: skip
        for _ in range(10):
            for batch in self.vectors[torch.randperm(len(self.vectors))].split(1 << 14):
                model(batch[None])
        model.eval()

        def quantize(latents: Tensor) -> Tensor:
            n, c, *grid = latents.shape
            return model(to_rows(latents)[None])[0][0].reshape(n, *grid, c).movedim(-1, 1)

        with torch.no_grad():
            db, similarity = self.fidelity(quantize)
        found = {"psnr_db": db, "ssim": similarity, "bits_a_vector": 8.0 * codebooks}
        return {"codebooks": codebooks, "size": 256, **found}


def volume_of(store: VolumeStore, row: int) -> Tensor:
    return torch.from_numpy(store.volumes[[row]]).float()


def whole_way(encoder: Aligned, scans: ScanTable, chosen: list[str], folder: Path) -> dict[str, float]:
    """Scans through the archive and back, beside the same from their continuous latents; sizes are of one scan."""
    identity = Identity(template="", voxel_mm=encoder.alignment.voxel_mm, transform="affine")
    path, codes = folder / "latents.zarr", folder / "codes.zarr"
    with LatentStore.create(path, chosen, encoder.latent_shape, encoder.layout, identity) as latents:
        for row, latent in enumerate(encoded(encoder, scans, chosen)):
            latents[row] = latent.numpy()
    store = LatentStore.open(path)
    archive_codes(store, encoder, scans.grid, codes)
    archive, found = Archive.open(codes), []
    for scan in chosen:
        volume, mask = scans.volume(scan), scans.mask(scan)
        continuous = encoder.decode(torch.from_numpy(store.of(scan))[None])[0, 0].numpy()
        decoded = encoder.decode(encoder.of_codes(archive.of(scan)))[0, 0].numpy()
        found.append([measure(of, volume, mask) for of in (continuous, decoded) for measure in (psnr, ssim)])
    names = ("latent_psnr_db", "latent_ssim", "psnr_db", "ssim")
    images = [scans.path(scan, "preproc_t1w").stat().st_size for scan in chosen]
    sizes = {f"{name}_kb": size_of(codes / name) / len(chosen) / 1000 for name in archive.arrays}
    taken = sum(sizes.values())
    return {
        **dict(zip(names, np.mean(found, axis=0).tolist(), strict=True)),
        **sizes,
        "kb": taken,
        "bits_per_voxel": 8000 * taken / math.prod(scans.grid.shape),
        "times_smaller_than_latents": 4 * math.prod(encoder.latent_shape) / 1000 / taken,
        "times_smaller_than_float32_volumes": 4 * math.prod(scans.grid.shape) / 1000 / taken,
        "times_smaller_than_nifti_gz": float(np.mean(images)) / 1000 / taken,
    }


def encoded(encoder: Aligned, scans: ScanTable, chosen: list[str]) -> Iterator[Tensor]:
    for scan in chosen:
        yield encode_scan(encoder, scans, scan)[0]


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
