"""Write the codes of every latent into codes.zarr."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.latents.archive import archive_codes
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device

    source = snakemake.input
    device = choose_device("auto").type
    encoded = EncodedScans.open(source.scans, source.qc, source.latents, source.model, device)
    archive_codes(encoded.store, encoded.encoder, encoded.scans.grid, Path(snakemake.output.codes))
