"""Preprocess one scan, raw T1w to BIDS derivatives, and always end with a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from brainscm.config import CustomTemplate, PreprocessOptions
from brainscm.errors import ScanError
from brainscm.files import bids_uri, derivative_name, scan_folder, sidecar, whole, write_json
from brainscm.foreground import foreground
from brainscm.images import SCANNER, Image, template_code, write_image
from brainscm.preprocess import figures
from brainscm.preprocess.atlas import Atlas
from brainscm.preprocess.brain import OUTSIDE_MM, Brain, find_brain, take_brain
from brainscm.preprocess.derived import require_files
from brainscm.preprocess.given import Expected, Given, find_given, holds_a_head, read_given_mask
from brainscm.preprocess.head import RawScan, working_head
from brainscm.preprocess.intensity import white_peak
from brainscm.preprocess.itk import write_matrix
from brainscm.preprocess.register import register_brain
from brainscm.preprocess.runs import read_session
from brainscm.preprocess.template import Template, load_template
from brainscm.preprocess.tissues import find_levels, regions_of, segment_tissues, tissue_shares, tissue_volumes
from brainscm.qc import measures
from brainscm.qc.status import ScanStatus, software_versions, status_path
from brainscm.resampling import gaussian_for_voxels, sample

BACKGROUND_WHITE = 0.12  # of the bright intensities: ghosts in the air have a few hundredths of them
MASK_COLOUR = (255, 92, 66)
TEMPLATE_COLOUR = (72, 202, 228)
OTHER_COLOUR = (255, 209, 72)  # of an outline that was not taken
LOOSELY_CUT = 1.13  # times the template's mask: real brains cut at the dura have 1.11, with 3 mm around them 1.22
SOFTWARE = ("antspyx", "nibabel", "nilearn", "numpy", "scipy")
NETWORK_SOFTWARE = ("deepbet", "torch")


@dataclass(frozen=True)
class Derivative:
    """An image that is written of each scan: its role (a column of qc.tsv), its name, and what its side-car says."""

    role: str
    entities: dict[str, str]
    suffix: str
    description: str
    told: dict[str, Any] = field(default_factory=dict)
    dtype: type = np.float32
    on_raw_grid: bool = False


DERIVATIVES = (
    Derivative(
        "preproc_t1w",
        {"desc": "preproc"},
        "T1w",
        "Bias-corrected brain in template space, one interpolation from the raw scan",
        {"SkullStripped": True, "Units": "arbitrary, white-matter peak = 1"},
    ),
    Derivative(
        "template_mask", {"desc": "brain"}, "mask", "Intracranial mask in template space", {"Type": "Brain"}, np.uint8
    ),
    Derivative(
        "native_mask",
        {"desc": "brain"},
        "mask",
        "Intracranial mask on the raw scan's own grid",
        {"Type": "Brain"},
        np.uint8,
        on_raw_grid=True,
    ),
    Derivative("gm_probseg", {"label": "GM"}, "probseg", "Share of grey matter"),
    Derivative("wm_probseg", {"label": "WM"}, "probseg", "Share of white matter"),
    Derivative("csf_probseg", {"label": "CSF"}, "probseg", "Share of cerebrospinal fluid"),
    Derivative("dseg", {}, "dseg", "The tissue with the largest share; dseg.tsv names the labels", {}, np.uint8),
)


def preprocess_scan(
    scan: str,
    t1w: Path,
    output_dir: Path,
    template: str | CustomTemplate,
    options: PreprocessOptions,
    seed: int,
    threads: int = 1,
    further_runs: Sequence[Path] = (),
    cache_dir: Path | None = None,
    derivatives: Path | None = None,
) -> dict[str, Any]:
    """Skull-strip one T1w, bring it to the template, segment, measure; write everything under `output_dir`.

    A scan that cannot be used ends with status `fail` and one sentence, not with an exception.

    Args:
        scan: `sub-X` or `sub-X_ses-Y`.
        further_runs: T1w of the same session, to be averaged with `t1w`.
        derivatives: folder of another program's results, whose T1w and brain mask are taken in place of `t1w`'s.
        cache_dir: where the prepared template is kept for the next scan.
        threads: recorded with the results; ITK reads its own count from the environment when it loads. With one thread
            the same input gives the same bytes.

    Returns:
        What is written to `status/<scan>.json`; see `ScanStatus`.

    Raises:
        ConfigError: the template or the atlas cannot be used; then no scan can be.
        BrainSCMError: nothing can be written under `output_dir`.
        MemoryError: the machine lacks memory, which says nothing about the scan.
    """
    runs = [Path(t1w), *map(Path, further_runs)]
    used = SOFTWARE if options.skull_strip == "ants" else SOFTWARE + NETWORK_SOFTWARE
    software = software_versions(used) | {"threads": str(threads)}
    status = ScanStatus(scan, Path(output_dir), "status", software, sources=[bids_uri(run, "raw") for run in runs])
    _remove_earlier_outputs(status)
    with status.working_on(runs[0]):
        _preprocess(status, runs, template, options, seed, cache_dir, derivatives)
    return status.write()


def _remove_earlier_outputs(status: ScanStatus) -> None:
    """A scan that fails now must not keep the images of a run that did not, nor its alignment."""
    paths = [*(status.preproc_dir / scan_folder(status.scan)).glob(f"{status.scan}_*")]
    paths += [_figure(status, kind) for kind in ("mask", "background", "registration")]
    paths += [status_path(status.preproc_dir, stage, status.scan) for stage in ("status", "alignment")]
    for path in paths:
        path.unlink(missing_ok=True)


def _preprocess(
    status: ScanStatus,
    runs: Sequence[Path],
    template_name: str | CustomTemplate,
    options: PreprocessOptions,
    seed: int,
    cache_dir: Path | None,
    derivatives: Path | None,
) -> None:
    with status.step("read"):
        derived_t1w, derived_mask = require_files(derivatives, status.scan, runs) if derivatives else (None, None)
        session = read_session([derived_t1w] if derived_t1w else runs, seed)
        raw = session.scan
        given_mask = read_given_mask(raw, derived_mask) if derived_mask else None
        if given_mask is not None:
            raw = replace(raw, data=raw.data * given_mask)
        head = working_head(raw)
        found = _find_given(raw, head, options.input, options) if given_mask is None else Given(given_mask)
        given = found.outline
        status.sources = [bids_uri(path, "raw") for path in session.sources]
        status.inputs = session.inputs
        status.reasons += [*session.notes, *found.notes]
        if len(session.sources) > 1:
            status.metrics["runs"] = len(session.sources)
    with status.step("template"):
        template = load_template(template_name, options.voxel_mm, cache_dir)
        atlas = Atlas.load(options.atlas, template) if options.atlas else None
    with status.step("figures"):  # a first picture, for the report, should a later step fail
        _draw(status, "mask", head, [], foreground(head.data))
        _draw(status, "background", head, [], np.ones(head.data.shape, bool), slices=3, white=BACKGROUND_WHITE)
    if given is None:
        brain = find_brain(status, head, template, atlas, options.skull_strip, seed)
    else:
        brain = take_brain(status, raw.volume.with_data(given), head, template, atlas, seed)
    with status.step("mask"):
        native = sample(brain.surface, raw.affine, raw.data.shape, order=1, outside=OUTSIDE_MM) > 0
        status.metrics |= measures.mask_metrics(Image(native, raw.affine))
        measured, status.why_null = measures.raw_metrics(raw.volume, native)
        status.metrics |= measured
        stripped = given
        if given is None and options.input == "head":  # it may be a brain nevertheless
            stripped = _find_given(raw, head, "auto", options).outline
        if stripped is not None:
            status.metrics["given_outside_percent"] = 100 * float((stripped & ~native).sum() / stripped.sum())
    with status.step("affine"):
        alone = brain.head.with_data(brain.head.data * brain.inside)
        to_scan = register_brain(template.brain_volume, alone, brain.linear, options.transform, seed)
        if np.linalg.det(to_scan[:3, :3]) <= 0:
            raise ScanError(f"{raw.path}: the registration mirrors the brain; look at the scan's orientation")
        status.metrics |= measures.registration_metrics(raw.volume, template.mask_volume, to_scan)
    images = _bring_to_template(status, raw, brain, template, to_scan)
    status.metrics |= measures.fit_metrics(images["template_mask"].data > 0, template.brain_mask)
    if given is not None:
        status.metrics |= measures.given_metrics(images["template_mask"].data > 0, template.brain_mask)
        larger = status.metrics["size_ratio"]
        if derived_mask is None and larger > LOOSELY_CUT:
            status.reasons.append(
                f"the brain that was given has {larger:.2f} times the volume of the template's: it is probably cut "
                "loosely or softly, with what surrounds it; give the whole head, or a tighter mask (derivatives)"
            )
    with status.step("write"):
        _write_images(status, images | {"native_mask": Image(native, raw.affine)}, template, options.transform)
        _write_matrices(status, template, to_scan)
    with status.step("figures"):
        mask = [(brain.inside, MASK_COLOUR)]
        other = [(brain.other.data > 0, OTHER_COLOUR)] if brain.other else []
        _draw(status, "mask", brain.head, other + mask, brain.inside)
        outlines = [(template.brain_mask, TEMPLATE_COLOUR), (template.wm > 0.5, TEMPLATE_COLOUR)]
        _draw(status, "registration", images["preproc_t1w"], outlines, template.brain_mask)


def _find_given(raw: RawScan, head: Image, expected: Expected, options: PreprocessOptions) -> Given:
    """What looks like a given brain, unless the network, where it may be asked, sees a whole head in it."""
    found = find_given(raw.volume, expected)
    if found.outline is None or expected == "brain" or options.skull_strip == "ants":
        return found
    return Given() if holds_a_head(raw.volume.with_data(found.outline), head) else found


def _bring_to_template(
    status: ScanStatus, raw: RawScan, brain: Brain, template: Template, to_scan: np.ndarray
) -> dict[str, Image]:
    """The images in template space, by their role, measured. `to_scan`: (4, 4), from template to scan."""
    with status.step("resample"):
        grid = (template.affine, template.shape, to_scan)
        mask = sample(brain.surface, *grid, order=1, outside=OUTSIDE_MM) > 0
        sharp = gaussian_for_voxels(raw.volume, template.voxel_mm)
        bias = sample(brain.head.with_data(brain.field), *grid, order=1, outside=1.0)
        volume = np.clip(sample(sharp, *grid, order=3) / bias, 0, None) * mask
    with status.step("tissues"):
        rough_peak = white_peak(volume[mask & (template.wm > 0.9)])
        tissues = segment_tissues(volume / rough_peak, mask, template)
        peak = white_peak(volume[tissues.wm > 0.95])
        volume /= peak
        levels = find_levels(volume, tissues, template)
        regions = regions_of(template)
        shares = tissue_shares(volume, levels, mask, regions["ventricles"])
        status.volumes_ml |= tissue_volumes(shares, regions, template.voxel_ml / status.metrics["head_size"])
        status.metrics |= measures.image_metrics(
            volume, mask, tissues.gm, tissues.wm, template.brain, template.brain_mask
        )
        status.metrics |= levels.as_metrics()
        head = brain.head.data
        status.metrics["wm2max"] = peak / float(np.percentile(head[foreground(head)], 99.95))
    arrays = {
        "preproc_t1w": volume,
        "template_mask": mask,
        "gm_probseg": shares.gm,
        "wm_probseg": shares.wm,
        "csf_probseg": shares.csf,
        "dseg": shares.labels(mask),
    }
    return {role: Image(data, template.affine) for role, data in arrays.items()}


def _figure(status: ScanStatus, kind: str) -> Path:
    return status.preproc_dir / "figures" / f"{status.scan}_{kind}.png"


def _draw(
    status: ScanStatus,
    kind: str,
    volume: Image,
    outlines: list[tuple[np.ndarray, tuple[int, int, int]]],
    box: np.ndarray,
    slices: int = 5,
    white: float = 1.1,
) -> None:
    path = _figure(status, kind)
    figures.mosaic(volume.data, volume.voxel_mm, outlines, box, path, slices, white)
    status.add(f"{kind}_figure", path)


def _write_images(status: ScanStatus, images: Mapping[str, Image], template: Template, transform: str) -> None:
    software = {name: version for name, version in status.software.items() if name != "threads"}
    common = {"Sources": status.sources, "Software": software}
    for each in DERIVATIVES:
        entities, code, where = each.entities, SCANNER, {"SpatialReference": "orig"}
        if not each.on_raw_grid:
            entities = {"space": template.name, "res": template.label} | entities
            code, where = template_code(template.name), template.described | {"Transform": transform}
        path = _path(status, entities, each.suffix, ".nii.gz")
        write_image(path, images[each.role], code, each.dtype)
        measured = {"Metrics": status.finite_metrics} if each.role == "preproc_t1w" else {}
        write_json(sidecar(path), {"Description": each.description} | common | where | each.told | measured)
        status.add(each.role, path)


def _write_matrices(status: ScanStatus, template: Template, to_scan: np.ndarray) -> None:
    """Write the linear transform both ways, as ANTs has them: what brings a scan to the template maps a template point
    to a scan point."""
    for role, source, target, matrix in (
        ("to_template", "T1w", template.name, to_scan),
        ("from_template", template.name, "T1w", np.linalg.inv(to_scan)),
    ):
        path = _path(status, {"from": source, "to": target, "mode": "image"}, "xfm", ".mat")
        with whole(path) as partial:
            write_matrix(matrix, partial)
        status.add(role, path)


def _path(status: ScanStatus, entities: Mapping[str, str], suffix: str, ending: str) -> Path:
    return status.preproc_dir / scan_folder(status.scan) / (derivative_name(status.scan, entities, suffix) + ending)
