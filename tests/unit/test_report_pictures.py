import base64
import io

import numpy as np
import pytest
from PIL import Image

from brainscm.report import pictures

MASK = np.zeros((20, 24, 22), bool)
MASK[3:17, 3:21, 3:19] = True
CUTS = pictures.Cuts.through(MASK)


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_left_stays_left_and_up_is_up():
    volume = np.zeros(MASK.shape, np.float32)
    volume[14:17, 10:14, 3:19] = 1  # the right of the head, at all heights
    axial = CUTS.strip(volume)[2]
    assert axial[:, axial.shape[1] // 2 :].sum() > 0
    assert axial[:, : axial.shape[1] // 2].sum() == 0
    volume[:] = 0
    volume[:, :, 16:19] = 1  # the top of the head
    coronal = CUTS.strip(volume)[5]
    assert coronal[: len(coronal) // 2].sum() > 0
    assert coronal[len(coronal) // 2 :].sum() == 0


def test_difference_is_blue_for_darker_red_for_brighter_and_dark_for_nothing():
    inner = np.zeros(MASK.shape, bool)
    inner[6:14, 8:16, 6:16] = True
    coloured = {}
    for name, value in (("darker", -0.3), ("brighter", 0.3), ("none", 0.0)):
        picture = pixels(pictures.signed(np.where(inner, value, 0).astype(np.float32), CUTS, MASK, 0.3))
        coloured[name] = (picture[..., 2] - picture[..., 0]).mean()  # blue less red
    assert coloured["darker"] > coloured["none"] + 10
    assert coloured["brighter"] < coloured["none"] - 10
    assert np.median(picture) < 30  # of "none": as dark as the background


def test_values_beyond_the_scale_and_nan_do_not_wrap_around():
    wild = np.where(MASK, 100.0, 0).astype(np.float32)
    wild[10, 12, 11] = np.nan
    top = pixels(pictures.signed(np.where(MASK, 0.3, 0).astype(np.float32), CUTS, MASK, 0.3))
    assert np.abs(pixels(pictures.signed(wild, CUTS, MASK, 0.3)) - top).mean() < 3


@pytest.mark.parametrize(
    ("value", "limit"), [(0.12, 0.15), (0.2, 0.2), (0.051, 0.07), (8.0, 10.0), (0.0, 1.0), (np.nan, 1.0)]
)
def test_scales_end_at_round_numbers(value, limit):
    assert pictures.round_limit(value) == pytest.approx(limit)


def test_a_large_picture_file_is_made_smaller(tmp_path):
    Image.new("RGB", (4000, 1000), "white").save(tmp_path / "large.png")
    assert pixels(pictures.from_file(tmp_path / "large.png")).shape == (375, 1500, 3)


def test_no_change_is_black():
    shown = pictures.SIGNED[[127, 128]]
    assert (shown == 0).all()
    assert pictures.SIGNED[0][2] > pictures.SIGNED[0][0]  # darker is blue,
    assert pictures.SIGNED[255][0] > pictures.SIGNED[255][2]  # brighter is red
    lightness = pictures.SIGNED.astype(int).sum(axis=1)
    assert (np.diff(lightness[128:]) >= -2).all()
    assert (np.diff(lightness[:128]) <= 2).all()
