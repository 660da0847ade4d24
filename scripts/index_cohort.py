"""Index the BIDS folder: scans.tsv (what is analysed), excluded.tsv (what is not, and why) and notes.tsv."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import pandas as pd

    from brainscm.bundle import Bundle
    from brainscm.cohort.index import index_cohort
    from brainscm.config import Config
    from brainscm.regions import measured_names
    from brainscm.scm.learnt import Learnt
    from brainscm.scm.precheck import check_cohort, check_new_cohort
    from brainscm.tables import write_table

    params, output = snakemake.params, snakemake.output
    # Of the config only `cohort` and `seed` are parameters of the rule: a study that adds a node or a query keeps its
    # index, and so its model.
    config = Config.model_validate(snakemake.config)
    nodes = {options.column or node: options.levels for node, options in config.scm.nodes.items()}
    fitted = None
    if config.bundle:
        Bundle.open(config.bundle).verify()
        fitted = Learnt.read(config.bundle / "scm").covariates
        nodes = {column: fitted.levels[node] for node, column in fitted.columns.items()}
    levels = {column: named for column, named in nodes.items() if named}
    measured = measured_names(config.preprocess.atlas)
    cohort = index_cohort(
        Path(params.bids_dir), config.cohort, list(nodes), config.seed, measured, levels, are_new=fitted is not None
    )
    notes = cohort.notes
    if fitted is None:
        check_cohort(config, cohort.scans)
    else:
        unseen = pd.DataFrame(check_new_cohort(config, fitted, cohort.scans), columns=list(notes))
        notes = pd.concat([notes, unseen])
    for name, table in {"scans": cohort.scans, "excluded": cohort.excluded, "notes": notes}.items():
        write_table(table, output[name])
