"""Whole volumes for the viewers: small pictures of all slices in a page, and full resolution in scripts beside it."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from brainscm.files import write_text
from brainscm.images import Grid, Volume
from brainscm.report import pictures
from brainscm.report.cells import embedded

MOST = 112  # voxels along a side of what a page holds

Box = tuple[slice, slice, slice]
Kind = Literal["grey", "signed", "positive"]


@dataclass(frozen=True)
class Layer:
    """A volume (x, y, z) in 256 steps: `grey` or `positive` from 0 to `limit`, or `signed` from -limit to limit.

    `about` stands beside it: the badges of a counterfactual.
    """

    name: str
    kind: Kind
    voxels: NDArray[np.uint8]
    limit: float
    about: str = ""

    @classmethod
    def of(cls, name: str, kind: Kind, volume: Volume, limit: float, about: str = "") -> Layer:
        part = volume / limit
        unit = np.clip(np.nan_to_num(0.5 + 0.5 * part if kind == "signed" else part), 0, 1)
        return cls(name, kind, (255 * unit).round().astype(np.uint8), limit, about)

    @property
    def told(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "limit": self.limit, "about": self.about}


@dataclass(frozen=True)
class Stack:
    """Layers that lie on one grid and move together.

    Attributes:
        name: of their folder. grid, box: they are what the box cuts out of volumes on the grid.
        over, under: names of the layers that are shown first.
    """

    name: str
    layers: Sequence[Layer]
    grid: Grid
    box: Box
    over: str
    under: str

    @cached_property
    def limits(self) -> dict[str, float]:
        """The limit of the layers of each kind, which is one."""
        return {layer.kind: layer.limit for layer in self.layers}

    @property
    def embedded(self) -> Markup:
        """What a page holds, as JSON: of each layer one picture of its slices, in blocks where voxels are many."""
        shape = self.layers[0].voxels.shape
        step = -(-max(shape) // MOST)
        first = [part.start + (step - 1) / 2 for part in self.box]
        affine = self.grid.affine
        content = {
            "name": self.name,
            "shape": [size // step for size in shape],
            "columns": pictures.SPRITE_COLUMNS,
            "voxel_mm": (step * affine.diagonal()[:3]).tolist(),
            "origin_mm": (affine[:3, :3] @ first + affine[:3, 3]).tolist(),
            "over": self.over,
            "under": self.under,
            "layers": [layer.told | {"source": pictures.sprite(_blocks(layer.voxels, step))} for layer in self.layers],
            "colours": {"signed": pictures.SIGNED.tolist(), "positive": pictures.POSITIVE.tolist()},
        }
        return embedded(content)

    def write(self, folder: Path) -> None:
        """Write each layer in full resolution as a script, which a page that was opened from a disk may load.

        `layers.js` sets `brainscm.layers`, and `<place>.js` one of `brainscm.volumes`, a gzipped NIfTI in base64.
        """
        told = [layer.told for layer in self.layers]
        write_text(folder / "layers.js", f"brainscm.layers = {json.dumps(told)};\n")
        for place, layer in enumerate(self.layers):
            packed = base64.b64encode(gzip.compress(self.nifti(layer), 1, mtime=0)).decode()
            write_text(folder / f"{place}.js", f'brainscm.volumes[{place}] = "{packed}";\n')

    def nifti(self, layer: Layer) -> bytes:
        """The file of a layer."""
        affine = self.grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in self.box]
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(layer.voxels.shape)
        header.set_sform(affine, code=self.grid.space)
        header.set_xyzt_units("mm")
        is_signed = layer.kind == "signed"
        header.set_slope_inter((1 + is_signed) * layer.limit / 255, -layer.limit if is_signed else 0.0)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        return bytes(header.binaryblock) + bytes(4) + layer.voxels.tobytes(order="F")


def _blocks(voxels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """The means of blocks of step × step × step voxels; what is over at the far ends is left out."""
    if step == 1:
        return voxels
    x, y, z = (size // step for size in voxels.shape)
    whole = voxels[: x * step, : y * step, : z * step]
    return whole.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5)).round().astype(np.uint8)
