"""Write the pages of a shard's scans, and the volumes that they load."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.files import whole
    from brainscm.preprocess.template import load_template
    from brainscm.report.gallery import Gallery
    from brainscm.report.render import render_scans
    from brainscm.report.study import Study
    from brainscm.shards import Shard

    params, wildcards = snakemake.params, snakemake.wildcards
    config = Config.model_validate(params.config)
    study = Study.read(Path(params.output_dir), config)
    gallery = Gallery(study, load_template(config.template, config.preprocess.voxel_mm))
    with whole(Path(snakemake.output.pages)) as folder:
        folder.mkdir()
        render_scans(study, gallery, folder, snakemake.threads, Shard(int(wildcards.shard), int(wildcards.shards)))
