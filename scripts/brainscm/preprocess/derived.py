"""Where a folder of BIDS derivatives keeps a scan's preprocessed T1w and brain mask.

This module imports little, because the Snakefile does.
"""

from __future__ import annotations

from pathlib import Path

from brainscm.errors import ScanError
from brainscm.files import scan_folder

T1W, MASK = "desc-preproc_T1w", "desc-brain_mask"


def derived_files(derivatives: Path, scan: str) -> dict[str, list[Path]]:
    """The files on a scan's own grid (without `space-`) that derivatives hold of it: T1w and masks, if any."""
    folder = derivatives / scan_folder(scan)
    return {
        kind: sorted(path for path in folder.glob(f"{scan}_*{kind}.nii.gz") if "_space-" not in path.name)
        for kind in (T1W, MASK)
    }


def require_files(derivatives: Path, scan: str) -> tuple[Path | None, Path]:
    """The preprocessed T1w, None where the mask is of the raw one, and the mask.

    Raises:
        ScanError: there is no mask, or several.
    """
    found = derived_files(derivatives, scan)
    folder = derivatives / scan_folder(scan)
    if not found[MASK]:
        raise ScanError(f"{folder}: no {scan}_{MASK}.nii.gz; one image of all sessions is not taken for each of them")
    if max(map(len, found.values())) > 1:
        raise ScanError(f"{folder}: several files of {scan} end in {MASK} or {T1W}; keep one of each")
    return (found[T1W][0] if found[T1W] else None), found[MASK][0]
