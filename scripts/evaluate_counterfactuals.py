"""Evaluate the counterfactuals against known answers, simpler methods, and the slopes across participants."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QueryOptions, ScmOptions, read_template
    from brainscm.evaluation.inputs import EvaluationInputs
    from brainscm.evaluation.stage import run
    from brainscm.latents.encoded import EncodedScans
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scm.model import load_scm

    source, params = snakemake.input, snakemake.params
    inputs = EvaluationInputs.open(
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model),
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.scm)),
        reconstruction=Path(source.reconstruction),
        manifest=Path(source.manifest),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        bids_dir=Path(params.bids_dir),
        components=params.components,
        measure=MeasureTissues(load_template(read_template(params.template), params.preprocess["voxel_mm"])),
    )
    run(inputs, params.seed, Path(snakemake.output.summary).parent)
