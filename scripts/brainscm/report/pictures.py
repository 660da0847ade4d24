"""Slices of volumes as small inline pictures: the same cuts everywhere, so that pictures can be compared."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

TILE_HEIGHT = 168  # pixels
WHITE = 1.15  # intensity that is shown as white; white matter is 1
SPRITE_COLUMNS = 8


def _signed_colours() -> np.ndarray:
    """256 colours from blue over black to red: no change is as black as the space around the brain.

    Matplotlib's "berlin" has a dark red in its middle, which is taken off more and more towards the middle.
    """
    along = np.linspace(-1, 1, 256)
    colours = matplotlib.colormaps["berlin"](np.linspace(0, 1, 256))[:, :3] * 255
    colours -= (1 - np.abs(along))[:, None] * colours[127:129].max(axis=0)
    colours[127:129] = 0
    return np.clip(colours, 0, 255).round().astype(np.uint8)


SIGNED = _signed_colours()
POSITIVE = (matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


@dataclass(frozen=True)
class Cuts:
    """Slice positions on a template grid in RAS order: axial, coronal and sagittal indices, and the box they show."""

    axial: tuple[int, ...]
    coronal: tuple[int, ...]
    sagittal: tuple[int, ...]
    box: tuple[slice, slice, slice]

    @classmethod
    def through(cls, mask: np.ndarray) -> Cuts:
        """Five axial, two coronal and two sagittal slices, placed by the extent of a brain mask (x, y, z)."""
        extents = []
        for axis in range(3):
            inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            extents.append((int(inside[0]), int(inside[-1])))

        def at(axis: int, *fractions: float) -> tuple[int, ...]:
            low, high = extents[axis]
            return tuple(round(low + fraction * (high - low)) for fraction in fractions)

        box = [slice(max(low - 1, 0), high + 2) for low, high in extents]
        return cls(at(2, 0.28, 0.4, 0.5, 0.6, 0.74), at(1, 0.42, 0.56), at(0, 0.32, 0.49), (box[0], box[1], box[2]))

    def strip(self, volume: np.ndarray) -> list[np.ndarray]:
        """The slices of a volume (x, y, z), each an image (row, column) with the top of the head or the nose up."""
        x, y, z = self.box
        tiles = [volume[x, y, k].T for k in self.axial]
        tiles += [volume[x, j, z].T for j in self.coronal]
        tiles += [volume[i, y, z].T for i in self.sagittal]
        return [tile[::-1] for tile in tiles]  # image rows run down, anatomy runs up; left stays left


def grey(volume: np.ndarray, cuts: Cuts, white: float = WHITE) -> str:
    """Intensities from 0 to `white` as grey; a data URI."""
    return _encode(_join([_resized(tile / white, "L") for tile in cuts.strip(volume)]))


def signed(difference: np.ndarray, cuts: Cuts, mask: np.ndarray, limit: float) -> str:
    """A signed map from -limit (blue) over 0 (black) to +limit (red), with the brain's outline; a data URI."""
    # 127.5 / 255 is one of the two middle colours, both of which are black.
    return _coloured(0.5 + 0.5 * difference / limit, cuts, mask, SIGNED)


def positive(values: np.ndarray, cuts: Cuts, mask: np.ndarray, limit: float) -> str:
    """A map from 0 to `limit`, with the brain's outline; a data URI."""
    return _coloured(values / limit, cuts, mask, POSITIVE)


def sprite(voxels: np.ndarray) -> str:
    """All axial slices of a volume of bytes (x, y, z), side by side in rows; a data URI.

    Slice k stands in row k // SPRITE_COLUMNS; a slice's rows are y and its columns x, both from their low end.
    """
    width, height, depth = voxels.shape
    sheet = np.zeros((-(-depth // SPRITE_COLUMNS) * height, SPRITE_COLUMNS * width), dtype=np.uint8)
    for k in range(depth):
        row, column = divmod(k, SPRITE_COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = voxels[:, :, k].T
    return _encode(Image.fromarray(sheet, "L"))


def pixels(unit: np.ndarray) -> str:
    """A matrix from 0 to 1 as a picture of one pixel a cell; a data URI."""
    buffer = io.BytesIO()
    Image.fromarray((255 * unit).round().astype(np.uint8), "L").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def from_file(path: Path, max_width: int = 1500) -> str:
    """A picture file as a data URI, made no wider than `max_width` pixels."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > max_width:
        picture = picture.resize(
            (max_width, round(picture.height * max_width / picture.width)), Image.Resampling.LANCZOS
        )
    return _encode(picture)


def gradient(colours: np.ndarray) -> str:
    """A colour table as a CSS gradient, for the scale under a picture."""
    stops = [f"rgb({red} {green} {blue})" for red, green, blue in colours[:: len(colours) // 16]]
    return f"linear-gradient(to right, {', '.join(stops)})"


def round_limit(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7 times a power of ten; 1 where nothing is positive."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    magnitude = 10.0 ** np.floor(np.log10(value))
    return float(next(m * magnitude for m in (1, 1.5, 2, 3, 5, 7, 10) if m * magnitude >= value * (1 - 1e-9)))


def _coloured(unit: np.ndarray, cuts: Cuts, mask: np.ndarray, colours: np.ndarray) -> str:
    tiles = []
    for values, inside in zip(cuts.strip(unit), cuts.strip(mask.astype(np.float32)), strict=True):
        index = np.asarray(_resized(values, "L"))
        # The outline is drawn after enlarging: one pixel wide, whatever the grid.
        filled = np.asarray(_resized(inside, "L")) > 127
        inner = filled.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(filled, step, axis)
        tile = np.where(filled[..., None], colours[index], 0).astype(np.uint8)
        tile[filled & ~inner] = 110
        tiles.append(Image.fromarray(tile))
    return _encode(_join(tiles))


def _resized(tile: np.ndarray, mode: str) -> Image.Image:
    pixels = Image.fromarray((np.clip(np.nan_to_num(tile), 0, 1) * 255).astype(np.uint8), mode)
    return pixels.resize((round(tile.shape[1] * TILE_HEIGHT / tile.shape[0]), TILE_HEIGHT), Image.Resampling.BICUBIC)


def _join(tiles: list[Image.Image]) -> Image.Image:
    strip = Image.new(tiles[0].mode, (sum(tile.width for tile in tiles) + 4 * (len(tiles) - 1), TILE_HEIGHT))
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + 4
    return strip


def _encode(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=1)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
