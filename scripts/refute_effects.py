"""Refute the regional effects: placebo causes, exchanged volumes, parts of the participants, an unmeasured cause."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QueryOptions, ScmOptions
    from brainscm.regions import REGIONS
    from brainscm.scans import ScanTable
    from brainscm.scm.model import load_scm
    from brainscm.scm.refutation import refute
    from brainscm.tables import read_table, write_table

    source, params = snakemake.input, snakemake.params
    found = refute(
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.options)),
        table=ScanTable.read(source.scans, source.qc).rows,
        effects=read_table(source.regional_effects),
        regions=[region.name for region in REGIONS],
        queries=[QueryOptions.model_validate(query) for query in params.queries],
    )
    write_table(found, snakemake.output.refutation)
