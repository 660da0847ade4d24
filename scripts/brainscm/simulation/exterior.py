"""What surrounds the brain in the scanner: skull, scalp, eyes, face and neck, as stand-ins of simple shapes.

They are there so that skull-stripping and linear registration meet what they meet in real scans: bright fat next to
dark bone, air spaces, a cord that leaves the skull, muscles that have the intensity of grey matter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.simulation.deformation import Lattice

Volume = NDArray[np.floating]

HEAD_LATTICE = Lattice.spanning((-112.0, -140.0, -200.0), (112.0, 132.0, 116.0), 2.0)
HEAD_CHANNELS = ("bone", "marrow", "fat", "muscle", "fluid", "cord")

SKIN_MM = 1.2


def build_exterior(cavity_depth_mm: Volume) -> Volume:
    """Tissue fractions (channel, x, y, z) on HEAD_LATTICE, named by HEAD_CHANNELS; the rest is air or cranial cavity.

    cavity_depth_mm: (x, y, z) signed distance to the cranial cavity's wall on HEAD_LATTICE, negative outside.
    """
    x, y, z = (axis.astype(np.float32) for axis in np.moveaxis(HEAD_LATTICE.points().numpy(), -1, 0))
    side = np.abs(x)
    texture, fine_texture = noise(x.shape, 3.0, seed=1), noise(x.shape, 1.3, seed=2)

    def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...], mirrored: bool = False) -> Volume:
        """Approximate depth in mm below the surface of an ellipsoid, negative outside."""
        offsets = (side if mirrored else x, y, z)
        scaled = sum(((p - c) / r) ** 2 for p, c, r in zip(offsets, centre, radii, strict=True))
        return ((1 - np.sqrt(scaled)) * min(radii)).astype(np.float32)

    def tube(centre: tuple[float, float], radii: tuple[float, float], low: float, high: float) -> Volume:
        """Depth below the surface of an elliptic cylinder between two heights."""
        around = (1 - np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])) * min(radii)
        return np.minimum(around, np.minimum(z - low, high - z)).astype(np.float32)

    # The skin: one smooth surface over skull, face, jaw, nose and neck.
    skull_mm = 5.2 + 0.7 * texture
    to_cavity = -cavity_depth_mm
    surfaces = [
        12.0 + 0.5 * texture - to_cavity,
        ellipsoid((0, 26, -58), (66, 66, 62)),
        ellipsoid((0, 34, -102), (52, 50, 42)),
        ellipsoid((0, 93, -60), (13, 20, 20)),
        ellipsoid((76, -22, -40), (8, 18, 30), mirrored=True),
        tube((0, -28), (58, 56), -400, -78),
    ]
    depth = _smooth_union(surfaces, 5.0)

    fractions = dict.fromkeys(HEAD_CHANNELS, np.zeros_like(x))
    fractions["muscle"] = _within(depth)

    def fill(where: Volume, channel: str | None) -> None:
        """Put one tissue (None: air) in the place of what was there."""
        for name in fractions:
            fractions[name] = fractions[name] * (1 - where)
        if channel is not None:
            fractions[channel] = fractions[channel] + where * _within(depth)

    fill(_within(texture + 0.5 * fine_texture - 1.1, 0.4) * 0.7, "fat")
    fill(_between(depth, SKIN_MM, 4.5 + 1.5 * texture), "fat")

    # The neck: vertebrae, cord in its fluid, airway.
    spine = tube((0, -22), (13, 11), -400, -62)
    fill(_within(spine), "bone")
    discs = np.cos(2 * np.pi * z / 17.0).astype(np.float32) * 3
    fill(_within(np.minimum(spine - 1.5, discs + 2)), "marrow")
    fill(_within(tube((0, -68), (5, 18), -400, -88) + discs), "bone")
    fill(_within(tube((0, -46), (13, 12), -400, -66)), "bone")
    fill(_within(tube((0, -46), (9.5, 8.5), -400, -66)), "fluid")
    fill(_within(tube((0, -46), (6.5, 5), -400, -60)), "cord")
    for centre, radii in (((0, 10, -72), (9, 10, 15)), ((0, 4, -100), (9, 6, 22)), ((0, 6, -160), (9, 8, 45))):
        fill(_within(ellipsoid(centre, radii)), None)

    # The face: orbits and eyes, nose and sinuses, teeth, jaw.
    fill(_within(ellipsoid((31, 50, -40), (19, 30, 18), mirrored=True)), "bone")
    fill(_within(ellipsoid((31, 52, -40), (17, 28, 16), mirrored=True)), "fat")
    fill(_within(np.minimum(1.8 - np.abs(np.hypot(side - 29, z + 40) - 10), 20 - np.abs(y - 44))) * 0.8, "muscle")
    fill(_within(ellipsoid((32, 69, -40), (12.5, 12.5, 12.5), mirrored=True)), "fluid")
    fill(_within(ellipsoid((0, 62, -60), (14, 34, 20))), "bone")
    turbinates = np.cos(2 * np.pi * (side - 1) / 8.0).astype(np.float32) * 2 + fine_texture
    fill(_within(np.minimum(ellipsoid((0, 60, -62), (12, 30, 17)), turbinates)), "muscle")
    fill(_within(ellipsoid((28, 56, -68), (13, 15, 15), mirrored=True)), None)
    fill(_within(ellipsoid((9, 80, -20), (12, 5, 11), mirrored=True)), None)
    fill(_within(ellipsoid((0, 24, -44), (12, 12, 8))), None)
    fill(_within(np.minimum(ellipsoid((0, 48, -86), (24, 34, 6)), 2 + fine_texture)) * 0.8, None)
    arch = np.hypot(x / 27, (y - 32) / 44)
    fill(_within(np.minimum(np.minimum((0.18 - np.abs(arch - 1)) * 25, 13 - np.abs(z + 91)), y - 34)), "bone")
    jaw = np.hypot(x / 44, (y - 22) / 50)
    bone = np.minimum(np.minimum((0.16 - np.abs(jaw - 1)) * 40, 13 - np.abs(z + 118)), y + 5)
    fill(_within(bone), "bone")
    fill(_within(bone - 2.5), "marrow")
    fill(_within(ellipsoid((50, -22, -44), (15, 17, 13), mirrored=True) + 2 * fine_texture), "bone")

    # The skull, over all of it: outer table, marrow, inner table; then the cavity itself.
    foramen = _within(tube((0, -46), (16, 15), -100, -58))
    fill(_within(skull_mm - to_cavity) * (1 - foramen), "bone")
    fill(_between(to_cavity, 1.6, skull_mm - 1.2) * (1 - foramen), "marrow")
    fill(_within(cavity_depth_mm), None)
    fractions["muscle"] = fractions["muscle"] * (1 + 0.12 * texture + 0.10 * fine_texture)
    return np.stack([np.clip(fractions[name], 0, 1.4) for name in HEAD_CHANNELS]).astype(np.float32)


def _within(depth: Volume, softness_mm: float = 1.6) -> Volume:
    """Share of a voxel below a surface that lies at depth zero."""
    return np.clip(depth / softness_mm + 0.5, 0, 1)


def _between(depth: Volume, low: float | Volume, high: float | Volume) -> Volume:
    return _within(depth - low) * _within(high - depth)


def _smooth_union(depths: list[Volume], blend_mm: float) -> Volume:
    """Depth below the surface of several shapes joined with rounded seams."""
    highest = np.maximum.reduce(depths)
    total = sum(np.exp((depth - highest) / blend_mm) for depth in depths)
    return (highest + blend_mm * np.log(total)).astype(np.float32)


def noise(shape: tuple[int, ...], smoothness: float, seed: int) -> Volume:
    """A smooth random field of unit variance, the same in every head: deformation makes it differ."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32), smoothness)
    return field / field.std()
