"""Rule collect_preprocessing: the status of every scan into one QC table."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QualityOptions
    from brainscm.qc.collect import collect_preprocessing

    collect_preprocessing(
        scans_path=Path(snakemake.input.scans),
        preproc_dir=Path(snakemake.params.preproc_dir),
        qc_path=Path(snakemake.output.qc),
        limits=QualityOptions.model_validate(snakemake.params.limits),
    )
