"""Index the BIDS folder: scans.tsv (what is analysed) and excluded.tsv (what is not, and why)."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.cohort.index import index_cohort
    from brainscm.config import AtlasOptions, CohortOptions, QueryOptions, ScmOptions
    from brainscm.regions import MEASURED, atlas_regions
    from brainscm.scm.covariates import check_values
    from brainscm.scm.precheck import check_designs
    from brainscm.tables import write_table

    params, output = snakemake.params, snakemake.output
    # The graph is not a parameter of the rule: a study that adds a node or a query keeps its index, and so its model.
    scm = ScmOptions.model_validate(snakemake.config["scm"])
    queries = [QueryOptions.model_validate(query) for query in snakemake.config["counterfactuals"]]
    columns = [options.column or node for node, options in scm.nodes.items()]
    atlas = snakemake.config["preprocess"]["atlas"]
    regions = atlas_regions(AtlasOptions.model_validate(atlas)).values() if atlas else ()
    scans, excluded = index_cohort(
        Path(params.bids_dir),
        CohortOptions.model_validate(params.options),
        columns,
        params.seed,
        measured=MEASURED.union(regions),
    )
    # An unknown level in a query, or covariates that tell the same thing, are found here, in the first seconds, not
    # after a night of preprocessing.
    check_values(scm, queries, scans)
    check_designs(scm, scans)
    write_table(scans, output.scans)
    write_table(excluded, output.excluded)
