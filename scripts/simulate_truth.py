"""Simulate the true counterfactual of each query for the test scans of the simulated cohort."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import QueryOptions
    from brainscm.simulation.truth import simulate_truth
    from brainscm.tables import read_table

    source, params = snakemake.input, snakemake.params
    scans = read_table(source.scans)
    simulate_truth(
        bids_dir=Path(params.bids_dir),
        scans=set(scans.loc[scans["split"] == "test", "scan"]),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        workers=snakemake.threads,
    )
