"""Whole-head label maps for tests, made from the embedded head: no map of a real person may lie in the project."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from brainscm.landmarks import distance_to_hippocampus
from brainscm.simulation.anatomy import BRAIN_LATTICE, embedded_head
from brainscm.simulation.exterior import HEAD_CHANNELS, HEAD_LATTICE
from brainscm.simulation.label_maps import LANDMARKS_MM

SHAPE, VOXEL_MM, CORNER_MM = (148, 180, 160), 1.5, (-111.0, -140.0, -130.0)
OUTSIDE = {"bone": 515, "marrow": 516, "fat": 507, "muscle": 507, "fluid": 506, "cord": 512}


def write_label_map(path: Path, turn_degrees: float, bend_mm: float) -> None:
    """A head that lies turned in the scanner, as another person's: bent by waves of `bend_mm`."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    points = (index * VOXEL_MM + CORNER_MM).astype(np.float32)
    bent = torch.from_numpy(points + bend_mm * np.sin(np.roll(points, 1, axis=-1) / 12).astype(np.float32))
    head = embedded_head()
    wm, csf, gm, ventricles, _ = BRAIN_LATTICE.sample(head.tissues, bent).numpy()
    right = bent[..., 0].numpy() > 0
    lateral = np.abs(bent[..., 0].numpy()) > 4
    inside = BRAIN_LATTICE.contains(bent).numpy()
    around = HEAD_LATTICE.sample(head.exterior, bent).numpy()

    labels = np.select(
        [inside & (np.stack([wm, csf, gm, ventricles]).sum(axis=0) > 0.5), around.sum(axis=0) > 0.5],
        [
            np.choose(
                np.argmax([wm, csf, gm, ventricles], axis=0),
                [np.where(right, 41, 2), 24, np.where(right, 42, 3), np.where(lateral, np.where(right, 43, 4), 14)],
            ),
            np.array(list(OUTSIDE.values()))[np.argmax(around, axis=0)],
        ],
    )
    assert tuple(OUTSIDE) == HEAD_CHANNELS
    grey = np.isin(labels, (3, 42))
    labels[grey & (distance_to_hippocampus(bent.numpy()) < 5)] = 17
    labels[(labels == 17) & right] = 53
    for pair, place in LANDMARKS_MM.items():
        if pair != (17, 53):
            for number, side in zip(pair, (-1, 1), strict=True):
                near = np.linalg.norm(bent.numpy() - np.array(place) * (side, 1, 1), axis=-1) < 3
                labels[near & np.isin(labels, (2, 3, 41, 42))] = number
    turn = np.radians(turn_degrees)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = CORNER_MM
    pitch = np.eye(4)
    pitch[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pitch[:3, 3] = (5, 20, -12)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), pitch @ affine), path)
