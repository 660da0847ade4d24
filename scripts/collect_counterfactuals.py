"""Gather the questions' manifests into one, and remove the volumes that no question asks for."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.counterfactuals.collect import collect
    from brainscm.latents.store import LatentStore

    source, params = snakemake.input, snakemake.params
    collect(
        parts=[Path(part) for part in source.parts],
        nodes=params.nodes,
        identity=LatentStore.open(source.latents).identity,
        out_dir=Path(snakemake.output.manifest).parent,
    )
