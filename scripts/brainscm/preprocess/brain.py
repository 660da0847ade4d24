"""Find the brain in a head: a network says where it is, ANTs registers the template to it, and both outline it.

The two outlines are independent but for the start, so that their disagreement tells of a mask that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from brainscm.errors import ScanError
from brainscm.foreground import foreground
from brainscm.images import Image
from brainscm.preprocess.atlas import Atlas
from brainscm.preprocess.intensity import bias_field
from brainscm.preprocess.network import FirstLook, brain_probability
from brainscm.preprocess.outline import dice, fit_outline, fitted_share
from brainscm.preprocess.register import Heads, Warped, about, centre_of, find_start, register_head, warp_to_head
from brainscm.preprocess.skullstrip import brain_surface, signed_distance, solid
from brainscm.preprocess.template import Template
from brainscm.qc.status import ScanStatus
from brainscm.resampling import crop, gaussian_for_voxels, sample

SkullStrip = Literal["auto", "ants", "deepbet"]

OUTSIDE_MM = -9.0  # distance to the mask beyond the field of view: outside it
MIN_BRAIN_ML = 100
NO_BRAIN = "no brain was found; look at the scan, and exclude it if it is not a whole-head T1w"
ROOM_MM = 25.0  # around the brain: its skull and scalp
RIM_MM = 4.0  # around an outline that may be a little too tight
TILTED_DEGREES = 10.0  # against the template
TURNING_VOXELS = 10  # room to turn a head in
FAR_MM = 6.0  # from the surface, distances say no more
# A long neck misleads the network: what lies further below the crown of the brain is cut off for another look.
BELOW_THE_CROWN_MM = (175.0, 145.0)
SHAPED_LIKE_A_BRAIN = 0.93  # Dice of the template's mask, laid on an outline by an affine map: a ball has 0.91
# Of the way from ANTs' outline to the network's: a half is best on heads of one scanner, three quarters on drawn ones.
NETWORK_SHARE = 2 / 3
AGREE = 0.93  # Dice of two outlines that are both right


@dataclass(frozen=True)
class Brain:
    """The brain in a scan, on the working grid or, where a network found it, on the part of it around the brain.

    Attributes:
        head: the scan without its bias field.
        field: the bias field, which `head` was divided by.
        surface: signed distance (mm, positive inside) to the surface of the intracranial mask.
        linear: (4, 4), from template to scan.
        warped: what the template's maps say of it, if it was registered with a deformation.
        other: signed distance to the outline that was not taken, where two disagree.
    """

    head: Image
    field: np.ndarray
    surface: Image
    linear: np.ndarray
    warped: Warped | None = None
    other: Image | None = None

    @property
    def inside(self) -> np.ndarray:
        return self.surface.data > 0


def find_brain(
    status: ScanStatus, head: Image, template: Template, atlas: Atlas | None, skull_strip: SkullStrip, seed: int
) -> Brain:
    """Find the brain in a head, and measure the atlas's regions in it.

    `auto`: the network's outline gives the start from which ANTs registers the template's head, and the two outlines
    are brought together: see `_reconciled`. `ants` searches the head for a start instead, without a network. `deepbet`
    takes the network's outline as it is.

    Raises:
        ScanError: there is none.
    """
    seen = None if skull_strip == "ants" else _seen_by_network(status, head, template)
    if skull_strip == "deepbet":
        if seen is None:
            raise ScanError(NO_BRAIN)
        brain = replace(_warp(status, seen, template.heads, atlas, seed), surface=seen.surface) if atlas else seen
    elif skull_strip == "auto" and seen:
        brain = _reconciled(status, head, seen, template, atlas, seed)
    else:
        brain = _found_by_search(status, head, template, atlas, seed)
        if skull_strip == "auto":
            status.metrics["outline_dice"] = 0.0  # the network sees no brain
    if brain.inside.sum() * brain.head.voxel_ml < MIN_BRAIN_ML:
        raise ScanError(NO_BRAIN)
    _measure(status, brain, atlas)
    return brain


def take_brain(
    status: ScanStatus, outline: Image, head: Image, template: Template, atlas: Atlas | None, seed: int
) -> Brain:
    """Take the brain of a scan that was stripped before, and register the template's brain, without a head, to it.

    Args:
        outline: of the given brain, on the raw scan's grid.
    """
    linear = _search(status, template.stripped, head, seed)
    with status.step("mask"):
        share = outline.with_data(outline.data.astype(np.float32))
        within = sample(gaussian_for_voxels(share, head.voxel_mm[0]), head.affine, head.data.shape, order=1)
        surface = head.with_data(signed_distance(head.with_data(within)))
    with status.step("bias_field"):
        field = bias_field(head, surface.data > 0, shrink_factor=3)
    brain = Brain(head.with_data(head.data / field), field, surface, linear)
    if atlas:
        brain = replace(_warp(status, brain, template.stripped, atlas, seed), surface=surface)
    _measure(status, brain, atlas)
    return brain


def _seen_by_network(status: ScanStatus, head: Image, template: Template) -> Brain | None:
    """The brain as the network outlines it; None where it sees none."""
    mask = template.heads[4][1]
    with status.step("network"):
        look = _look(head, mask)
    if look is None:
        return None
    status.metrics["outline_fit"] = look.fit
    with status.step("bias_field"):
        field = bias_field(look.head, look.surface.data > -RIM_MM, shrink_factor=3)
    return Brain(look.head.with_data(look.head.data / field), field, look.surface, look.linear)


@dataclass(frozen=True)
class _Look:
    """The network's outline, on the part of the head around it, and the template's mask laid on it."""

    head: Image
    surface: Image
    linear: np.ndarray
    fit: float


def _look(head: Image, mask: Image, below_mm: tuple[float, ...] = BELOW_THE_CROWN_MM) -> _Look | None:
    """What the network outlines in a head; if that has not the shape of a brain, what it outlines in less of the neck.

    Args:
        mask: the template's.
        below_mm: what to leave, below the crown of the brain, at each further look.
    """
    first = FirstLook.at(head)
    rough = head.with_data(first.on_grid_of(head))
    if not _holds_a_brain(rough):
        return None
    look = _outlined(head, first, rough, mask)
    if look and look.fit >= SHAPED_LIKE_A_BRAIN:
        return look
    crown = np.flatnonzero(solid(rough.data > 0.5).any((0, 1)))[-1]
    bottoms = [crown - round(mm / head.voxel_mm[2]) for mm in below_mm]
    shorter = next((k for k, bottom in enumerate(bottoms) if bottom > 0), None)
    if shorter is None:
        return look
    above = np.broadcast_to(np.arange(head.data.shape[2]) >= bottoms[shorter], head.data.shape)
    again = _look(crop(head, above, 0), mask, below_mm[shorter + 1 :])
    return max((each for each in (look, again) if each), key=lambda each: each.fit, default=None)


def _outlined(head: Image, first: FirstLook, rough: Image, mask: Image) -> _Look | None:
    probability = head.with_data(_outlined_upright(head, first, rough, mask))
    if not _holds_a_brain(probability):
        return None
    near = probability.data > 0.5
    head, probability = crop(head, near, ROOM_MM), crop(probability, near, ROOM_MM)
    surface = head.with_data(signed_distance(probability).astype(np.float32))
    linear = fit_outline(mask, surface)
    return _Look(head, surface, linear, fitted_share(mask, linear, surface))


def _holds_a_brain(probability: Image) -> bool:
    return float((probability.data > 0.5).sum()) * probability.voxel_ml >= MIN_BRAIN_ML


def _outlined_upright(head: Image, first: FirstLook | None, rough: Image, mask: Image) -> np.ndarray:
    """Probability (x, y, z) of the brain; a head whose brain is tilted against the template's is turned for it first.

    Args:
        first: what the first network says of the head as it lies; None to ask it again.
        rough: the same on the head's grid.
        mask: the template's.
    """
    surface = rough.with_data(signed_distance(rough))
    left, _, right = np.linalg.svd(fit_outline(mask, surface)[:3, :3])
    turn = left @ right
    if np.degrees(Rotation.from_matrix(turn).magnitude()) < TILTED_DEGREES:
        return brain_probability(head, first)
    centre = centre_of(surface.data > 0, head.affine)
    to_head = about(turn, centre, centre)
    affine = head.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, TURNING_VOXELS)
    shape = tuple(n + 2 * TURNING_VOXELS for n in head.data.shape)
    upright = Image(sample(head, affine, shape, to_head, order=1), affine)
    seen = upright.with_data(brain_probability(upright))
    return sample(seen, head.affine, head.data.shape, np.linalg.inv(to_head), order=1)


def _reconciled(
    status: ScanStatus, head: Image, seen: Brain, template: Template, atlas: Atlas | None, seed: int
) -> Brain:
    """One brain of two outlines, the network's and that which ANTs finds from it.

    Where they agree the surface lies between them, nearer to the network's. Where they do not, ANTs starts again from a
    search of its own. Where they still disagree, the network's outline is taken if it has the shape of a brain, else
    that of ANTs.
    """
    if status.metrics["outline_fit"] < SHAPED_LIKE_A_BRAIN:
        found = _found_by_search(status, head, template, atlas, seed)
        other = found.head.with_data(_on_grid_of(found.head, seen.surface))
        status.metrics["outline_dice"] = dice(found.inside, other.data > 0)
        return replace(found, other=other)
    found = _warp(status, seen, template.heads, atlas, seed)
    if dice(found.inside, seen.inside) < AGREE:
        again = replace(seen, linear=_search(status, template.heads, seen.head, seed))
        tries = [found, _warp(status, again, template.heads, atlas, seed)]
        found = max(tries, key=lambda each: dice(each.inside, seen.inside))
    status.metrics["outline_dice"] = agreement = dice(found.inside, seen.inside)
    if agreement < AGREE:
        return replace(found, surface=seen.surface, linear=seen.linear, other=found.surface)
    by_network = np.clip(seen.surface.data, -FAR_MM, FAR_MM)
    between = NETWORK_SHARE * by_network + (1 - NETWORK_SHARE) * found.surface.data
    return replace(found, surface=found.surface.with_data(between))


def _found_by_search(status: ScanStatus, head: Image, template: Template, atlas: Atlas | None, seed: int) -> Brain:
    """The brain as ANTs finds it in a head by itself."""
    with status.step("bias_field"):
        field = bias_field(head, foreground(head.data))
        head = head.with_data(head.data / field)
    linear = _search(status, template.heads, head, seed)
    start = Brain(head, field, head, linear)  # whose surface is not known yet
    found = _warp(status, start, template.heads, atlas, seed)
    if not found.inside.any():
        raise ScanError(NO_BRAIN)
    with status.step("bias_field"):
        within = bias_field(head, found.inside, shrink_factor=3)
    return replace(found, head=head.with_data(head.data / within), field=field * within)


def _search(status: ScanStatus, targets: Heads, head: Image, seed: int) -> np.ndarray:
    """Register the template's head to a scan of which nothing is known. Returns (4, 4)."""
    with status.step("linear"):
        start = find_start(targets, head)
        status.metrics["start_score"] = start.score
        return register_head(targets, head, start.matrix, seed)


def _warp(status: ScanStatus, brain: Brain, targets: Heads, atlas: Atlas | None, seed: int) -> Brain:
    """A brain with the surface that the template's mask, warped to the head, finds."""
    with status.step("deformable"):
        warped = warp_to_head(targets, brain.head, brain.linear, seed, atlas.labels if atlas else None)
    with status.step("mask"):
        surface = brain_surface(brain.head.with_data(warped.probability), brain.head)
    return replace(brain, surface=surface, warped=warped)


def _on_grid_of(head: Image, surface: Image) -> np.ndarray:
    return sample(surface, head.affine, head.data.shape, order=1, outside=OUTSIDE_MM)


def _measure(status: ScanStatus, brain: Brain, atlas: Atlas | None) -> None:
    if brain.warped is None:
        return
    low, high = brain.warped.jacobian
    status.metrics |= {"jacobian_p01": low, "jacobian_p99": high}
    if atlas and brain.warped.labels is not None:
        status.volumes_ml |= atlas.volumes_ml(brain.head.with_data(brain.warped.labels * brain.inside))
