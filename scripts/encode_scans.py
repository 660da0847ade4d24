"""Encode every usable scan with the trained autoencoder into latents.zarr."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.identity import Identity
    from brainscm.latents.encode import run
    from brainscm.scans import ScanTable

    source = snakemake.input
    scans = ScanTable.read(source.scans, source.qc)
    run(scans, Identity.model_validate(snakemake.params.identity), Path(source.model), Path(snakemake.output.latents))
