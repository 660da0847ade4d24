"""Rule align_scan: one preprocessed scan in, its deformation to the template and a status out."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.alignment.scan import align_scan
    from brainscm.config import read_template

    params = snakemake.params
    align_scan(
        scan=snakemake.wildcards.scan,
        preproc_dir=Path(params.preproc_dir),
        template=read_template(params.template),
        voxel_mm=params.voxel_mm,
        cache_dir=Path(params.work_dir, "template"),
    )
