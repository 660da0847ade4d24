"""The scanner: where the head lies, which voxels are read, and what the coil, the sequence and the noise do to them."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from brainscm.simulation.causal_model import generator


@dataclass(frozen=True)
class Site:
    """One scanner's contrast (signal of white matter = 1), unevenness, noise and usual protocol.

    grey_contrast: multiplies the participant's own. slice_ratio: thickness of its sagittal slices in voxels.
    gain: the number that is stored for white matter.
    """

    grey_contrast: float
    fluid: float
    fat: float
    muscle: float
    marrow: float
    bone: float
    cord: float
    bias: float
    noise: float
    gain: float
    slice_ratio: float
    orientation: str
    field_of_view_mm: tuple[float, float, float]


SITE_SETTINGS = {
    "A": Site(
        grey_contrast=1.0,
        fluid=0.22,
        fat=1.15,
        muscle=0.55,
        marrow=0.70,
        bone=0.05,
        cord=0.95,
        bias=0.18,
        noise=0.018,
        gain=700,
        slice_ratio=1.0,
        orientation="RAS",
        field_of_view_mm=(190, 244, 226),
    ),
    "B": Site(
        grey_contrast=1.2,
        fluid=0.14,
        fat=0.85,
        muscle=0.48,
        marrow=0.55,
        bone=0.08,
        cord=0.90,
        bias=0.30,
        noise=0.028,
        gain=260,
        slice_ratio=1.2,
        orientation="PSR",
        field_of_view_mm=(196, 240, 236),
    ),
}
UNUSUAL_ORIENTATIONS = ("LAS", "LPS", "ASR", "RSA")


@dataclass(frozen=True)
class Acquisition:
    """Everything about one session's scan that is not the participant.

    affine: (4, 4) voxel to scanner millimetres. rotation: (3, 3) head to scanner. position_mm: where the head's centre
    lies in the scanner. bias: coefficients of the smooth coil field. gain: the number that stands for white matter's
    signal. noise: (2, x, y, z) standard normal, the two channels of the receiver.
    """

    voxel_mm: float
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    rotation: NDArray[np.float64]
    position_mm: NDArray[np.float64]
    bias: NDArray[np.float64]
    gain: float
    noise: torch.Tensor


def acquire(seed: int, participant: str, session: str, site: str, voxel_mm: float) -> Acquisition:
    """Draw the geometry and the noise of one session: it depends on these arguments only."""
    draw = generator(seed, participant, session, "scanner")
    settings = SITE_SETTINGS[site]
    angles = np.radians(np.clip(draw.normal(0, 8, 3), -20, 20))
    position = np.clip(draw.normal(0, 12, 3), -30, 30)
    field_of_view = np.array(settings.field_of_view_mm) + draw.uniform(-6, 6, 3)
    off_centre = draw.uniform(-7, 7, 3)
    orientation = draw.choice(UNUSUAL_ORIENTATIONS) if draw.random() < 0.15 else settings.orientation
    voxel = voxel_mm * np.array([settings.slice_ratio, 1, 1])
    shape = np.ceil(field_of_view / voxel).astype(int)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = position + off_centre - (shape - 1) * voxel / 2
    to_ras = nib.orientations.io_orientation(np.eye(4))
    turn = nib.orientations.ornt_transform(to_ras, nib.orientations.axcodes2ornt(tuple(orientation)))
    affine = affine @ nib.orientations.inv_ornt_aff(turn, tuple(shape))
    order = np.argsort(turn[:, 0]).astype(int)
    turned = (int(shape[order[0]]), int(shape[order[1]]), int(shape[order[2]]))
    return Acquisition(
        voxel_mm=voxel_mm,
        affine=affine,
        shape=turned,
        rotation=_rotation(angles),
        position_mm=position,
        bias=draw.normal(0, settings.bias / 3, 9),
        gain=settings.gain * float(np.exp(draw.normal(0, 0.15))),
        noise=torch.from_numpy(draw.standard_normal((2, *turned), dtype=np.float32)),
    )


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of three angles about x, y and z, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def voxel_positions(acquisition: Acquisition) -> torch.Tensor:
    """Position of every voxel in the head's own axes, in mm from its centre, shape (x, y, z, 3)."""
    axes = [torch.arange(n, dtype=torch.float64) for n in acquisition.shape]
    to_head = acquisition.rotation.T @ acquisition.affine[:3, :3]
    offset = acquisition.rotation.T @ (acquisition.affine[:3, 3] - acquisition.position_mm)
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    positions = (index @ torch.from_numpy(to_head.T)).add_(torch.from_numpy(offset))
    return positions.movedim(-1, 0).to(torch.float32, memory_format=torch.contiguous_format).movedim(0, -1)


def receive(signal: torch.Tensor, acquisition: Acquisition, site: str) -> NDArray[np.int16]:
    """What the scanner stores for a clean `signal` (x, y, z) in which white matter is 1: bias, Rician noise, gain."""
    settings = SITE_SETTINGS[site]
    across, along, up = (torch.linspace(-1, 1, n) for n in signal.shape)
    x, y, z = across[:, None, None], along[:, None], up
    basis = (x, y, z, x * y, x * z, y * z, x * x, y * y, z * z)
    field = sum((weight * b for weight, b in zip(acquisition.bias.tolist(), basis, strict=True)), torch.zeros(()))
    real = field.exp_().mul_(signal).add_(settings.noise * acquisition.noise[0])
    magnitude = real.hypot_(settings.noise * acquisition.noise[1]).mul_(acquisition.gain)
    return magnitude.round_().clamp_(0, 32767).numpy().astype(np.int16)
