"""Encode every usable scan with the trained autoencoder into latents.zarr."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.bundle import Bundle
    from brainscm.identity import Identity
    from brainscm.latents.encode import run
    from brainscm.scans import ScanTable

    source, params = snakemake.input, snakemake.params
    if params.bundle:
        Bundle.open(Path(params.bundle)).verify()
    scans = ScanTable.read(source.scans, source.qc)
    run(scans, Identity.model_validate(params.identity), Path(source.model), Path(snakemake.output.latents))
