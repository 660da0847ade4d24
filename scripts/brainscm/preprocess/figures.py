"""Three mosaics a scan: the mask on the raw head, the air around it, the template's outline on the brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from brainscm.files import whole

TILE = 160  # px, edge of one slice in the mosaic
BACKGROUND = 12
GREYS = 28  # levels kept: the bytes of a mosaic are the noise of its head


def mosaic(
    data: np.ndarray,
    voxel_mm: np.ndarray,
    outlines: list[tuple[np.ndarray, tuple[int, int, int]]],
    box: np.ndarray,
    path: Path,
    slices: int = 5,
    white: float = 1.1,
) -> None:
    """Write axial, coronal and sagittal rows of slices with outlines.

    Args:
        data: (x, y, z), RAS+.
        outlines: masks on the same grid, each with its RGB colour.
        box: bool mask; slices are taken evenly over its extent, and each tile is centred on it.
        slices: in each of the three directions.
        white: what is drawn white, as a share of the 99th percentile in the box.
    """
    inside = data[box & (data > 0)]
    bright = white * np.percentile(inside, 99) if inside.size else 1.0
    grey = np.clip(data / bright, 0, 1) ** 0.8
    found = ndimage.find_objects(box.astype(np.uint8))
    extent = found[0] if found else tuple(slice(0, n) for n in data.shape)
    centre = np.array([(part.start + part.stop - 1) / 2 for part in extent])
    width_mm = max((part.stop - part.start) * mm for part, mm in zip(extent, voxel_mm, strict=True)) * 1.18
    rows = []
    for axis in (2, 1, 0):
        part = extent[axis]
        planes = np.linspace(part.start, part.stop - 1, slices + 2)[1:-1].round().astype(int)
        tiles = [_tile(grey, outlines, axis, index, centre, voxel_mm, width_mm) for index in planes]
        rows.append(np.concatenate(tiles, axis=1))
    image = Image.fromarray(np.concatenate(rows, axis=0))
    palette = _palette([colour for _, colour in outlines])
    with whole(path) as partial:
        image.quantize(palette=palette, dither=Image.Dither.NONE).save(partial, optimize=True)


def _palette(colours: list[tuple[int, int, int]]) -> Image.Image:
    """A grey ramp, and each outline colour blended into dark, middle and bright grey."""
    entries = [(round(grey),) * 3 for grey in np.linspace(BACKGROUND, 255, GREYS)]
    for colour in dict.fromkeys(colours):
        for share in (1.0, 0.75, 0.5, 0.25):
            for grey in (BACKGROUND, 90, 170, 240):
                red, green, blue = (round(share * c + (1 - share) * grey) for c in colour)
                entries.append((red, green, blue))
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for entry in entries for value in entry])
    return palette


def _tile(
    grey: np.ndarray,
    outlines: list[tuple[np.ndarray, tuple[int, int, int]]],
    axis: int,
    index: int,
    centre: np.ndarray,
    voxel_mm: np.ndarray,
    width_mm: float,
) -> np.ndarray:
    """One slice (TILE, TILE, 3) uint8, anterior or superior up, left on the left."""
    across, up = [a for a in range(3) if a != axis]
    step = width_mm / TILE
    offset = (np.arange(TILE) - (TILE - 1) / 2) * step
    u = centre[across] + offset / voxel_mm[across]
    v = centre[up] - offset / voxel_mm[up]
    grid = np.meshgrid(v, u, indexing="ij")[::-1]

    def cut(volume: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(np.take(volume, index, axis=axis).astype(np.float32), grid, order=1)

    tile = np.repeat((BACKGROUND + cut(grey) * (255 - BACKGROUND))[..., None], 3, axis=2)
    for mask, colour in outlines:
        level = cut(mask)
        # Distance to the half-way level in pixels, so that the line is smooth and equally thin everywhere.
        slope = np.hypot(*np.gradient(ndimage.gaussian_filter(level, 1.0))) + 1e-3
        alpha = np.clip(1.4 - abs(ndimage.gaussian_filter(level, 1.0) - 0.5) / slope, 0, 1)[..., None]
        tile = tile * (1 - alpha) + np.array(colour) * alpha
    return tile.clip(0, 255).astype(np.uint8)
