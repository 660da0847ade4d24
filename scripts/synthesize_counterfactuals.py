"""Answer the queries of a question for a shard: volumes, differences, uncertainty, side-cars, part of the manifest."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.bundle import Bundle
    from brainscm.config import Config, QueryOptions, ScmOptions
    from brainscm.counterfactuals.intervals import IntervalFactors
    from brainscm.counterfactuals.origin import origin_of
    from brainscm.counterfactuals.synthesis import synthesize
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scm.new_levels import estimated_levels, with_new_levels
    from brainscm.scm.portable import load_fitted
    from brainscm.shards import Shard
    from brainscm.tables import write_table

    source, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    scm_dir, config = Path(params.scm_dir), Config.model_validate(snakemake.config)
    if config.bundle:
        Bundle.open(config.bundle).verify()
    template = load_template(config.template, config.preprocess.voxel_mm, config.work_dir / "template")
    encoded = EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type)
    fitted = load_fitted(scm_dir, ScmOptions.model_validate(params.scm))
    scm = with_new_levels(fitted, encoded.scans.usable, config.new_levels, encoded.store)
    made = synthesize(
        scm=scm,
        encoded=encoded,
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        measure=MeasureTissues(template),
        factors=IntervalFactors.read(Path(source.intervals)),
        out_dir=Path(params.counterfactuals_dir),
        origin=origin_of(config, scm_dir, params.code) | estimated_levels(scm),
        derivatives=config.derivatives,
        shard=Shard(int(wildcards.shard), int(wildcards.shards)),
    )
    write_table(made.regions, snakemake.output.regions)
    write_table(made.manifest, snakemake.output.manifest)
