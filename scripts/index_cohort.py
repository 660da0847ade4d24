"""Index the BIDS folder: scans.tsv (what is analysed), excluded.tsv (what is not, and why) and notes.tsv."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.cohort.split_record import FILE, SplitRecord
    from brainscm.config import Config
    from brainscm.scm.precheck import index_study
    from brainscm.tables import write_table

    # Of the config only `cohort`, `seed` and `bundle` are parameters of the rule: a study that adds a node or a query
    # keeps its index, and so its model.
    config = Config.model_validate(snakemake.config)
    record = SplitRecord(Path(snakemake.output.scans).with_name(FILE), config.cohort, config.seed)
    cohort = index_study(config, Path(snakemake.params.bids_dir), record.read())
    if cohort.drawn:
        record.write(cohort.drawn)
    for name in ("scans", "excluded", "notes"):
        write_table(getattr(cohort, name), snakemake.output[name])
