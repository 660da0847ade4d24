"""Rule collect_preprocessing: what every scan's jobs told into one QC table."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QualityOptions
    from brainscm.qc.collect import collect_preprocessing

    params = snakemake.params
    collect_preprocessing(
        scans_path=Path(snakemake.input.scans),
        preproc_dir=Path(params.preproc_dir),
        qc_path=Path(snakemake.output.qc),
        limits=QualityOptions.model_validate(params.limits),
        is_aligned=params.is_aligned,
    )
