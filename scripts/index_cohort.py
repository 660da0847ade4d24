"""Index the BIDS folder: scans.tsv (what is analysed) and excluded.tsv (what is not, and why)."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.cohort.index import index_cohort
    from brainscm.config import Config
    from brainscm.regions import measured_names
    from brainscm.scm.covariates import check_values
    from brainscm.scm.precheck import check_designs
    from brainscm.tables import write_table

    params, output = snakemake.params, snakemake.output
    # Of the config only `cohort` and `seed` are parameters of the rule: a study that adds a node or a query keeps its
    # index, and so its model.
    config = Config.model_validate(snakemake.config)
    columns = [options.column or node for node, options in config.scm.nodes.items()]
    measured = measured_names(config.preprocess.atlas)
    scans, excluded = index_cohort(Path(params.bids_dir), config.cohort, columns, config.seed, measured)
    # An unknown level in a query, or covariates that tell the same thing, are found here, in the first seconds, not
    # after a night of preprocessing.
    check_values(config.scm, config.counterfactuals, scans)
    check_designs(config.scm, scans)
    write_table(scans, output.scans)
    write_table(excluded, output.excluded)
