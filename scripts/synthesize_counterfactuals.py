"""Answer the queries of a question for a shard: volumes, differences, uncertainty, side-cars, part of the manifest."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.bundle import Bundle
    from brainscm.config import Config, QueryOptions, ScmOptions
    from brainscm.counterfactuals.stage import run
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.shards import Shard
    from brainscm.tables import write_table

    source, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    config = Config.model_validate(snakemake.config)
    if config.bundle:  # before anything of it is read
        Bundle.open(config.bundle).verify()
    made = run(
        config=config,
        scm_dir=Path(params.scm_dir),
        options=ScmOptions.model_validate(params.scm),
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        intervals=Path(source.intervals),
        out_dir=Path(params.counterfactuals_dir),
        code=params.code,
        shard=Shard(int(wildcards.shard), int(wildcards.shards)),
    )
    write_table(made.regions, snakemake.output.regions)
    write_table(made.manifest, snakemake.output.manifest)
