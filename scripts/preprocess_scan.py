"""Rule preprocess_scan: one raw T1w in, a brain in template space and a status out."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import PreprocessOptions, read_template
    from brainscm.preprocess.scan import preprocess_scan

    params = snakemake.params
    preprocess_scan(
        scan=snakemake.wildcards.scan,
        t1w=Path(params.runs[0]),
        further_runs=[Path(run) for run in params.runs[1:]],
        output_dir=Path(params.preproc_dir),
        template=read_template(params.template),
        options=PreprocessOptions.model_validate(params.options),
        seed=params.seed,
        threads=snakemake.threads,
        derivatives=Path(params.derivatives) if params.derivatives else None,
        cache_dir=Path(params.work_dir, "template"),
    )
