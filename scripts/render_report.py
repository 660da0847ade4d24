"""Write the report: a page for each stage and each scan, complete in themselves."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.encoding.model import load_encoder
    from brainscm.latents.store import LatentStore
    from brainscm.preprocess.template import load_template
    from brainscm.report.gallery import Gallery
    from brainscm.report.render import render_report
    from brainscm.report.study import Study

    tables = (
        "scans", "excluded", "qc", "history", "card", "reconstruction", "nodes", "tests", "diagnostics",
        "regional_effects", "manifest", "summary", "metrics", "regional_slopes", "minimality", "realism",
    )  # fmt: skip
    source = snakemake.input
    config = Config.model_validate(snakemake.params.config)
    results = Path(snakemake.params.output_dir)
    study = Study.read(results, config, {name: Path(source[name]) for name in tables})
    store = LatentStore.open(source.latents)
    gallery = Gallery(
        study,
        load_template(config.template, config.preprocess.voxel_mm),
        load_encoder(Path(source.model)),
        store.latents,
        list(store.scans),
    )
    render_report(study, gallery, Path(snakemake.output.index).parent, snakemake.threads)
