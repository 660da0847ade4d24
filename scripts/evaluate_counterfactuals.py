"""Evaluate the counterfactuals against known answers, simpler methods, and the slopes across participants."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import torch

    from brainscm.config import QueryOptions, ScmOptions, read_template
    from brainscm.evaluation.inputs import EvaluationInputs
    from brainscm.evaluation.stage import run
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues

    source, params = snakemake.input, snakemake.params
    torch.set_num_threads(snakemake.threads)
    files = {name: Path(source[name]) for name in ("scans", "qc", "model", "reconstruction", "latents", "manifest")}
    inputs = EvaluationInputs.open(
        **files,
        scm_dir=Path(params.scm_dir),
        scm_options=ScmOptions.model_validate(params.scm),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        bids_dir=Path(params.bids_dir),
        components=params.components,
        measure=MeasureTissues(load_template(read_template(params.template), params.preprocess["voxel_mm"])),
    )
    run(inputs, params.seed, Path(snakemake.output.summary).parent)
