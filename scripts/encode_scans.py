"""Encode every usable scan with the trained autoencoder into latents.zarr."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.encoding.model import load_encoder
    from brainscm.identity import Identity
    from brainscm.images import Grid
    from brainscm.latents.encode import encode_scans
    from brainscm.parallel import choose_device
    from brainscm.scans import usable_scans
    from brainscm.training.card import check_card

    input, params = snakemake.input, snakemake.params
    scans = usable_scans(Path(input.scans), Path(input.qc), Path(params.preproc_dir))
    grid = Grid.of(scans["image"].iloc[0])
    card = check_card(Path(input.card), Path(input.model), params.preprocessing, grid)
    device = choose_device("auto")
    model = load_encoder(Path(input.model), device.type)
    identity = Identity.model_validate(params.identity).encoded_by(card["model_sha256"])
    encode_scans(scans, model, grid, Path(snakemake.output.latents), identity, device)
