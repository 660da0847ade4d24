"""Index the BIDS folder: scans.tsv (what is analysed), excluded.tsv (what is not, and why) and notes.tsv."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.scm.precheck import index_study
    from brainscm.tables import write_table

    # Of the config only `cohort`, `seed` and `bundle` are parameters of the rule: a study that adds a node or a query
    # keeps its index, and so its model.
    cohort = index_study(Config.model_validate(snakemake.config), Path(snakemake.params.bids_dir))
    for name in ("scans", "excluded", "notes"):
        write_table(getattr(cohort, name), snakemake.output[name])
