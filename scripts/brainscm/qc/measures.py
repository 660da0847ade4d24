"""The quality measures of a scan: what each is, when it makes a scan warn or fail, and how it is measured.

`MEASURES` lists all numbers that stand in qc.tsv and reconstruction.tsv, also those that other stages measure on the
way. A new one is an entry there, and its limits, if it has any, options of `quality` in config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy import ndimage

from brainscm.foreground import foreground
from brainscm.images import Image, Mask, Volume
from brainscm.regions import REGIONS

GHOST_VOXEL_MM = 4.0  # coarse enough that the noise in the air is small beside a ghost
BRIGHTER_THAN_GHOSTS = 0.3  # of the bright end of a scan: with less, a ghost would be taken for a part of the head
LEAST_AIR = 300  # such voxels, in a ghost and beside it
LIKE_THE_HEAD = 0.4  # correlation of a ghost with the head that it copies
SHARED_BY_NEIGHBOURS = 0.25  # of the largest slice: nearer the ends of the brain slices differ by their outline


@dataclass(frozen=True)
class Limits:
    """Where a measure makes a scan warn or fail: options of `quality`, and the sentence about it.

    Attributes:
        bad: values are bad below the option's number, above it, beyond it to either side of 0, or outside its two.
        sentence: what is wrong, and what to look at; `{value}` is filled in.
        warn, fail: the options' names; "" where there is none.
    """

    bad: Literal["below", "above", "beyond", "outside"]
    sentence: str
    warn: str = ""
    fail: str = ""


@dataclass(frozen=True)
class Measure:
    """What a measure is: words for readers, the better way, and its limits."""

    label: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    meaning: str
    limits: Limits | None = None


def _first_upper(words: str) -> str:
    return words[:1].upper() + words[1:]


_OF_A_SCAN = {
    "ncc": Measure(
        "Similarity to the template",
        "",
        "higher",
        "Correlation of the preprocessed scan with the template inside both masks.",
        Limits(
            "below",
            "similarity to the template is {value:.2f}: look whether this is a T1w brain, well registered",
            fail="ncc_fail",
        ),
    ),
    "ncc_z": Measure(
        "Similarity to the template, robust z",
        "",
        "higher",
        "Distance of that correlation from the cohort's median, in robust standard deviations: a whole cohort may be "
        "unlike the template, by its age or its scanner.",
        Limits(
            "below",
            "similarity to the template is {value:+.1f} robust z from the cohort's median: look whether this is a T1w "
            "brain, well registered",
            warn="ncc_z_warn",
        ),
    ),
    "mask_volume_ml": Measure(
        "Intracranial volume",
        "ml",
        "neither",
        "Volume of the brain mask on the scan's own grid; adults have about 1100 to 1900.",
        Limits(
            "outside",
            "mask volume is {value:.0f} ml: look at the mask; a child needs a template of its age",
            warn="volume_warn_ml",
            fail="volume_fail_ml",
        ),
    ),
    "mask_volume_z": Measure(
        "Intracranial volume, robust z",
        "",
        "neither",
        "Distance of the mask's volume from the cohort's median, in robust standard deviations "
        "(1.4826 × median absolute deviation).",
        Limits("beyond", "mask volume is {value:+.1f} robust z from the cohort's median", warn="volume_z_warn"),
    ),
    "border_cm2": Measure(
        "Mask at the border",
        "cm²",
        "lower",
        "Area of the mask on the faces of the field of view; above 0 the brain is probably cut off.",
        Limits(
            "above",
            "{value:.0f} cm² of the mask lie on the edge of the scan: the brain is cut off",
            warn="border_warn_cm2",
            fail="border_fail_cm2",
        ),
    ),
    "fov_cut_percent": Measure(
        "Brain outside the scan",
        "%",
        "lower",
        "Share of the template's brain that, by the linear registration, lies beyond the scan's field of view.",
        Limits(
            "above",
            "{value:.1f} % of the brain lie beyond the field of view: the brain is cut off",
            warn="fov_cut_warn_percent",
            fail="fov_cut_fail_percent",
        ),
    ),
    "holes_ml": Measure(
        "Holes",
        "ml",
        "lower",
        "Volume inside the brain mask where the raw scan has no signal (0 or less), as a missing slab leaves it.",
        Limits(
            "above",
            "{value:.0f} ml of the brain have no signal: look for missing slices, or a brain that was cut out",
            warn="holes_warn_ml",
            fail="holes_fail_ml",
        ),
    ),
    "slice_jump": Measure(
        "Jump between slices",
        "",
        "lower",
        "Largest difference of two neighbouring slices / median of the four differences around it, in the brain, over "
        "the three axes; near 1 where no slice is missing or displaced.",
        Limits(
            "above",
            "two neighbouring slices differ {value:.2f} times as much as those around: look for missing slices",
            warn="slice_jump_warn",
        ),
    ),
    "ghost": Measure(
        "Ghost in the air",
        "",
        "lower",
        "How much brighter the air is where a shifted copy of the head would lie than elsewhere, over the head's mean: "
        "the largest over the three axes and all shifts of a quarter to three quarters of the field of view.",
        Limits(
            "above",
            "the air holds a copy of the head of {value:.0%} of its brightness: look for ghosts",
            warn="ghost_warn",
        ),
    ),
    "contrast": Measure(
        "White over grey",
        "",
        "neither",
        "mean white / mean grey; about 1.3 in a T1w, below 1 in a T2w.",
        Limits(
            "below",
            "white matter is {value:.2f} times as bright as grey matter: look whether this is a T1w",
            warn="contrast_warn",
            fail="contrast_fail",
        ),
    ),
    "cnr": Measure(
        "Contrast to noise",
        "",
        "higher",
        "|mean white − mean grey| / √(variance white + variance grey).",
        Limits(
            "below",
            "grey-white contrast-to-noise is {value:.2f}: look for motion, noise or another contrast",
            warn="cnr_warn",
            fail="cnr_fail",
        ),
    ),
    "cjv": Measure(
        "Coefficient of joint variation",
        "",
        "lower",
        "(sd white + sd grey) / |mean white − mean grey|; rises with noise, motion and bias.",
    ),
    "snr": Measure("Signal to noise", "", "higher", "Mean / standard deviation of white matter."),
    "wm2max": Measure(
        "White matter to maximum",
        "",
        "neither",
        "White-matter intensity / the head's 99.95th percentile; low where vessels or fat are very bright.",
    ),
    **{
        f"{tissue}_level": Measure(
            f"Brightness of {words}", "", "neither", f"Brightness of {words}, with white matter's peak at 1."
        )
        for tissue, words in (("csf", "CSF"), ("gm", "grey matter"), ("wm", "white matter"))
    },
    "efc": Measure(
        "Entropy focus criterion",
        "",
        "lower",
        "Entropy of the voxels' share of the raw scan's energy, over its maximum: −Σ (x/b) log(x/b) / (√n log √n) with "
        "b = √Σx² over all n voxels; ghosts and blur raise it.",
    ),
    "fber": Measure(
        "Foreground to background energy",
        "",
        "higher",
        "Median squared intensity of the head over that of the air; none where the air is zero in the file.",
    ),
    "mask_roughness": Measure(
        "Mask roughness", "", "lower", "Surface voxels of the mask against those of a sphere of its volume."
    ),
    "jacobian_p01": Measure(
        "Strongest compression",
        "",
        "neither",
        "1st percentile of the Jacobian determinant in the brain, of the warp that finds the mask; 1 is no change.",
    ),
    "jacobian_p99": Measure(
        "Strongest expansion",
        "",
        "neither",
        "99th percentile of the Jacobian determinant in the brain, of the warp that finds the mask; 1 is no change.",
    ),
    "start_score": Measure(
        "Start of the registration",
        "",
        "higher",
        "Similarity (normalised mutual information) of the best starting pose; 1 is none.",
    ),
    "outline_dice": Measure(
        "Agreement of the outlines",
        "",
        "higher",
        "Dice of the brain's two outlines, the network's and that of ANTs; 0 where the network sees no brain.",
        Limits(
            "below",
            "the outlines of the brain by the network and by ANTs agree to {value:.2f} (Dice): look at the mask",
            warn="outline_dice_warn",
        ),
    ),
    "outline_fit": Measure(
        "Shape of the network's outline",
        "",
        "higher",
        "Dice of the network's outline and the template's mask, laid on it by an affine map.",
    ),
    "mask_fit": Measure(
        "Fit of the mask to the template's",
        "",
        "higher",
        "Dice of the mask and the template's after the linear registration, which looks at intensities only.",
        Limits(
            "below",
            "mask and template agree to {value:.2f} (Dice) after the linear registration: look at the mask",
            warn="mask_fit_warn",
            fail="mask_fit_fail",
        ),
    ),
    "size_ratio": Measure(
        "Mask against head size",
        "",
        "neither",
        "Volume of the mask over that of the template's, after the linear registration.",
    ),
    "head_size": Measure(
        "Enlargement to the template",
        "",
        "neither",
        "Determinant of the affine from scan to template; above 1 the head is smaller than the template.",
    ),
    "given_outside_percent": Measure(
        "Given brain outside the mask",
        "%",
        "lower",
        "Of a scan that was skull-stripped before: share of what was left of it that lies outside the mask.",
        Limits(
            "above",
            "{value:.0f} % of the brain that was given lie outside the mask: look at the mask",
            warn="given_outside_warn_percent",
            fail="given_outside_fail_percent",
        ),
    ),
    "asymmetry_percent": Measure(
        "Asymmetry of a given brain",
        "%",
        "lower",
        "Of a scan that was skull-stripped before: difference of the mask's halves left and right of the template's "
        "middle, over their sum.",
        Limits(
            "above",
            "left and right of the brain that was given differ by {value:.0f} %: a side may be cut away",
            warn="asymmetry_warn_percent",
            fail="asymmetry_fail_percent",
        ),
    ),
    "brain_missing_percent": Measure(
        "Missing from a given brain",
        "%",
        "lower",
        "Of a scan that was skull-stripped before: share of the template's brain that lies outside the mask.",
        Limits(
            "above",
            "{value:.0f} % of the template's brain lie outside the brain that was given: a part may be cut away",
            warn="brain_missing_warn_percent",
            fail="brain_missing_fail_percent",
        ),
    ),
    "runs": Measure("Runs averaged", "", "neither", "T1w runs of the session that were aligned and averaged."),
}

_OF_AN_ALIGNMENT = {
    "alignment_similarity": Measure(
        "Similarity after alignment",
        "",
        "higher",
        "Correlation of the scan with the template inside the template's brain, after the deformable alignment.",
        Limits(
            "below",
            "similarity to the template after alignment is {value:.2f}: look whether this is a T1w brain",
            fail="alignment_similarity_fail",
        ),
    ),
    "alignment_similarity_z": Measure(
        "Similarity after alignment, robust z",
        "",
        "higher",
        "Distance of that correlation from the cohort's median, in robust standard deviations.",
        Limits(
            "below",
            "similarity to the template after alignment is {value:+.1f} robust z from the cohort's median: look at the "
            "scan",
            warn="alignment_similarity_z_warn",
        ),
    ),
    "alignment_folding_percent": Measure(
        "Folding of the alignment",
        "%",
        "lower",
        "Share of the template's brain in which the Jacobian determinant of the map from template to scan is 0 or "
        "less: the map cannot be inverted there.",
        Limits(
            "above",
            "the alignment to the template folds in {value:.1f} % of the brain: look at the scan",
            warn="alignment_folding_warn_percent",
            fail="alignment_folding_fail_percent",
        ),
    ),
    "alignment_strain": Measure(
        "Strain of the alignment",
        "",
        "lower",
        "What the deformable alignment penalises: mean squared difference (voxels²) of the displacement between "
        "neighbouring nodes, which lie two voxels apart, summed over the three axes.",
    ),
}

_OF_A_RECONSTRUCTION = {
    "psnr_brain_db": Measure(
        "Reconstruction PSNR",
        "dB",
        "higher",
        "Fidelity of the autoencoder's reconstruction inside the brain mask; white matter = 1.",
    ),
    "ssim_brain": Measure(
        "Reconstruction SSIM",
        "",
        "higher",
        "Structural similarity of the reconstruction, mean over the brain mask.",
    ),
    "psnr_db": Measure(
        "Reconstruction PSNR, whole volume", "dB", "higher", "The same over the whole grid, background included."
    ),
    "ssim": Measure(
        "Reconstruction SSIM, whole volume", "", "higher", "The same over the whole grid, background included."
    ),
}

# By the column's name. The volumes of an atlas's regions are not among them: their names are the study's own.
MEASURES: Mapping[str, Measure] = MappingProxyType(
    _OF_A_SCAN
    | _OF_AN_ALIGNMENT
    | {f"{region.name}_ml": Measure(_first_upper(region.label), "ml", "neither", region.meaning) for region in REGIONS}
    | _OF_A_RECONSTRUCTION
)


def image_metrics(
    volume: Volume, mask: Mask, gm: Volume, wm: Volume, template: Volume, template_mask: Mask
) -> dict[str, float]:
    """`ncc`, `cnr`, `cjv`, `snr` and `contrast` of a preprocessed volume (template space).

    `cnr` is that of Magnotta and Friedman 2006 without the background term, which a zeroed background would spoil;
    `cjv` that of Ganzetti et al. 2016.

    Args:
        gm, wm: probabilities of the tissues.
        template: the template's brain.
    """
    both = mask & template_mask
    white, grey = volume[wm > 0.9], volume[gm > 0.9]
    if min(white.size, grey.size, int(both.sum())) < 100:
        return {"ncc": 0.0, "cnr": 0.0, "cjv": float("inf"), "snr": 0.0, "contrast": 0.0}
    contrast = abs(float(white.mean() - grey.mean())) + 1e-9
    return {
        "ncc": float(np.corrcoef(volume[both], template[both])[0, 1]),
        "cnr": contrast / float(np.sqrt(white.var() + grey.var())),
        "cjv": float(white.std() + grey.std()) / contrast,
        "snr": float(white.mean() / white.std()),
        "contrast": float(white.mean() / max(grey.mean(), 1e-9)),
    }


def raw_metrics(raw: Image, mask: Mask) -> tuple[dict[str, float], dict[str, str]]:
    """Measures of the raw scan as it came (`holes_ml`, `slice_jump`, `ghost`, `efc`, `fber`), and why one has no value.

    `efc` is the criterion of Atkinson et al. 1997 (doi 10.1109/42.650886).

    Args:
        mask: (x, y, z), the brain on the scan's own grid.
    """
    metrics = {
        "holes_ml": float((mask & (raw.data <= 0)).sum()) * raw.voxel_ml,
        "slice_jump": slice_jump(raw, mask),
        "ghost": ghost(raw),
    }
    # Every second or third voxel of a fine scan says as much as all of them.
    steps = np.maximum(1, np.round(2 / raw.voxel_mm)).astype(int)
    data = np.abs(raw.data[tuple(slice(None, None, step) for step in steps)]).astype(np.float64)
    energy = float(np.sqrt((data**2).sum()))
    share = data[data > 0] / energy
    metrics["efc"] = float(-(share * np.log(share)).sum() / (np.sqrt(data.size) * np.log(np.sqrt(data.size))))
    head = foreground(data)
    air = float(np.median(data[~head] ** 2)) if not head.all() else 0.0
    metrics["fber"] = float(np.median(data[head] ** 2)) / air if air > 0 else float("nan")
    why_null = {} if air > 0 else {"fber": "the air around the head is zero in this file, so there is no noise to see"}
    return metrics, why_null


def slice_jump(raw: Image, mask: Mask) -> float:
    """The largest difference between neighbouring slices against the median of the four differences around it.

    A difference is the mean of |x - x'| over the voxels of the brain that both slices share; the ends of the brain are
    left out. Near 1 is good: where slices are missing between two neighbours, or one was displaced, they differ more
    than their surroundings do. 1 where the mask spans too few slices to tell.
    """
    largest = 1.0
    box = (ndimage.find_objects(mask.astype(np.uint8)) or [np.index_exp[:0, :0, :0]])[0]
    cropped, cropped_mask = raw.data[box].astype(np.float32), mask[box]
    for axis in range(3):
        brain, inside = np.moveaxis(cropped, axis, 0), np.moveaxis(cropped_mask, axis, 0)
        shared = inside[1:] & inside[:-1]
        count = shared.sum(axis=(1, 2))
        apart = np.where(shared, np.abs(np.diff(brain, axis=0)), 0).sum(axis=(1, 2)) / np.maximum(count, 1)
        for at in np.flatnonzero(count > SHARED_BY_NEIGHBOURS * count.max(initial=0))[2:-2]:
            around = float(np.median(apart[[at - 2, at - 1, at + 1, at + 2]]))
            largest = max(largest, float(apart[at]) / max(around, 1e-9))
    return largest


def ghost(raw: Image) -> float:
    """How bright a copy of the head is that lies in the air, shifted along an axis of the scan; 0 if there is none.

    Whatever repeats itself from one phase encoding to the next shows the head again, weakly, often half a field of view
    away: pulsation, breathing, motion. Medians, since a ghost is seen as a whole; 0 where there is too little air.
    A ghost has the head's own light and dark; what of a head is too dark to be told from air, beside bright fat or in a
    strong bias field, has others.
    """
    steps = np.maximum(1, np.round(GHOST_VOXEL_MM / raw.voxel_mm)).astype(int)
    data = np.abs(raw.data[tuple(slice(None, n // k * k) for n, k in zip(raw.data.shape, steps, strict=True))])
    blocks = [length for n, k in zip(data.shape, steps, strict=True) for length in (n // k, k)]
    data = data.reshape(blocks).mean((1, 3, 5))
    head = foreground(data, BRIGHTER_THAN_GHOSTS)
    air = ~ndimage.binary_dilation(head, iterations=3)
    mean = float(data[head].mean()) if head.any() else 0.0
    if mean <= 0:
        return 0.0
    bright, around, brightest = head & (data > 0.3 * mean), data[air], 0.0
    for axis, length in enumerate(data.shape):
        for shift in range(length // 4, length - length // 4 + 1):
            copy = np.roll(bright, shift, axis)[air]
            if min(copy.sum(), (~copy).sum()) < LEAST_AIR:
                continue
            above = float(np.median(around[copy]) - np.median(around[~copy])) / mean
            if above <= brightest:
                continue
            if np.corrcoef(around[copy], np.roll(data, shift, axis)[air][copy])[0, 1] > LIKE_THE_HEAD:
                brightest = above
    return brightest


def registration_metrics(raw: Image, template_mask: Image, to_scan: np.ndarray) -> dict[str, float]:
    """`head_size` and `fov_cut_percent` of the linear registration.

    Args:
        to_scan: (4, 4), from template to scan.
    """
    to_voxel = np.linalg.inv(raw.affine) @ to_scan @ template_mask.affine
    at = np.argwhere(template_mask.data) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    within = ((at >= -0.5) & (at <= np.array(raw.data.shape) - 0.5)).all(1)
    return {
        "head_size": 1 / float(np.linalg.det(to_scan[:3, :3])),
        "fov_cut_percent": 100 * float(1 - within.mean()),
    }


def fit_metrics(mask: Mask, template_mask: Mask) -> dict[str, float]:
    """`mask_fit` and `size_ratio` of the mask in template space (x, y, z)."""
    volumes = float(mask.sum()), float(template_mask.sum())
    shared = float((mask & template_mask).sum())
    return {"mask_fit": 2 * shared / sum(volumes), "size_ratio": volumes[0] / volumes[1]}


def given_metrics(mask: Mask, template_mask: Mask) -> dict[str, float]:
    """`brain_missing_percent` and `asymmetry_percent` of a given brain's mask in template space (x, y, z)."""
    middle = np.argwhere(template_mask)[:, 0].mean()
    x = np.arange(mask.shape[0])
    left, right = (float(mask[side].sum()) for side in (x < middle, x > middle))
    return {
        "brain_missing_percent": 100 * float((template_mask & ~mask).sum() / template_mask.sum()),
        "asymmetry_percent": 100 * abs(left - right) / max(left + right, 1),
    }


def mask_metrics(mask: Image) -> dict[str, float]:
    """`mask_volume_ml`, `border_cm2` and `mask_roughness` of the mask on the scan's own grid."""
    data = mask.data > 0
    surface = data & ~ndimage.binary_erosion(data, border_value=1)
    count = max(int(data.sum()), 1)
    area = float(np.prod(mask.voxel_mm)) / mask.voxel_mm
    faces = [data.take(end, axis=axis).sum() * area[axis] for axis in range(3) for end in (0, -1)]
    return {
        "mask_volume_ml": count * mask.voxel_ml,
        "border_cm2": float(sum(faces)) / 100,
        "mask_roughness": float(surface.sum()) / (36 * np.pi * float(count) ** 2) ** (1 / 3),
    }
