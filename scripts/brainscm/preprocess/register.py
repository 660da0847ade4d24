"""Find the brain in a head with ANTs: a scored search for the start, linear stages, a coarse deformable stage.

All maps here are 4 × 4 matrices, or ANTs files, that take a *template* point to a *scan* point (as ANTs stores them:
applied to the scan they bring it to the template). Matrices are in RAS+ mm, ANTs files in LPS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from brainscm.foreground import foreground
from brainscm.images import LPS, Image
from brainscm.preprocess.itk import load_ants, read_matrix, to_ants, write_matrix
from brainscm.resampling import crop, halve, sample

TransformKind = Literal["rigid", "similarity", "affine"]
# Whole-head targets by voxel size in mm, each with its brain mask.
Heads = Mapping[int, tuple[Image, Image]]
BINS = 24


@dataclass(frozen=True)
class Start:
    """A first guess: `matrix` (4, 4) from template to scan; its score is normalised mutual information (1 is none)."""

    matrix: np.ndarray
    score: float


def find_start(targets: Heads, head: Image, attempts: int = 4) -> Start:
    """Place the template's head on a scan, coarsely (8 mm), from many candidate poses.

    Heads come with long necks, tilted or off centre, so no single guess holds. Candidates: the centre of the whole
    foreground and of its upper 130 mm, shifted up and down, front and back, and pitched. The best few that differ are
    refined (translation, rotation, size) by Powell's method; the score is normalised mutual information (Studholme et
    al. 1999, doi 10.1016/S0031-3203(98)00091-0) over the brain and a 16 mm band of skull and scalp around it.
    """
    target, mask = targets[8]
    while head.voxel_mm[0] < 6:
        head = halve(head)
    band = ndimage.distance_transform_edt(mask.data <= 0.5) * target.voxel_mm[0] <= 16
    points = np.argwhere(band) @ target.affine[:3, :3].T + target.affine[:3, 3]
    centre = points[mask.data[band] > 0.5].mean(0)
    target_bins = np.minimum(target.data[band] / target.data.max() * BINS, BINS - 1).astype(np.int32)
    fore = foreground(head.data)
    data = np.clip(head.data / np.percentile(head.data[fore], 98), 0, 1)
    to_voxel = np.linalg.inv(head.affine)

    def score(pose: np.ndarray) -> float:
        world = _pose_matrix(pose, centre)
        at = points @ (to_voxel[:3, :3] @ world[:3, :3]).T + (to_voxel @ world)[:3, 3]
        values = ndimage.map_coordinates(data, at.T, order=1)
        return _normalised_mutual_information(target_bins, np.minimum(values * BINS, BINS - 1).astype(np.int32))

    world_z = np.arange(head.data.shape[2]) * head.affine[2, 2] + head.affine[2, 3]
    upper = fore & (world_z > world_z[fore.any((0, 1))].max() - 130)
    candidates = []
    for region in (fore, upper):
        origin = centre_of(region, head.affine)
        for up in (-40, -20, 0, 20, 40):
            for forward in (-25, 0, 25):
                for pitch in (-30, -15, 0, 15, 30):
                    pose = np.r_[origin[0], origin[1] + forward, origin[2] + up, pitch, 0, 0, 0]
                    candidates.append((score(pose), pose))
    candidates.sort(key=lambda item: -item[0])
    chosen: list[np.ndarray] = []
    for _, pose in candidates:
        if all(abs(pose[:3] - other[:3]).max() > 15 or abs(pose[3] - other[3]) > 10 for other in chosen):
            chosen.append(pose)
        if len(chosen) == attempts:
            break
    options = {"xtol": 0.5, "ftol": 1e-3, "maxfev": 250}
    results = [minimize(lambda pose: -score(pose), pose, method="Powell", options=options) for pose in chosen]
    best = min(results, key=lambda result: result.fun)
    return Start(_pose_matrix(best.x, centre), float(-best.fun))


def register_head(targets: Heads, head: Image, start: np.ndarray, seed: int) -> np.ndarray:
    """Similarity, then affine, at 4 mm onto the template's whole head (Mattes mutual information). Returns (4, 4)."""
    fixed = targets[4][0]
    moving = halve(head) if head.voxel_mm[0] < 3 else head
    stages = [
        _stage("Similarity[0.25]", "MATTES[{f},{m},1,32,Regular,0.25]", "60x40", "2x1", "1x0"),
        _stage("Affine[0.15]", "MATTES[{f},{m},1,32,Regular,0.25]", "60x40", "2x1", "1x0"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        return read_matrix(_run_ants(fixed, moving, stages, start, Path(folder), seed)[0])


def register_brain(fixed: Image, moving: Image, start: np.ndarray, kind: TransformKind, seed: int) -> np.ndarray:
    """Brain onto brain, from a close start, restricted to `kind`. Returns (4, 4).

    At about 8 and 4 mm: at 2 mm it takes eight times the time, and ends no nearer to the template.
    """
    if moving.voxel_mm[0] > 1.5 * fixed.voxel_mm[0]:
        fixed = halve(fixed)
    if kind != "affine":
        start = _nearest(start, kind, centre_of(fixed.data > 0, fixed.affine))
    name = {"rigid": "Rigid[0.1]", "similarity": "Similarity[0.1]", "affine": "Affine[0.1]"}[kind]
    shrink = max(1, round(4 / fixed.voxel_mm[0]))
    smooth = f"{shrink}x{shrink / 2:g}" if shrink > 1 else "1x0"
    stages = [_stage(name, "MATTES[{f},{m},1,32,Regular,0.25]", "60x30", f"{2 * shrink}x{shrink}", smooth)]
    with tempfile.TemporaryDirectory() as folder:
        return read_matrix(_run_ants(fixed, moving, stages, start, Path(folder), seed)[0])


@dataclass(frozen=True)
class Warped:
    """Template maps on a scan's working grid, and the warp's local change of volume inside the template's brain.

    `jacobian` holds the 1st and 99th percentile of the Jacobian determinant, linear part left out; 1 is no change.
    """

    probability: np.ndarray
    labels: np.ndarray | None
    jacobian: tuple[float, float]


def warp_to_head(targets: Heads, head: Image, affine: np.ndarray, seed: int, labels: Image | None = None) -> Warped:
    """Warp the template's brain mask (and a label map) onto the scan's working grid by symmetric normalisation, 4 mm.

    Cross-correlation, because it looks at local contrast: the pseudo-head's shells have the right edges, not the right
    brightness. (Avants et al. 2008, doi 10.1016/j.media.2007.06.004.) Coarsely in a window of two voxels, since one
    voxel mistakes a thick skull's outside for its inside; then finely in one, in half the time of two.
    """
    ants = load_ants()
    target, mask = targets[4]
    fixed = crop(target, mask.data > 0.5, 12)
    stages = [
        _stage("SyN[0.25,3,0]", "CC[{f},{m},1,2]", "25x0", "2x1", "1x0"),
        _stage("SyN[0.25,3,0]", "CC[{f},{m},1,1]", "0x5", "2x1", "1x0"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = _run_ants(fixed, head, stages, affine, Path(folder), seed)
        linear = next(path for path in files if path.suffix == ".mat")
        inverse = next(path for path in files if "InverseWarp" in path.name)
        forward = next(path for path in files if path.name.endswith("Warp.nii.gz") and path != inverse)
        reference = to_ants(head)
        chain = [str(linear), str(inverse)]

        def warp(volume: Image, interpolator: str) -> np.ndarray:
            return ants.apply_transforms(
                reference, to_ants(volume), chain, interpolator=interpolator, whichtoinvert=[True, False]
            ).numpy()

        inside = crop(mask, mask.data > 0.5, 12).data > 0.5
        displacement = ants.image_read(str(forward)).numpy() @ LPS  # along the template's axes, which are RAS+
        jacobian = jacobian_determinant(displacement, fixed.voxel_mm)[inside]
        low, high = np.percentile(jacobian, (1, 99))
        return Warped(
            probability=warp(targets[2][1], "linear"),
            labels=None if labels is None else warp(labels, "genericLabel"),
            jacobian=(float(low), float(high)),
        )


def jacobian_determinant(displacement: np.ndarray, voxel_mm: np.ndarray) -> np.ndarray:
    """Local change of volume (x, y, z) of the map p → p + `displacement` (x, y, z, 3), mm along the grid's own axes."""
    gradient = [np.gradient(displacement[..., axis], *voxel_mm) for axis in range(3)]
    return np.linalg.det(np.moveaxis(np.array(gradient), (0, 1), (-2, -1)) + np.eye(3))


def align_run(reference: Image, run: Image, seed: int) -> np.ndarray:
    """Rigid map (4, 4) from a head to another scan of the same head, both on working grids (Mattes information).

    Scans of one session share the scanner's coordinates, so that is the first start; the other, for a participant who
    left the table, lays centre on centre.
    """
    centres = [centre_of(foreground(head.data), head.affine) for head in (reference, run)]
    starts = [np.eye(4), about(np.eye(3), centres[0], centres[1])]
    fixed = halve(reference)

    def agreement(world: np.ndarray) -> float:
        return float(
            np.corrcoef(fixed.data.ravel(), sample(run, fixed.affine, fixed.data.shape, world, 1).ravel())[0, 1]
        )

    stages = [_stage("Rigid[0.1]", "MATTES[{f},{m},1,32,Regular,0.25]", "100x60", "4x2", "2x1")]
    with tempfile.TemporaryDirectory() as folder:
        files = _run_ants(reference, run, stages, max(starts, key=agreement), Path(folder), seed)
        return read_matrix(files[0])


def match_masks(fixed: Image, moving: Image) -> np.ndarray:
    """Map the fixed mask's centre to the moving one's, and volume to volume, without rotation. Returns (4, 4)."""
    centres, volumes = [], []
    for mask in (fixed, moving):
        inside = mask.data > 0.5
        centres.append(centre_of(inside, mask.affine))
        volumes.append(inside.sum() * mask.voxel_ml)
    return about(np.eye(3) * (volumes[1] / volumes[0]) ** (1 / 3), centres[0], centres[1])


def centre_of(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of mass of a mask in world coordinates (3,), mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]


def about(linear: np.ndarray, centre: np.ndarray, goes_to: np.ndarray) -> np.ndarray:
    """The map (4, 4) with this linear part (3, 3) that takes the point `centre` to `goes_to`."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = goes_to - linear @ centre
    return matrix


def _stage(transform: str, metric: str, iterations: str, shrink: str, smooth: str) -> list[str]:
    return ["-t", transform, "-m", metric, "-c", f"[{iterations},1e-5,10]", "-f", shrink, "-s", smooth]


def _run_ants(
    fixed: Image, moving: Image, stages: list[list[str]], start: np.ndarray, folder: Path, seed: int
) -> list[Path]:
    """antsRegistration's own arguments, which antspyx takes too: they allow several stages and a fixed seed."""
    ants = load_ants()
    from ants.internal import get_pointer_string

    images: dict[str, Any] = {"f": to_ants(fixed), "m": to_ants(moving)}
    pointers = {key: get_pointer_string(image) for key, image in images.items()}
    write_matrix(start, folder / "start.mat")
    arguments = ["-d", "3", "--float", "1", "--random-seed", str(max(1, seed % 2**31)), "-u", "0", "-z", "1"]
    arguments += ["-w", "[0.005,0.995]", "-r", str(folder / "start.mat")]
    for stage in stages:
        arguments += [part.format(**pointers) for part in stage]
    ants.registration([*arguments, "-o", f"[{folder}/out]"], None)
    return sorted(folder.glob("out*"))


def _normalised_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    joint = np.bincount(a * BINS + b, minlength=BINS * BINS).reshape(BINS, BINS) / len(a)

    def entropy(p: np.ndarray) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint)


def _pose_matrix(pose: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """`pose`: where the template's centre goes (3, mm), rotation (3, degrees about x, y, z), size (percent, log)."""
    linear = Rotation.from_euler("xyz", pose[3:6], degrees=True).as_matrix() * np.exp(pose[6] / 100)
    return about(linear, centre, pose[:3])


def _nearest(matrix: np.ndarray, kind: TransformKind, centre: np.ndarray) -> np.ndarray:
    """The rigid or similarity map nearest to an affine one, equal to it at `centre` (polar decomposition)."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    scale = np.linalg.det(matrix[:3, :3]) ** (1 / 3) if kind == "similarity" else 1.0
    return about(left @ right * scale, centre, matrix[:3, :3] @ centre + matrix[:3, 3])
