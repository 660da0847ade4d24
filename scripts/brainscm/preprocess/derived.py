"""Where a folder of BIDS derivatives keeps a scan's preprocessed T1w and brain mask, and whether they are this scan's.

This module imports little, because the Snakefile does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from brainscm.cohort.bids import OWN_SPACES
from brainscm.errors import ScanError
from brainscm.files import read_description, scan_folder, sidecar

T1W, MASK = "desc-preproc_T1w", "desc-brain_mask"
SPACE = re.compile(r"_space-([A-Za-z0-9]+)")
ENTITY = re.compile(r"(?<=_)(?:acq|ce|rec|run)-[A-Za-z0-9]+")  # by which the T1w of a session differ
RAW_IMAGE = re.compile(r"(?<![^/:])sub-[^/:]+_(?:T1w|UNIT1)\.nii(?:\.gz)?$")  # at the end of a path or a BIDS URI


def derived_files(derivatives: Path, scan: str) -> dict[str, list[Path]]:
    """The files on a scan's own grid (without `space-`, or with its own) that derivatives hold of it, if any.

    fMRIPrep leaves the session out of a mean's name, also where all runs are of one session: such a mean is that
    session's.
    """
    found = _on_own_grid(derivatives, scan)
    participant, _, session = scan.partition("_")
    if session and not found[MASK]:
        of_participant = _on_own_grid(derivatives, participant)
        sources = {name for mask in of_participant[MASK] for name in _raw_sources(mask)}
        if sources and all(name.startswith(f"{scan}_") for name in sources):
            return of_participant
    return found


def require_files(derivatives: Path, scan: str, runs: Sequence[Path]) -> tuple[Path | None, Path]:
    """The preprocessed T1w, None where the mask is of the raw one, and the mask.

    Args:
        runs: the raw T1w files that the study takes for this scan.

    Raises:
        ScanError: there is no mask, or several; mask and T1w are not of one image, or not of this scan's.
    """
    found = derived_files(derivatives, scan)
    folder = derivatives / scan_folder(scan)
    if not found[MASK]:
        raise ScanError(f"{folder}: no {scan}_{MASK}.nii.gz; {_why_no_mask(derivatives, scan)}")
    if max(map(len, found.values())) > 1:
        raise ScanError(f"{folder}: several files of {scan} end in {MASK} or {T1W}; keep one of each")
    (mask,), t1w = found[MASK], next(iter(found[T1W]), None)
    if t1w and _image_of(t1w, T1W) != _image_of(mask, MASK):
        raise ScanError(f"{folder}: {t1w.name} and {mask.name} differ in their names; take both of one image")
    sources = _raw_sources(mask)
    others = sources and not sources & {run.name for run in runs}
    if others or not any(set(ENTITY.findall(mask.name)) <= set(ENTITY.findall(run.name)) for run in runs):
        raise ScanError(
            f"{mask}: is of {', '.join(sorted(sources)) or 'another T1w by its name'}, and this study takes "
            f"{runs[0].name}; choose the same T1w by "
            "cohort.filter, or make these derivatives from that"
        )
    return t1w, mask


def _on_own_grid(derivatives: Path, scan: str) -> dict[str, list[Path]]:
    folder = derivatives / scan_folder(scan)
    return {
        kind: sorted(
            path
            for path in folder.glob(f"{scan}_*{kind}.nii*")
            if path.suffix in (".nii", ".gz") and set(SPACE.findall(path.name)) <= set(OWN_SPACES)
        )
        for kind in (T1W, MASK)
    }


def _image_of(path: Path, kind: str) -> str:
    """What T1w and mask of one image have in common in their names."""
    return SPACE.sub("", path.name.partition(kind)[0])


def _why_no_mask(derivatives: Path, scan: str) -> str:
    """What there is in place of a mask on the scan's own grid, and what to do."""
    participant, _, session = scan.partition("_")
    in_templates = sorted(path.name for path in (derivatives / scan_folder(scan)).glob(f"{scan}_*{MASK}.nii*"))
    if in_templates:
        return f"a mask in a template's space ({in_templates[0]}) is not taken; make one on the T1w's own grid"
    if session and derived_files(derivatives, participant)[MASK]:
        return "one image of all sessions is not taken for each of them; run the program session by session"
    return "run the program that made the folder on this scan, or leave the scan out"


def _raw_sources(mask: Path) -> set[str]:
    """The names of the raw images that a mask is of, as far as its side-car says."""
    told = read_description(sidecar(mask))
    lists = [told[key] for key in ("RawSources", "Sources") if isinstance(told.get(key), list)]
    found = [RAW_IMAGE.search(str(path)) for named in lists for path in named]
    return {match[0] for match in found if match and "_desc-" not in match[0]}
