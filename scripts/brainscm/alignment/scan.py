"""Align one preprocessed scan to the template; write its deformation both ways, as ANTs reads it, and its Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainscm.config import CustomTemplate
from brainscm.errors import ScanError
from brainscm.files import bids_uri, derivative_name, scan_folder, sidecar, write_json
from brainscm.images import Displacement, Volume, read_mask, read_volume, write_displacement, write_volume
from brainscm.preprocess.template import Template, load_template
from brainscm.preprocess.tissues import TissueMeasure
from brainscm.qc.status import ScanStatus, read_status, software_versions
from brainscm.regions import Geometry
from brainscm.tissue_levels import LEVEL_COLUMNS, TissueLevels

SOFTWARE = ("nibabel", "numpy", "scipy", "torch")


def align_scan(
    scan: str, preproc_dir: Path, template: str | CustomTemplate, voxel_mm: float, cache_dir: Path | None = None
) -> dict[str, Any]:
    """Register a preprocessed scan to the template and write the deformation beside it, under `preproc_dir`.

    The template's regions, carried to the scan by it, are measured again, and stand for what preprocessing measured.

    A scan whose preprocessing failed is skipped. One that cannot be aligned ends with status `fail` and one sentence,
    not with an exception.

    Args:
        scan: `sub-X` or `sub-X_ses-Y`.
        voxel_mm: of the grid that the scan was preprocessed to.
        cache_dir: where the prepared template is kept.

    Returns:
        What is written to `alignment/<scan>.json`; see `ScanStatus`.

    Raises:
        ConfigError: the template cannot be used.
        BrainSCMError: nothing can be written under `preproc_dir`, or what preprocessing wrote is gone.
        MemoryError: the machine lacks memory, which says nothing about the scan.
    """
    preprocessed = read_status(preproc_dir, "status", scan)
    status = ScanStatus(scan, preproc_dir, "alignment", software_versions(SOFTWARE))
    if preprocessed["status"] == "fail":
        status.outcome = "skipped"
        return status.write()
    with status.step("template"):
        loaded = load_template(template, voxel_mm, cache_dir)
    paths = _paths(preproc_dir, scan, loaded)
    for path in paths.values():  # a scan that fails now must not keep the deformation of a run that did not
        path.unlink(missing_ok=True)
        sidecar(path).unlink(missing_ok=True)
    image = preproc_dir / preprocessed["outputs"]["preproc_t1w"]
    status.sources = [bids_uri(image, "")]
    with status.working_on(image):
        with status.step("read"):
            volume = read_volume(image, loaded.grid)
        aligned = _align(status, image, volume, loaded)
        with status.step("measure"):
            status.volumes_ml |= _measure(preprocessed, preproc_dir, loaded, aligned).volumes_ml(volume)
        with status.step("write"):
            _write(status, aligned, loaded, paths, preprocessed["outputs"])
    return status.write()


@dataclass(frozen=True)
class _Aligned:
    """What the alignment of a scan found, in voxels of the template's grid.

    Attributes:
        displacement: takes a template voxel y to y + u(y) in the scan.
        back: takes a scan's voxel p to the y with y + u(y) = p.
        determinant: (x, y, z), Jacobian determinant of y + u(y).
    """

    displacement: Displacement
    back: Displacement
    determinant: Volume


def _measure(
    preprocessed: Mapping[str, Any], preproc_dir: Path, template: Template, aligned: _Aligned
) -> TissueMeasure:
    """The measure of a scan's regions where its alignment lays them."""
    metrics = preprocessed["metrics"]
    mask = read_mask(preproc_dir / preprocessed["outputs"]["template_mask"])
    levels = TissueLevels(*(metrics[column] for column in LEVEL_COLUMNS))
    return TissueMeasure(template, levels, Geometry(mask, metrics["head_size"], aligned.back))


def _align(status: ScanStatus, image: Path, scan: Volume, template: Template) -> _Aligned:
    # Here, since they take seconds to load and a scan that is skipped needs none of them.
    import torch

    from brainscm.alignment.displacement import inverse_at_nodes, jacobian, upsample
    from brainscm.alignment.registration import Alignment
    from brainscm.parallel import one_thread

    volume = torch.from_numpy(scan)
    with one_thread():
        with status.step("register"):
            alignment = Alignment.onto(template)
            displacement = alignment.displacement(volume)
            if not displacement.isfinite().all():
                raise ScanError(f"{image}: its alignment to the template diverged; look at the scan")
            status.metrics |= alignment.quality(volume, displacement)
        with status.step("invert"):
            everywhere = upsample(displacement, template.shape)
            determinant = torch.linalg.det(jacobian(everywhere)).numpy()
            folded = determinant[template.brain_mask] <= 0
            status.metrics["alignment_folding_percent"] = 100 * float(folded.mean())
            back = inverse_at_nodes(everywhere)
    return _Aligned(displacement.numpy(), back.numpy(), determinant)


def _paths(preproc_dir: Path, scan: str, template: Template) -> dict[str, Path]:
    """Where the images lie, by role."""
    warp = {"mode": "image", "desc": "deformable"}
    names = {
        "deformation": derivative_name(scan, {"from": "T1w", "to": template.name} | warp, "xfm"),
        "deformation_inverse": derivative_name(scan, {"from": template.name, "to": "T1w"} | warp, "xfm"),
        "jacobian": derivative_name(scan, {"space": template.name, "res": template.label, "desc": "jacobian"}, "map"),
    }
    return {role: preproc_dir / scan_folder(scan) / f"{name}.nii.gz" for role, name in names.items()}


def _write(
    status: ScanStatus, aligned: _Aligned, template: Template, paths: Mapping[str, Path], linear: Mapping[str, str]
) -> None:
    """Write the images with their side-cars; `linear` names the matrices by their role."""
    write_displacement(paths["deformation"], aligned.displacement, template.grid)
    write_displacement(paths["deformation_inverse"], aligned.back, template.grid)
    write_volume(paths["jacobian"], aligned.determinant, template.grid)
    to_template, from_template = (Path(linear[role]).name for role in ("to_template", "from_template"))
    nodes = {
        "SpatialReference": template.name,
        "Resolution": f"{2 * template.voxel_mm:g} mm isotropic, every second voxel",
        "Units": "mm, LPS",
    }
    told: dict[str, dict[str, str]] = {
        "deformation": nodes
        | {
            "Description": "Displacement from a point of the template to that of the linearly registered scan",
            "HowToApply": "The raw scan to the template: antsApplyTransforms -d 3 -i <raw T1w> -r <image in template "
            f"space> -t {paths['deformation'].name} -t {to_template}; the preprocessed scan: the first -t alone.",
        },
        "deformation_inverse": nodes
        | {
            "Description": "Displacement from a point of the linearly registered scan to that of the template",
            "HowToApply": "An image in template space to the raw scan: antsApplyTransforms -d 3 -i <image> -r <raw T1w>"
            f" -t {from_template} -t {paths['deformation_inverse'].name}; to the preprocessed scan: the second -t "
            "alone. ANTsPy inverts a matrix that comes first, unless it is given whichtoinvert=[False, False].",
        },
        "jacobian": template.described
        | {
            "Description": "Jacobian determinant of the map from the template to the linearly registered scan: above 1 "
            "the scan has more volume there than the template, 0 and below the map folds",
            "Units": "ratio of volumes; divided by `head_size` of qc.tsv, that to the raw scan",
        },
    }
    for role, path in paths.items():
        write_json(sidecar(path), told[role] | {"Sources": status.sources, "Software": status.software})
        status.add(role, path)
