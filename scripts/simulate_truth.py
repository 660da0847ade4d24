"""Simulate the true counterfactual of each query for the test scans of the simulated cohort."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.cohort.tables import read_table
    from brainscm.config import QueryOptions
    from brainscm.simulation.truth import simulate_truth

    source, params = snakemake.input, snakemake.params
    scans = read_table(source.scans)
    simulate_truth(
        bids_dir=Path(params.bids_dir),
        scans=set(scans.loc[scans["split"] == "test", "scan"]),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        workers=snakemake.threads,
    )
