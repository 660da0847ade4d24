"""New scans beside those of the fitted study: is each one like what was learnt from, and what of it lies outside?"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainscm.errors import BrainSCMError
from brainscm.files import write_json
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import side_by_side
from brainscm.scans import QC_STATUS
from brainscm.scm.model import Scm

logger = logging.getLogger("brainscm")

PSNR = "psnr_brain_db"
COLUMNS = [
    "scan", "participant", "leverage", "leverage_ratio", "positivity", "extrapolation", PSNR, "psnr_brain_lowest_db",
    "latent_distance", "latent_distance_highest", "warning", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """How far the scans of a fitted study reach, those that passed quality control, held-out ones among them.

    Held-out ones count because an autoencoder reproduces no scan as well as those that it was trained on.

    Attributes:
        scans: how many there were.
        psnr_brain_lowest_db, psnr_brain_median_db: of their reconstructions; None where they are exact.
        latent_distance_highest, latent_distance_median: see `latent_distance`; None where nothing varies.
    """

    scans: int
    psnr_brain_lowest_db: float | None
    psnr_brain_median_db: float | None
    latent_distance_highest: float | None
    latent_distance_median: float | None

    @classmethod
    def learn(cls, scm: Scm, encoded: EncodedScans, reconstruction: pd.DataFrame) -> Reference:
        """From a fitted study's scans: its model, its latents and its `reconstruction.tsv`."""
        usable = scm.answerable(encoded).scans.usable
        passed = usable[usable[QC_STATUS] == "pass"]
        passed = passed if len(passed) else usable
        psnr = reconstruction.set_index("scan")[PSNR].reindex(passed["scan"]).dropna()
        distance = latent_distances(scm, encoded, passed).dropna()
        return cls(
            scans=len(passed),
            psnr_brain_lowest_db=_finite(psnr.min()),
            psnr_brain_median_db=_finite(psnr.median()),
            latent_distance_highest=_finite(distance.max()),
            latent_distance_median=_finite(distance.median()),
        )

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Read what `write` wrote.

        Raises:
            BrainSCMError: it is of another version.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise BrainSCMError(f"{path}: is of another version of BrainSCM; make the bundle again.") from error


def latent_distances(scm: Scm, encoded: EncodedScans, rows: pd.DataFrame) -> pd.Series:
    """How far each scan lies from what its covariates lead one to expect, by scan id; NaN if nothing varies.

    The root mean square of the latent's residuals in standard deviations of the training scans' residuals: about 1 for
    a scan that is like them.
    """
    image = scm.image
    varies = image.residual_variance > 0
    x = scm.design_matrix(rows)

    def distance(at: int) -> float:
        residual = encoded.store.of(rows["scan"].iloc[at]) - image.predict(x[[at]])[0]
        return float(np.sqrt(np.mean(np.square(residual[varies]) / image.residual_variance[varies])))

    found = list(side_by_side(distance, range(len(rows)))) if varies.any() else [math.nan] * len(rows)
    return pd.Series(found, index=rows["scan"].to_numpy(), dtype=float)


def assess(scm: Scm, encoded: EncodedScans, reconstruction: pd.DataFrame, reference: Reference) -> pd.DataFrame:
    """The support of new scans, and warnings of those that lie outside what was learnt from, by name in the log.

    Args:
        scm: of the fitted study; encoded: the new scans; reconstruction: of them.

    Returns:
        One row a scan, see `COLUMNS`. `warning` is in words; `reason` says why a scan has no support.
    """
    answerable = scm.answerable(encoded).scans
    rows = answerable.usable
    table = pd.DataFrame({"scan": rows["scan"], "participant": rows["participant"]}, index=rows.index)
    support = scm.support(rows)
    for column in ("leverage", "leverage_ratio", "positivity", "extrapolation"):
        table[column] = support[column]
    table[PSNR] = reconstruction.set_index("scan")[PSNR].reindex(table.index)
    table["psnr_brain_lowest_db"] = reference.psnr_brain_lowest_db
    table["latent_distance"] = latent_distances(scm, encoded, rows)
    table["latent_distance_highest"] = reference.latent_distance_highest
    words = [_outside(reference, row[PSNR], row["latent_distance"]) for _, row in table.iterrows()]
    table["warning"] = [
        "; ".join(each for each in (told, *own) if each) for told, own in zip(support["warning"], words, strict=True)
    ]
    for scan, warning in table["warning"].items():
        if warning:
            logger.warning("%s: %s", scan, warning)
    left_out = answerable.rows[answerable.unusable != ""]
    reasons = {"participant": left_out["participant"], "reason": answerable.unusable[left_out.index]}
    table = pd.concat([table, pd.DataFrame({"scan": left_out["scan"], **reasons})])
    table["positivity"] = table["positivity"].astype("Int64")  # a count, also beside scans that have none
    table["extrapolation"] = table["extrapolation"].map({True: "true", False: "false"})
    table["warning"] = table["warning"].replace("", None)
    return table.reindex(columns=COLUMNS).loc[list(answerable.rows.index)].reset_index(drop=True)


def _outside(reference: Reference, psnr: float, distance: float) -> list[str]:
    """What of a scan lies outside the fitted study's scans, in words."""
    told = []
    lowest, highest = reference.psnr_brain_lowest_db, reference.latent_distance_highest
    of_study = f"any of the fitted study's {reference.scans} scans"
    if lowest is not None and psnr < lowest:
        told.append(f"the autoencoder reproduces it worse than {of_study} (PSNR {psnr:.1f} dB, lowest {lowest:.1f})")
    if highest is not None and distance > highest:
        told.append(f"its latent lies further out than that of {of_study} ({distance:.2f}, highest {highest:.2f})")
    return told


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
