"""Encode the usable scans of a shard with the trained autoencoder into a store of their own."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.bundle import Bundle
    from brainscm.identity import Identity
    from brainscm.latents.encode import run
    from brainscm.scans import ScanTable
    from brainscm.shards import Shard

    source, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    if params.bundle:
        Bundle.open(Path(params.bundle)).verify()
    scans = ScanTable.read(source.scans, source.qc)
    shard = Shard(int(wildcards.shard), int(wildcards.shards))
    run(scans, Identity.model_validate(params.identity), Path(source.model), Path(snakemake.output.latents), shard)
