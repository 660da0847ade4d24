"""A cohort as whole numbers: a small copy of its scans in template space, and the command that decodes it.

python -m brainscm.latents.archive results/latents/codes.zarr OUT [--model results/autoencoder/model.pt] [--scans …]

writes the scans that the archive holds as NIfTI volumes. `docs/reference/outputs.md` says what is lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec

from brainscm.encoding.encoder import Codes, Encoder
from brainscm.encoding.model import encoder_identity, load_encoder
from brainscm.errors import BrainSCMError
from brainscm.files import whole
from brainscm.identity import Identity
from brainscm.images import Grid, write_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import device_of

# Rare numbers take more bits than common ones; the two bytes of all numbers are compressed apart.
COMPRESSOR = BloscCodec(cname="zstd", clevel=9, shuffle="shuffle")


@dataclass(frozen=True)
class Archive:
    """The codes of a cohort's scans.

    Attributes:
        arrays: (n, …) uint16 by name, as `Encoder.to_codes` names them.
        scans: the scan of each row.
        identity: of the scans, with the encoder's. grid: of a volume.
    """

    arrays: dict[str, Any]
    scans: Sequence[str]
    identity: Identity
    grid: Grid

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Open what `archive_codes` wrote.

        Raises:
            BrainSCMError: it is not there, or not whole.
        """
        try:
            group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            described = attributes["grid"]
            grid = Grid(tuple(described["shape"]), np.array(described["affine"]), described["space"])
            identity = Identity.model_validate(attributes["identity"])
            return cls(dict(group.arrays()), tuple(attributes["scans"]), identity, grid)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BrainSCMError(
                f"{path}: is not an archive of codes of this version of BrainSCM ({type(error).__name__}); "
                "run the workflow again with archive_codes: true."
            ) from error

    def of(self, scan: str) -> Codes:
        """The codes of a scan, each (1, …).

        Raises:
            BrainSCMError: it has none.
        """
        if scan not in self.scans:
            raise BrainSCMError(f"{scan}: the archive does not hold it; it holds {len(self.scans)} other scans.")
        row = self.scans.index(scan)
        return {name: torch.from_numpy(np.asarray(array[[row]], np.int64)) for name, array in self.arrays.items()}


def archive_codes(store: LatentStore, encoder: Encoder, grid: Grid, path: Path) -> None:
    """Write the codes of all latents of a store, which this encoder made of scans on this grid.

    Raises:
        BrainSCMError: the encoder has no codes, or a number does not fit into 16 bits.
    """
    arrays: dict[str, zarr.Array] = {}
    with whole(path) as partial:
        group = zarr.create_group(store=partial)
        for row, scan in enumerate(store.scans):
            latents = torch.from_numpy(store.of(scan))[None].to(device_of(encoder))
            for name, tensor in encoder.to_codes(latents).items():
                numbers = tensor[0].cpu().numpy()
                if numbers.max() > np.iinfo(np.uint16).max:
                    raise BrainSCMError(f"{scan}: a number of its {name} does not fit into the 16 bits of an archive.")
                if name not in arrays:
                    shape = (len(store.scans), *numbers.shape)
                    arrays[name] = group.create_array(
                        name, shape=shape, chunks=(1, *numbers.shape), dtype="uint16", compressors=COMPRESSOR
                    )
                arrays[name][row] = numbers
        described = {"shape": list(grid.shape), "affine": grid.affine.tolist(), "space": grid.space}
        group.attrs.update({"scans": list(store.scans), "identity": store.identity.as_json(), "grid": described})


def decode_archive(archive: Archive, encoder: Encoder, scans: Sequence[str], out_dir: Path) -> None:
    """Write the volumes of scans, in template space, as `<scan>_desc-decoded_T1w.nii.gz`."""
    for scan in scans:
        codes = {name: values.to(device_of(encoder)) for name, values in archive.of(scan).items()}
        volume = encoder.decode(encoder.of_codes(codes))[0, 0]
        write_volume(out_dir / f"{scan}_desc-decoded_T1w.nii.gz", volume.cpu().numpy(), archive.grid)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m brainscm.latents.archive", description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="codes.zarr of a results folder")
    parser.add_argument("out", type=Path, help="folder to write the volumes to")
    parser.add_argument("--model", type=Path, help="model.pt of the same run; by default that of the results folder")
    parser.add_argument("--scans", nargs="+", help="only these, such as sub-01_ses-1")
    given = parser.parse_args(arguments)
    model = given.model or given.archive.parents[1] / "autoencoder" / "model.pt"
    try:
        archive = Archive.open(given.archive)
        archive.identity.check(
            encoder_identity(model), str(given.archive), str(model), "give the archive's own --model"
        )
        decode_archive(archive, load_encoder(model), given.scans or archive.scans, given.out)
    except BrainSCMError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
