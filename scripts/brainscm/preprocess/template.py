"""The template: its brain on the output grid, the whole-head target for registration, tissue priors and regions.

Without a network the only template at hand is the ICBM152 2009a in nilearn's wheel: T1w, grey and white matter, no
skull. Every other template borrows its tissue priors and regions, by an affine registration of brain to brain.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import nibabel as nib
import nilearn
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from brainscm.config import CustomTemplate
from brainscm.errors import ConfigError
from brainscm.files import space_fields, whole
from brainscm.images import Grid, Image, template_code
from brainscm.landmarks import MEDIAL_TEMPORAL_MM, distance_to_hippocampus
from brainscm.preprocess.register import match_masks, register_brain
from brainscm.preprocess.template_files import EMBEDDED, templateflow_files
from brainscm.provenance import code_fingerprint, options_fingerprint
from brainscm.resampling import crop, gaussian_for_voxels, halve, sample

HEAD_MARGIN_MM = 32  # room around the brain for scalp, skull and the registration's band
GRID_MARGIN_MM = 3  # the affine brings outlines together to within about this
HEAD_MM = (2, 4, 8)  # voxel sizes of the whole-head targets
SKULL_MM, SCALP_MM = 7, 14  # outer distances from the brain of the pseudo-head's dark and bright shells


@dataclass(frozen=True)
class Template:
    """A template brain on the output grid; arrays are (x, y, z), `affine` is voxel-to-world (RAS+, mm).

    `gm`, `wm`, `csf` are prior probabilities (float32, 0–1; their sum is 1 inside `brain_mask`). `ventricles` and
    `medial_temporal` are the regions in which CSF is called ventricle and grey matter medial temporal.
    `heads` are whole-head targets at 2, 4 and 8 mm with their brain masks, for registration.
    """

    name: str
    voxel_mm: float
    affine: np.ndarray
    shape: tuple[int, int, int]
    brain: np.ndarray
    brain_mask: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    ventricles: np.ndarray
    medial_temporal: np.ndarray
    heads: dict[int, tuple[Image, Image]]

    @property
    def label(self) -> str:
        """The BIDS `res-` label: 2mm, 1p5mm."""
        return f"{self.voxel_mm:g}mm".replace(".", "p")

    @property
    def grid(self) -> Grid:
        return Grid(self.shape, self.affine, template_code(self.name))

    @property
    def described(self) -> dict[str, str]:
        """What BIDS side-cars say of an image on this grid."""
        return space_fields(self.name, self.voxel_mm)

    @property
    def voxel_ml(self) -> float:
        return self.voxel_mm**3 / 1000

    @cached_property
    def brain_volume(self) -> Image:
        return Image(self.brain, self.affine)

    @property
    def mask_volume(self) -> Image:
        return Image(self.brain_mask, self.affine)

    @cached_property
    def stripped(self) -> dict[int, tuple[Image, Image]]:
        """The whole-head targets without skull and scalp, for scans that have none."""
        return {mm: (head.with_data(head.data * (mask.data > 0.5)), mask) for mm, (head, mask) in self.heads.items()}

    @cached_property
    def blurred_priors(self) -> np.ndarray:
        """(3, x, y, z) of grey matter, white matter and CSF: an affine leaves participants' gyri millimetres apart."""
        maps = [ndimage.gaussian_filter(part, 2.5 / self.voxel_mm) for part in (self.gm, self.wm, self.csf)]
        priors = np.stack(maps) + np.array([0.02, 0.02, 0.08], dtype=np.float32)[:, None, None, None]
        return (priors / priors.sum(0)).astype(np.float32)


def load_template(template: str | CustomTemplate, voxel_mm: float, cache_dir: Path | None = None) -> Template:
    """Prepare a template for an output grid of `voxel_mm`.

    Args:
        template: the embedded template's name, a TemplateFlow name found under $TEMPLATEFLOW_HOME, or T1w + brain mask.
        cache_dir: keep what was prepared there, and take it from there: the same numbers, seconds earlier.

    Raises:
        ConfigError: the template is unknown, missing, or not usable.
    """
    if isinstance(template, str) and template != EMBEDDED:
        template = templateflow_files(template)
    if cache_dir is None:
        return _prepare(template, voxel_mm)
    path = cache_dir / f"{_fingerprint(template, voxel_mm)}.npz"
    if not path.is_file():
        _store(_prepare(template, voxel_mm), path)
    try:
        return _restore(path)
    except (OSError, ValueError, KeyError, BadZipFile):  # cut short by whatever else writes there
        return _prepare(template, voxel_mm)


def _prepare(template: str | CustomTemplate, voxel_mm: float) -> Template:
    if isinstance(template, str):
        embedded = _embedded()
        return _build(EMBEDDED, embedded["t1w"], embedded["mask"], embedded, voxel_mm)
    t1w, mask = _read_custom(template)
    return _build(template.name, t1w, mask, _borrow_priors(_embedded(), t1w, mask), voxel_mm)


def _fingerprint(template: str | CustomTemplate, voxel_mm: float) -> str:
    """What a prepared template depends on: its files, the grid, the code, and the libraries that resample it."""
    files = [] if isinstance(template, str) else [template.t1w, template.brain_mask]
    seen = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.is_file()]
    name = template if isinstance(template, str) else template.name
    libraries = [version(package) for package in ("antspyx", "nibabel", "nilearn", "numpy", "scipy")]
    return options_fingerprint([name, seen, voxel_mm, code_fingerprint(__name__), libraries])


def _store(template: Template, path: Path) -> None:
    """Keep a prepared template for the jobs to come."""
    arrays: dict[str, Any] = {field.name: getattr(template, field.name) for field in fields(template)}
    for mm, pair in arrays.pop("heads").items():
        for kind, volume in zip(("head", "brain"), pair, strict=True):
            arrays |= {f"{kind}_{mm}": volume.data, f"{kind}_{mm}_affine": volume.affine}
    with whole(path, shared=True) as partial:
        np.savez(partial, **arrays)


def _restore(path: Path) -> Template:
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files}

    def volume(key: str) -> Image:
        return Image(arrays.pop(key), arrays.pop(f"{key}_affine"))

    heads = {mm: (volume(f"head_{mm}"), volume(f"brain_{mm}")) for mm in HEAD_MM}
    x, y, z = (int(n) for n in arrays.pop("shape"))
    name, voxel_mm = str(arrays.pop("name")), float(arrays.pop("voxel_mm"))
    return Template(name=name, voxel_mm=voxel_mm, shape=(x, y, z), heads=heads, **arrays)


def _embedded() -> dict[str, Image]:
    """ICBM152 2009a (1 mm) with tissue probabilities, and regions drawn from them in its MNI coordinates."""
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    images = [nib.load(folder / f"mni_icbm152_{key}_tal_nlin_sym_09a_converted.nii.gz") for key in ("t1", "gm", "wm")]
    t1w, gm, wm = (np.asanyarray(image.dataobj) for image in images)
    box = ndimage.find_objects((t1w > 0).astype(np.uint8))[0]
    affine = images[0].affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start - HEAD_MARGIN_MM for part in box]
    t1w, gm, wm = (np.pad(part[box], HEAD_MARGIN_MM).astype(np.float32) for part in (t1w, gm, wm))
    mask = (t1w > 0).astype(np.float32)
    gm, wm = gm / 255 * mask, wm / 255 * mask
    csf = np.clip(mask - gm - wm, 0, 1)
    maps: dict[str, np.ndarray] = {"t1w": t1w, "mask": mask, "gm": gm, "wm": wm, "csf": csf}
    volumes = {key: Image(data, affine) for key, data in maps.items()}
    return volumes | _mni_regions(halve(volumes["csf"]), halve(volumes["mask"]))


def _mni_regions(csf: Image, mask: Image) -> dict[str, Image]:
    """Regions in MNI coordinates, at 2 mm: `ventricles`, where CSF is ventricle, and `medial_temporal`.

    The template's own ventricles are its CSF inside boxes around the lateral ventricles' bodies and temporal horns, the
    third and the fourth ventricle. Participants' ventricles are larger or shifted: CSF within 16 mm and nearer to the
    template's ventricles than to its sulci and cisterns counts as theirs.
    """
    x, y, z = np.ogrid[tuple(slice(n) for n in csf.data.shape)]
    x, y, z = (csf.affine[axis, axis] * index + csf.affine[axis, 3] for axis, index in enumerate((x, y, z)))
    lateral = (abs(x) < 38) & (y > -70) & (y < 38) & (z > -6) & (z < 32)
    lateral &= ~((abs(x) > 20) & (y > -22)) & ~((abs(x) < 12) & (y < -32)) & ~((abs(x) < 4) & (z > 17))
    third = (abs(x) < 5) & (y > -30) & (y < 8) & (z > -12) & (z <= 6)
    horns = (abs(x) > 22) & (abs(x) < 42) & (y > -42) & (y < -4) & (z > -26) & (z <= -6)
    fourth = (abs(x) < 10) & (y > -54) & (y < -35) & (z > -44) & (z < -18)
    seeds = (csf.data > 0.5) & (lateral | third | horns | fourth)
    to_ventricle = 2 * ndimage.distance_transform_edt(~seeds)
    to_sulcus = 2 * ndimage.distance_transform_edt(~((csf.data > 0.5) & ~seeds))
    ventricles = (to_ventricle < 16) & (to_ventricle < to_sulcus)
    near_hippocampus = distance_to_hippocampus(np.stack(np.broadcast_arrays(x, y, z), axis=-1)) < MEDIAL_TEMPORAL_MM
    medial_temporal = (mask.data > 0.5) & near_hippocampus
    return {"ventricles": csf.with_data(ventricles), "medial_temporal": csf.with_data(medial_temporal)}


def _build(name: str, t1w: Image, mask: Image, priors: dict[str, Image], voxel_mm: float) -> Template:
    inside = mask.data > 0.5
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    low = apply_affine(mask.affine, [part.start - 0.5 for part in box])
    high = apply_affine(mask.affine, [part.stop - 0.5 for part in box])
    size = (high - low + 2 * GRID_MARGIN_MM) / voxel_mm
    x, y, z = (int(8 * np.ceil(n / 8)) for n in size)
    shape = (x, y, z)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - voxel_mm * (np.array(shape) - 1) / 2

    def on_grid(volume: Image) -> np.ndarray:
        return sample(gaussian_for_voxels(volume, voxel_mm), affine, shape, order=1)

    near_brain = {key: crop(priors[key], inside, 8) for key in ("gm", "wm", "csf")}  # blurring air costs seconds
    brain_t1w = crop(t1w.with_data(t1w.data * inside), inside, 8)
    brain_mask = on_grid(crop(mask, inside, 8)) > 0.5
    tissues = np.stack([np.clip(on_grid(near_brain[key]), 0, 1) for key in ("gm", "wm", "csf")]) + 1e-6
    tissues = tissues / tissues.sum(0) * brain_mask
    brain = np.clip(on_grid(brain_t1w), 0, None) * brain_mask
    return Template(
        name=name,
        voxel_mm=voxel_mm,
        affine=affine,
        shape=shape,
        brain=(brain / np.median(brain[tissues[1] > 0.9])).astype(np.float32),
        brain_mask=brain_mask,
        gm=tissues[0],
        wm=tissues[1],
        csf=tissues[2],
        ventricles=on_grid(priors["ventricles"]) > 0.5,
        medial_temporal=on_grid(priors["medial_temporal"]) > 0.5,
        heads=_heads(t1w, mask),
    )


def _heads(t1w: Image, mask: Image) -> dict[int, tuple[Image, Image]]:
    """Whole-head targets at 2, 4 and 8 mm: the T1w itself where it has a head, else a skull and a scalp around it."""
    head, brain = halve(t1w), halve(mask)
    distance = ndimage.distance_transform_edt(brain.data <= 0.5) * head.voxel_mm[0]
    scalp = (distance > SKULL_MM) & (distance <= SCALP_MM)
    if np.count_nonzero(head.data[scalp]) < 0.5 * np.count_nonzero(scalp):
        white = np.percentile(head.data[brain.data > 0.5], 90)
        shell = np.where(scalp, 0.85 * white, 0.1 * white)
        data = np.where((distance > 0) & (distance <= SCALP_MM), shell, head.data)
        head = head.with_data(data.astype(np.float32))
    heads = {2: (head, brain)}
    for mm in HEAD_MM[1:]:
        head, brain = halve(head), halve(brain)
        heads[mm] = (head, brain)
    return heads


def _read_custom(template: CustomTemplate) -> tuple[Image, Image]:
    """T1w and mask on a 1 mm upright grid around the brain."""
    images = []
    for key, path in (("t1w", template.t1w), ("brain_mask", template.brain_mask)):
        try:
            image = nib.load(path)
            data = np.nan_to_num(np.squeeze(np.asanyarray(image.dataobj, dtype=np.float32)))
        except Exception as error:
            raise ConfigError(f"template.{key}: {path} cannot be read as NIfTI; check the path and the file") from error
        if data.ndim != 3 or not data.any():
            raise ConfigError(f"template.{key}: {path} must be one 3D volume that is not empty")
        images.append(Image(data, image.affine))
    t1w, mask = images
    if mask.data.max() > 1:  # 0 and 255, or the brain itself in place of its mask
        mask = mask.with_data((mask.data > 0).astype(np.float32))
    if t1w.data.shape != mask.data.shape or not np.allclose(t1w.affine, mask.affine, atol=1e-2):
        raise ConfigError(f"template: {template.t1w} and {template.brain_mask} are not on one grid; resample the mask")
    inside = np.argwhere(mask.data > 0.5)
    if not 500 < len(inside) * mask.voxel_ml < 3000:
        volume_ml = len(inside) * mask.voxel_ml
        raise ConfigError(f"template.brain_mask: {template.brain_mask} holds {volume_ml:.0f} ml; give a brain's mask")
    world = apply_affine(mask.affine, inside)
    low, high = world.min(0) - HEAD_MARGIN_MM, world.max(0) + HEAD_MARGIN_MM
    affine = np.eye(4)
    affine[:3, 3] = np.floor(low)
    shape = tuple(int(n) for n in np.ceil(high - low))
    grid = [Image(sample(gaussian_for_voxels(volume, 1.0), affine, shape, order=1), affine) for volume in images]
    return grid[0].with_data(np.clip(grid[0].data, 0, None)), grid[1]


def _borrow_priors(embedded: dict[str, Image], t1w: Image, mask: Image) -> dict[str, Image]:
    """The embedded template's tissue priors and regions on another template's grid, brain registered to brain."""

    def brain_at_4mm(image: Image, brain: Image) -> tuple[Image, Image]:
        small = halve(halve(brain))
        return halve(halve(image.with_data(image.data * (brain.data > 0.5)))), small

    fixed, fixed_mask = brain_at_4mm(t1w, mask)
    moving, moving_mask = brain_at_4mm(embedded["t1w"], embedded["mask"])
    start = match_masks(fixed_mask, moving_mask)
    world = register_brain(crop(fixed, fixed_mask.data > 0.5, 8), moving, start, "affine", seed=1)
    keys = ("gm", "wm", "csf", "ventricles", "medial_temporal")
    return {key: t1w.with_data(sample(embedded[key], t1w.affine, t1w.data.shape, world, order=1)) for key in keys}
