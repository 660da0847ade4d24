"""What the evaluation reads of a study: its fitted models, its scans, and what it has written about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from brainscm.config import QueryOptions
from brainscm.encoding.encoder import Encoder
from brainscm.evaluation.cases import Case
from brainscm.evaluation.scan import Scan
from brainscm.evaluation.truth import Truth, read_raw, true_volume
from brainscm.evaluation.written import WrittenCounterfactuals
from brainscm.latents.encoded import EncodedScans
from brainscm.latents.store import LatentStore
from brainscm.preprocess.itk import read_matrix
from brainscm.regions import COMPARED, MeasureRegions
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm
from brainscm.tables import read_table


@dataclass(frozen=True)
class EvaluationInputs:
    """A study up to its counterfactuals.

    Attributes:
        scm, encoder: fitted.
        scans: usable are those that were preprocessed, are encoded, and have every covariate.
        store: the latents.
        written: the counterfactuals that were made.
        reconstruction: the encoder's fidelity by scan.
        queries: of the config.
        bids_dir: where the simulator's answers lie, if there are any.
        components: of the PCA baseline.
        measure: what gave the `<region>_ml` columns of the scans. Images are measured by their `Scan`.
    """

    scm: Scm
    encoder: Encoder
    scans: ScanTable
    store: LatentStore
    written: WrittenCounterfactuals
    reconstruction: pd.DataFrame
    queries: Sequence[QueryOptions]
    bids_dir: Path
    components: int
    measure: MeasureRegions

    @classmethod
    def open(
        cls,
        *,
        encoded: EncodedScans,
        scm: Scm,
        reconstruction: Path,
        manifest: Path,
        queries: Sequence[QueryOptions],
        bids_dir: Path,
        components: int,
        measure: MeasureRegions,
    ) -> EvaluationInputs:
        """Read the tables that the stages before have written.

        Raises:
            BrainSCMError: one of them cannot be used, or model, latents and counterfactuals do not belong together.
        """
        encoded = scm.answerable(encoded)
        scans, store = encoded.scans, encoded.store
        return cls(
            scm=scm,
            encoder=encoded.encoder,
            scans=scans,
            store=store,
            written=WrittenCounterfactuals.open(manifest, scans.grid, store.identity),
            reconstruction=read_table(reconstruction),
            queries=queries,
            bids_dir=bids_dir,
            components=components,
            measure=measure,
        )

    def read_scan(self, scan: str) -> Scan:
        """Read a scan.

        Raises:
            ScanError: it, its mask or its latent cannot be read.
        """
        volume, geometry = self.scans.volume(scan), self.scans.geometry(scan)
        measure = self.measure(volume, geometry)
        levels = EncodedScans(self.scans, self.store, self.encoder).levels(scan)
        return Scan(volume=volume, mask=geometry.mask, latent=self.store.of(scan), measure=measure, levels=levels)

    def read_truth(self, case: Case, scan: Scan) -> Truth | None:
        """The answer to a case that starts from `scan`; None where it is not known.

        Raises:
            ScanError: it cannot be read.
        """
        if case.source == "unanswered":
            return None
        if case.source == "follow-up":
            later = self.scans.volume(case.answer)
            found = scan.measure.at(self.scans.geometry(case.answer)).volumes_ml(later)
            return Truth(later * scan.mask, {region: found[region] for region in COMPARED})
        raw, answer = read_raw(self.scans.require(case.scan)["path"]), read_raw(case.answer)
        to_scan = read_matrix(self.scans.path(case.scan, "to_template"))
        volume = true_volume(scan.volume, scan.mask, raw, answer, to_scan, self.scans.grid)
        return Truth(volume, scan.regions_ml(volume))
