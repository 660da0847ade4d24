"""Several T1w runs of one session into one scan: rigidly aligned to the first that can be read, and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainscm.errors import ScanError
from brainscm.foreground import foreground
from brainscm.preprocess.described import notes_of_sidecars
from brainscm.preprocess.head import RawScan, read_scan, working_head
from brainscm.preprocess.register import align_run
from brainscm.resampling import gaussian_for_voxels, sample

COARSER = 1.3  # a run whose largest voxel edge is this much longer than the finest run's would blur the average
MIN_AGREEMENT = 0.8  # correlation inside the head; two runs of one participant have above 0.95


@dataclass(frozen=True)
class Session:
    """What one session's runs amount to.

    Attributes:
        sources: the files that the scan is made of.
        notes: a sentence about each run that was left out, and what is odd about the others.
        inputs: of each source its file, its SHA-256, and which part of its header says how the head lies.
    """

    scan: RawScan
    sources: list[Path]
    notes: list[str]
    inputs: list[dict[str, str]]


def read_session(paths: Sequence[Path], seed: int) -> Session:
    """Read the runs of a session; several are averaged on the grid of the first that can be read.

    A run that cannot be read, has larger voxels than another, or does not look like the others once aligned, is left
    out and told.

    Raises:
        ScanError: no run can be read.
    """
    scans: list[RawScan] = []
    refusals: list[str] = []
    for path in paths:
        try:
            scans.append(read_scan(path))
        except ScanError as error:
            refusals.append(str(error))
    if not scans:
        of_all = f" (none of its {len(paths)} runs can be read)" if len(paths) > 1 else ""
        raise ScanError(refusals[0] + of_all)
    left_out = [f"a run was left out: {refusal}" for refusal in refusals]
    edges_mm = [float(scan.volume.voxel_mm.max()) for scan in scans]
    fine = [scan for scan, edge in zip(scans, edges_mm, strict=True) if edge <= COARSER * min(edges_mm)]
    left_out += [
        f"a run was left out: {scan.path} has voxels of up to {edge:g} mm, another run of {min(edges_mm):g} mm"
        for scan, edge in zip(scans, edges_mm, strict=True)
        if edge > COARSER * min(edges_mm)
    ]
    first, others = fine[0], fine[1:]
    used = [first]
    if not others:
        return _session(first, used, left_out)

    head = working_head(first)
    inside = foreground(head.data)
    reference = head.data[inside]
    total, weight = first.data.astype(np.float64), np.ones(first.data.shape)
    for run in others:
        moving = working_head(run)
        world = align_run(head, moving, seed)
        values = sample(moving, head.affine, head.data.shape, world, order=1)[inside]
        agreement = float(np.corrcoef(reference, values)[0, 1])
        if not agreement >= MIN_AGREEMENT:
            left_out.append(
                f"a run was left out: {run.path} correlates with the first run by only {agreement:.2f}; look at it"
            )
            continue
        scale = float((reference * values).sum() / (values**2).sum())
        grid = (first.affine, first.data.shape, world)
        sharp = gaussian_for_voxels(run.volume, float(first.volume.voxel_mm.min()))
        # Where a run's field of view ends, the others go on.
        covered = sample(run.volume.with_data(np.ones(run.data.shape, np.float32)), *grid, order=0)
        total += covered * scale * sample(sharp, *grid, order=3)
        weight += covered
        used.append(run)
    mean = np.clip(total / weight, min(0.0, float(first.data.min())), None).astype(np.float32)
    return _session(replace(first, data=mean), used, left_out)


def _session(scan: RawScan, used: list[RawScan], left_out: list[str]) -> Session:
    inputs = [{"file": run.path.name, "sha256": run.sha256, "orientation": run.orientation} for run in used]
    notes = left_out + [note for run in used for note in (*run.notes, *notes_of_sidecars(run.path))]
    return Session(scan, [run.path for run in used], notes, inputs)
