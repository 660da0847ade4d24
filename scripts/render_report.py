"""Write the report: a page for each stage and each scan, complete in themselves."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.preprocess.template import load_template
    from brainscm.report.gallery import Gallery
    from brainscm.report.render import render_report
    from brainscm.report.study import Study

    config = Config.model_validate(snakemake.params.config)
    study = Study.read(Path(snakemake.params.output_dir), config)
    template = load_template(config.template, config.preprocess.voxel_mm)
    render_report(study, Gallery(study, template), Path(snakemake.output.pages), snakemake.threads)
