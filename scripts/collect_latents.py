"""Gather the latents of all shards into latents.zarr."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.latents.collect import collect
    from brainscm.scans import ScanTable

    source = snakemake.input
    usable = ScanTable.read(source.scans, source.qc).usable["scan"].tolist()
    collect([Path(shard) for shard in source.shards], usable, Path(snakemake.output.latents))
