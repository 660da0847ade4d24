"""Average what a question does over the participants of all shards: maps of the mean and its standard error."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config, QueryOptions
    from brainscm.counterfactuals.group import average
    from brainscm.counterfactuals.origin import origin_of
    from brainscm.identity import Identity
    from brainscm.scans import ScanTable
    from brainscm.tables import write_table

    source, params = snakemake.input, snakemake.params
    config = Config.model_validate(snakemake.config)
    averaged = average(
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        parts=[Path(part) for part in source.parts],
        scans=ScanTable.read(source.scans, source.qc),
        out_dir=Path(params.counterfactuals_dir),
        space=Identity.of(config).space,
        origin=origin_of(config, Path(params.scm_dir), params.code),
    )
    write_table(averaged, snakemake.output.maps)
