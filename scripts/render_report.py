"""Write the report: a page for each stage, and the scan pages of all shards; they are complete in themselves."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.preprocess.template import load_template
    from brainscm.report.gallery import Gallery
    from brainscm.report.render import gather_scans, render_pages
    from brainscm.report.study import Study
    from brainscm.shards import remove_other_dealings

    config = Config.model_validate(snakemake.params.config)
    study = Study.read(Path(snakemake.params.output_dir), config)
    gallery = Gallery(study, load_template(config.template, config.preprocess.voxel_mm))
    folder, shards = Path(snakemake.output.pages), [Path(shard) for shard in snakemake.input.scans_of_shards]
    gather_scans(study, shards, folder)
    render_pages(study, gallery, folder)
    remove_other_dealings(shards)
