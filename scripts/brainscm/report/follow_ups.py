"""Later scans of a participant as truths: what the causal model makes of the first scan in as many years.

The evaluation scores that answer and does not keep its volume; it is decoded again, once a page that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.encoder import Factual
from brainscm.evaluation.cases import FOLLOW_UP, Case, follow_up_cases
from brainscm.images import Volume
from brainscm.latents.encoded import EncodedScans
from brainscm.scans import records
from brainscm.scm.model import Scm, load_scm

if TYPE_CHECKING:
    from brainscm.report.study import Study


@dataclass(frozen=True)
class FollowUp:
    """A later scan of a participant, beside the counterfactual of the first scan at the age then.

    Attributes:
        scan, later: their ids. years: that passed between them.
        answer: the counterfactual (x, y, z) by residual decoding, inside the brain mask of `scan`.
        support: how far the training scans support it, as a row of the manifest tells it.
    """

    scan: str
    later: str
    years: float
    answer: Volume
    support: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.years:.1f} years later ({self.later.rpartition('_')[2]})"


@dataclass(frozen=True)
class FollowUps:
    """The follow-ups of the test participants, which the evaluation asks."""

    scm: Scm
    encoded: EncodedScans

    @classmethod
    def open(cls, study: Study) -> FollowUps | None:
        """Read the models; None where the evaluation has asked no follow-up.

        Raises:
            BrainSCMError: model, latents and scans do not belong together any more.
        """
        if not (study.metrics["source"] == FOLLOW_UP).any():
            return None
        results = study.results
        encoded = EncodedScans.open(
            results / "cohort" / "scans.tsv",
            results / "preproc" / "qc.tsv",
            results / "latents" / "latents.zarr",
            results / "autoencoder" / "model.pt",
        )
        scm = load_scm(results / "scm", study.config.scm)
        return cls(scm, scm.answerable(encoded))

    @cached_property
    def cases(self) -> dict[str, list[Case]]:
        """By first scan."""
        found: dict[str, list[Case]] = {}
        for case in follow_up_cases(self.encoded.scans.usable, self.scm.covariates.columns["age"]):
            found.setdefault(case.scan, []).append(case)
        return found

    def of(self, scan: str) -> list[FollowUp]:
        """Those that begin with a scan, the earliest first.

        Raises:
            ScanError: a file of the scan cannot be read.
        """
        cases = self.cases.get(scan, [])
        factual = self._factual(scan) if cases else None
        return [self._answer(case, factual) for case in cases if factual is not None]

    def _factual(self, scan: str) -> Factual:
        volume, latent = self.encoded.scans.volume(scan), self.encoded.store.of(scan)
        volumes, latents = (torch.from_numpy(each) for each in (volume[None, None], latent[None]))
        return Factual(self.encoded.encoder, volumes, latents, self.encoded.levels(scan))

    def _answer(self, case: Case, factual: Factual) -> FollowUp:
        rows = self.encoded.scans.rows.loc[[case.scan]]
        plan = plan_query(self.scm, rows, case.query)
        made = predict(factual, self.scm.image, plan.step, case.query.decode).volume[0, 0].numpy()
        answer = np.where(self.encoded.scans.mask(case.scan), made, np.float32(0))
        years = float(case.query.do["age"]) - float(self.scm.values(rows)["age"].iloc[0])
        return FollowUp(case.scan, case.answer, years, answer, records(plan.support)[0])
