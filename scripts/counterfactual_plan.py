"""Tell what the study's questions will cost, and which of them its data can answer, without making any image."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QueryOptions, ScmOptions
    from brainscm.counterfactuals.plan import run

    params = snakemake.params
    run(
        scans=Path(snakemake.input.scans),
        results=Path(params.output_dir),
        scm_dir=Path(params.scm_dir),
        options=ScmOptions.model_validate(params.scm),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        source=params.source,
        new_levels=params.new_levels,
    )
