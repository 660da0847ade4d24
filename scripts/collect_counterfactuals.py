"""Gather the manifests of all questions and shards into one, and remove the volumes that no question asks for."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.counterfactuals.collect import collect
    from brainscm.latents.store import LatentStore
    from brainscm.tables import read_table

    source, params = snakemake.input, snakemake.params
    collect(
        parts=[Path(part) for part in source.parts],
        scans=read_table(source.scans)["scan"].tolist(),
        queries=params.queries,
        nodes=params.nodes,
        identity=LatentStore.open(source.latents).identity,
        out_dir=Path(snakemake.output.manifest).parent,
        groups=[Path(table) for table in source.groups],
    )
