"""Fit what BrainSCM's own counterfactuals are compared with, and calibrate the intervals of the evaluation."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.evaluation.opening import open_inputs
    from brainscm.evaluation.stage import fit_peers
    from brainscm.files import whole

    inputs = open_inputs(snakemake.input, snakemake.params)
    peers = fit_peers(inputs)
    with whole(Path(snakemake.output.peers)) as folder:
        folder.mkdir()
        if peers is not None:
            peers.write(folder, inputs)
