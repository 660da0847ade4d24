"""Open what the evaluation's jobs share, from the files and options that their rules name alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brainscm.config import QueryOptions, ScmOptions, read_template
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.template import load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.scm.model import load_scm


def open_inputs(source: Any, params: Any) -> EvaluationInputs:
    """Open what a job of the evaluation reads.

    Args:
        source, params: of the job, as Snakemake gives them.

    Raises:
        BrainSCMError: see `EvaluationInputs.open`.
    """
    return EvaluationInputs.open(
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model),
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.scm)),
        reconstruction=Path(source.reconstruction),
        manifest=Path(source.manifest),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        bids_dir=Path(params.bids_dir),
        components=params.components,
        measure=MeasureTissues(load_template(read_template(params.template), params.voxel_mm)),
    )
