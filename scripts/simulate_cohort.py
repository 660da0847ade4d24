"""Simulate the demo cohort: raw whole heads whose causal model is known."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import SimulationOptions
    from brainscm.simulation.cohort import simulate_cohort

    params = snakemake.params
    simulate_cohort(
        output_dir=Path(params.bids_dir),
        options=SimulationOptions.model_validate(params.options),
        seed=params.seed,
        workers=snakemake.threads,
    )
