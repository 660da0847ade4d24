"""Fit the SCM on the training scans' latents: model, tables of nodes, tests, regions and diagnostics, effect maps."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import torch

    from brainscm.config import ScmOptions, read_template
    from brainscm.encoding.model import encoder_identity, load_encoder
    from brainscm.latents.store import LatentStore
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scans import ScanTable
    from brainscm.scm.stage import run

    source, params = snakemake.input, snakemake.params
    torch.set_num_threads(snakemake.threads)
    device = choose_device("auto")
    store = LatentStore.open(source.latents)
    template = load_template(read_template(params.template), params.voxel_mm)
    run(
        scans=ScanTable.read(source.scans, source.qc),
        store=store,
        encoder=load_encoder(Path(source.model), device.type),
        encoder_identity=encoder_identity(Path(source.model)),
        options=ScmOptions.model_validate(params.options),
        measure=MeasureTissues(template),
        brain_mask=template.brain_mask,
        seed=params.seed,
        folder=Path(params.scm_dir),
        device=device,
    )
