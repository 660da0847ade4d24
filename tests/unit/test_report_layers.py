"""Volumes for the viewers: what a page holds, and the files in full resolution."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from brainscm.images import Grid
from brainscm.report.layers import MOST, Layer, Stack

AFFINE = np.array([[2.0, 0, 0, -60], [0, 2, 0, -80], [0, 0, 2, -50], [0, 0, 0, 1]])
BOX = (slice(3, 23), slice(2, 32), slice(1, 11))


def stack_of(*layers: Layer, box=BOX) -> Stack:
    return Stack("sub-1", layers, Grid((40, 50, 30), AFFINE), box, over=layers[-1].name, under=layers[0].name)


def test_a_layer_keeps_numbers_within_half_a_step_and_cuts_off_what_is_beyond():
    values = np.linspace(-2, 2, 6000, dtype=np.float32).reshape(20, 30, 10)
    for kind, low in (("signed", -1.5), ("grey", 0.0), ("positive", 0.0)):
        layer = Layer.of("a", kind, values, 1.5)
        loaded = nib.Nifti1Image.from_bytes(stack_of(layer).nifti(layer))
        step = (1.5 - low) / 255
        assert np.abs(loaded.get_fdata() - values.clip(low, 1.5)).max() <= 0.51 * step


def test_the_file_lies_where_the_box_does():
    layer = Layer.of("a", "grey", np.ones((20, 30, 10), np.float32), 1.0)
    loaded = nib.Nifti1Image.from_bytes(stack_of(layer).nifti(layer))
    assert loaded.shape == (20, 30, 10)
    assert np.allclose(loaded.affine @ [0, 0, 0, 1], AFFINE @ [3, 2, 1, 1])


def test_each_layer_is_a_script_that_a_page_on_a_disk_may_load(tmp_path):
    first = Layer.of("scan", "grey", np.ones((20, 30, 10), np.float32), 1.0)
    second = Layer.of("older − scan", "signed", np.full((20, 30, 10), -0.5, np.float32), 1.0, "few near")
    stack_of(first, second).write(tmp_path)
    told = re.fullmatch(r"brainscm.layers = (.*);\n", (tmp_path / "layers.js").read_text())[1]
    assert json.loads(told)[1] == {"name": "older − scan", "kind": "signed", "limit": 1.0, "about": "few near"}
    packed = re.fullmatch(r'brainscm.volumes\[1\] = "(.*)";\n', (tmp_path / "1.js").read_text())[1]
    loaded = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))
    assert np.allclose(loaded.get_fdata(), -0.5, atol=0.005)


@pytest.mark.parametrize("size", [MOST, MOST + 1])
def test_a_page_holds_blocks_of_voxels_where_there_are_many(size):
    shape = (size, 20, 10)
    values = np.broadcast_to(np.linspace(0, 1, size, dtype=np.float32)[:, None, None], shape)
    box = tuple(slice(0, n) for n in shape)
    content = json.loads(stack_of(Layer.of("a", "grey", values, 1.0), box=box).embedded)
    step = 1 if size == MOST else 2
    assert content["shape"] == [n // step for n in shape]
    assert content["voxel_mm"] == [2.0 * step] * 3
    assert content["origin_mm"][0] == -60 + (step - 1)
    sheet = Image.open(io.BytesIO(base64.b64decode(content["layers"][0]["source"].split(",")[1])))
    along = np.asarray(sheet.convert("L"))[5, : size // step] / 255
    assert np.abs(along - np.linspace(0, 1, size // step)).max() < 0.03
