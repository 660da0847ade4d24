"""Preprocess one scan, raw T1w to BIDS derivatives, and always end with a status."""

from __future__ import annotations

import errno
import json
import logging
import platform
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import brainscm
from brainscm.config import CustomTemplate, PreprocessOptions
from brainscm.errors import BrainSCMError, ConfigError, ScanError
from brainscm.files import bids_uri, scan_folder, whole, write_json
from brainscm.foreground import foreground
from brainscm.images import SCANNER, Image, template_code, write_image
from brainscm.preprocess import figures
from brainscm.preprocess.atlas import Atlas
from brainscm.preprocess.head import RawScan, one_line, working_head
from brainscm.preprocess.intensity import bias_field, white_peak
from brainscm.preprocess.itk import write_matrix
from brainscm.preprocess.register import find_start, register_brain, register_head, warp_to_head
from brainscm.preprocess.runs import read_session
from brainscm.preprocess.skullstrip import brain_surface
from brainscm.preprocess.template import Template, load_template
from brainscm.preprocess.tissues import Tissues, segment_tissues, tissue_volumes
from brainscm.qc import measures
from brainscm.resampling import gaussian_for_voxels, sample

logger = logging.getLogger("brainscm")

MASK_COLOUR = (255, 92, 66)
TEMPLATE_COLOUR = (72, 202, 228)
OUTSIDE_MM = -9.0  # distance to the mask beyond the field of view: outside it
GEOMETRY = re.compile(r"missing|interslice|equidistant|evenly|gantry|duplicate|truncat|corrupt|shear", re.IGNORECASE)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
SOFTWARE = ("antspyx", "nibabel", "nilearn", "numpy", "scipy")


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
) -> dict[str, Any]:
    """Skull-strip one T1w, bring it to the template, segment, measure; write everything under `output_dir`.

    A scan that cannot be used ends with status `fail` and one sentence, not with an exception. A scan that went all the
    way is `done`: whether its metrics pass, warn or fail is judged when the cohort is collected, so that another limit
    redoes nothing here.

    Args:
        scan: `sub-X` or `sub-X_ses-Y`.
        further_runs: T1w of the same session, to be averaged with `t1w`.
        cache_dir: where the prepared template is kept for the next scan.
        threads: recorded with the results; ITK reads its own count from the environment when it loads. With one thread
            the same input gives the same bytes.

    Returns:
        What is written to `status/<scan>.json`: scan, status, reasons (why it failed, or what to know of a scan that is
        done), metrics, why_null, volumes_ml, sources, outputs, seconds, software.

    Raises:
        ConfigError: the template or the atlas cannot be used; then no scan can be.
        BrainSCMError: nothing can be written under `output_dir`.
        MemoryError: the machine lacks memory, which says nothing about the scan.
    """
    work = _ScanRun(scan, [Path(t1w), *map(Path, further_runs)], Path(output_dir), options, seed)
    status: dict[str, Any] = {"scan": scan, "status": "fail", "reasons": [], "metrics": {}, "volumes_ml": {}}
    work.remove_earlier_outputs()
    try:
        work.run(template, cache_dir)
        status["status"] = "done"
    except (ConfigError, MemoryError):
        raise
    except ScanError as error:
        status["reasons"] = [str(error)]
    except Exception as error:  # a bad scan is data: whatever a library made of it must not stop the cohort
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:  # but a full disk says nothing about the scan
            raise BrainSCMError(
                f"{scan}: nothing can be written under {output_dir} ({error.strerror}); make room or mend the"
                " permissions, then run again"
            ) from error
        logger.warning("%s: unexpected error\n%s", scan, traceback.format_exc())
        cause = f"{type(error).__name__} in stage {work.current} ({one_line(error)})"
        status["reasons"] = [f"{t1w}: {cause}; look at the scan and at this scan's log"]
    status["reasons"] += work.notes
    status.update(
        metrics=work.finite_metrics,
        why_null=work.why_null,
        volumes_ml={name: round(value, 4) for name, value in work.volumes_ml.items()},
        sources=[bids_uri(path, "raw") for path in work.sources],
        outputs=work.outputs,
        seconds={name: round(value, 2) for name, value in work.seconds.items()},
        software=software_versions() | {"threads": str(threads)},
    )
    level = logging.WARNING if status["status"] == "fail" else logging.INFO
    told = "; ".join(status["reasons"])
    logger.log(level, "%s: %s in %.0f s %s", scan, status["status"], sum(work.seconds.values()), told)
    write_json(Path(output_dir) / "status" / f"{scan}.json", status)
    return status


def software_versions() -> dict[str, str]:
    """Versions of what shapes the result."""
    own = {"brainscm": brainscm.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in SOFTWARE}


def conversion_warnings(t1w: Path) -> list[str]:
    """What the side-car keeps of the conversion from DICOM that speaks of lost or displaced slices."""
    sidecar = t1w.with_name(t1w.name.split(".nii")[0] + ".json")
    try:
        warnings = json.loads(sidecar.read_text()).get("ConversionWarnings", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [
        f"{t1w.name}: the conversion from DICOM said: {warning}" for warning in warnings if GEOMETRY.search(warning)
    ]


class _ScanRun:
    """One scan's way through the stages; holds what the status will tell, however far it came."""

    def __init__(self, scan: str, sources: list[Path], output_dir: Path, options: PreprocessOptions, seed: int) -> None:
        self.scan, self.sources, self.output_dir, self.options, self.seed = scan, sources, output_dir, options, seed
        self.anat = output_dir / scan_folder(scan)
        self.current = "start"
        self.notes: list[str] = []
        self.metrics: dict[str, float] = {}
        self.why_null: dict[str, str] = {}
        self.volumes_ml: dict[str, float] = {}
        self.outputs: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current, start = name, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start

    @property
    def finite_metrics(self) -> dict[str, float | None]:
        """The metrics as JSON can hold them."""
        return {name: round(value, 6) if np.isfinite(value) else None for name, value in self.metrics.items()}

    def remove_earlier_outputs(self) -> None:
        """A scan that fails now must not keep the images of a run that did not."""
        figures = [self.output_dir / "figures" / f"{self.scan}_{kind}.png" for kind in ("mask", "registration")]
        status = self.output_dir / "status" / f"{self.scan}.json"
        for path in [*self.anat.glob(f"{self.scan}_*"), *figures, status]:
            path.unlink(missing_ok=True)

    def run(self, template_name: str | CustomTemplate, cache_dir: Path | None) -> None:
        options = self.options
        with self.stage("read"):
            session = read_session(self.sources, self.seed)
            raw, self.sources = session.scan, session.sources
            self.notes += session.left_out
            self.notes += [warning for path in self.sources for warning in conversion_warnings(path)]
            if len(self.sources) > 1:
                self.metrics["runs"] = len(self.sources)
            head = working_head(raw)
        with self.stage("template"):
            template = load_template(template_name, options.voxel_mm, cache_dir)
            atlas = Atlas.load(options.atlas, template) if options.atlas else None
        with self.stage("figures"):  # a first picture, for the report, should a later stage fail
            self._draw("mask", head, [], foreground(head.data))
        with self.stage("bias_field"):
            field = bias_field(head, foreground(head.data))
            head = head.with_data(head.data / field)
        with self.stage("linear"):
            start = find_start(template.heads, head)
            self.metrics["start_score"] = start.score
            linear = register_head(template.heads, head, start.matrix, self.seed)
        with self.stage("deformable"):
            warped = warp_to_head(template.heads, head, linear, self.seed, atlas.labels if atlas else None)
            self.metrics |= {"jacobian_p01": warped.jacobian[0], "jacobian_p99": warped.jacobian[1]}
        with self.stage("mask"):
            surface = brain_surface(head.with_data(warped.probability), head)
            inside = surface.data > 0
            if inside.sum() * head.voxel_ml < 100:
                raise ScanError(
                    f"{raw.path}: no brain was found; look at the scan, and exclude it if it is not a whole-head T1w"
                )
            native = sample(surface, raw.affine, raw.data.shape, order=1, outside=OUTSIDE_MM) > 0
            native_mask = Image(native, raw.affine)
            self.metrics |= measures.mask_metrics(native_mask)
            measured, self.why_null = measures.raw_metrics(raw.volume, native)
            self.metrics |= measured
            if atlas and warped.labels is not None:
                self.volumes_ml |= atlas.volumes_ml(head.with_data(warped.labels * inside))
            within = bias_field(head, inside, shrink_factor=3)
            field, head = field * within, head.with_data(head.data / within)
        with self.stage("affine"):
            brain = head.with_data(head.data * inside)
            to_scan = register_brain(template.brain_volume, brain, linear, options.transform, self.seed)
            self.metrics |= measures.registration_metrics(raw.volume, template.mask_volume, to_scan)
        with self.stage("resample"):
            grid = (template.affine, template.shape, to_scan)
            mask = sample(surface, *grid, order=1, outside=OUTSIDE_MM) > 0
            sharp = gaussian_for_voxels(raw.volume, template.voxel_mm)
            volume = sample(sharp, *grid, order=3) / sample(head.with_data(field), *grid, order=1, outside=1.0)
            volume = np.clip(volume, 0, None) * mask
        with self.stage("tissues"):
            rough_peak = white_peak(volume[mask & (template.wm > 0.9)])
            tissues = segment_tissues(volume / rough_peak, mask, template)
            peak = white_peak(volume[tissues.wm > 0.95])
            volume /= peak
            self.volumes_ml |= tissue_volumes(tissues, template, self.metrics["head_size"])
            self.metrics |= measures.image_metrics(
                volume, mask, tissues.gm, tissues.wm, template.brain, template.brain_mask
            )
            self.metrics["wm2max"] = peak / float(np.percentile(head.data[foreground(head.data)], 99.95))
        with self.stage("write"):
            self._write(raw, native_mask, template, to_scan, Image(volume, template.affine), mask, tissues)
        with self.stage("figures"):
            self._draw("mask", head, [(inside, MASK_COLOUR)], inside)
            outlines = [(template.brain_mask, TEMPLATE_COLOUR), (template.wm > 0.5, TEMPLATE_COLOUR)]
            self._draw("registration", Image(volume, template.affine), outlines, template.brain_mask)

    def _draw(
        self, kind: str, volume: Image, outlines: list[tuple[np.ndarray, tuple[int, int, int]]], box: np.ndarray
    ) -> None:
        name = f"figures/{self.scan}_{kind}.png"
        figures.mosaic(volume.data, volume.voxel_mm, outlines, box, self.output_dir / name)
        self.outputs[f"{kind}_figure"] = name

    def _write(
        self,
        raw: RawScan,
        native_mask: Image,
        template: Template,
        to_scan: np.ndarray,
        volume: Image,
        mask: np.ndarray,
        tissues: Tissues,
    ) -> None:
        """Write the BIDS derivatives; every file appears whole or not at all."""
        self.anat.mkdir(parents=True, exist_ok=True)
        space = f"{self.scan}_space-{template.name}_res-{template.label}"
        images = {
            "preproc_t1w": (f"{space}_desc-preproc_T1w", volume, np.float32),
            "template_mask": (f"{space}_desc-brain_mask", volume.with_data(mask), np.uint8),
            "native_mask": (f"{self.scan}_desc-brain_mask", native_mask, np.uint8),
            "gm_probseg": (f"{space}_label-GM_probseg", volume.with_data(tissues.gm), np.float32),
            "wm_probseg": (f"{space}_label-WM_probseg", volume.with_data(tissues.wm), np.float32),
            "csf_probseg": (f"{space}_label-CSF_probseg", volume.with_data(tissues.csf), np.float32),
        }
        common = {"Sources": [bids_uri(path, "raw") for path in self.sources], "Software": software_versions()}
        in_space = {
            "SpatialReference": template.name,
            "Resolution": f"{template.voxel_mm:g} mm isotropic",
            "Transform": self.options.transform,
        }
        told = {
            "preproc_t1w": "Bias-corrected brain in template space, one interpolation from the raw scan",
            "template_mask": "Intracranial mask in template space",
            "native_mask": "Intracranial mask on the raw scan's own grid",
            "gm_probseg": "Probability of grey matter",
            "wm_probseg": "Probability of white matter",
            "csf_probseg": "Probability of cerebrospinal fluid",
        }
        extra: dict[str, dict[str, Any]] = {
            "preproc_t1w": in_space
            | {"SkullStripped": True, "Units": "arbitrary, white-matter peak = 1", "Metrics": self.finite_metrics},
            "template_mask": in_space | {"Type": "Brain"},
            "native_mask": {"SpatialReference": "orig", "Type": "Brain"},
            "gm_probseg": in_space,
            "wm_probseg": in_space,
            "csf_probseg": in_space,
        }
        space_of = dict.fromkeys(images, template_code(template.name)) | {"native_mask": SCANNER}
        for role, (stem, image, dtype) in images.items():
            write_image(self.anat / f"{stem}.nii.gz", image, space_of[role], dtype)
            write_json(self.anat / f"{stem}.json", {"Description": told[role]} | common | extra[role])
            self.outputs[role] = self._relative(self.anat / f"{stem}.nii.gz")
        for role, name, matrix in (
            ("to_template", f"from-T1w_to-{template.name}", to_scan),
            ("from_template", f"from-{template.name}_to-T1w", np.linalg.inv(to_scan)),
        ):
            path = self.anat / f"{self.scan}_{name}_mode-image_xfm.mat"
            with whole(path) as partial:
                write_matrix(matrix, partial)
            self.outputs[role] = self._relative(path)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.output_dir).as_posix()
