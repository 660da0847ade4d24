"""Answer the queries of one question: volumes, differences, uncertainty, side-cars, and its part of the manifest."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import torch

    from brainscm.config import Config, QueryOptions, ScmOptions
    from brainscm.counterfactuals.origin import origin_of
    from brainscm.counterfactuals.synthesis import synthesize
    from brainscm.encoding.model import encoder_identity, load_encoder
    from brainscm.latents.store import LatentStore
    from brainscm.parallel import choose_device
    from brainscm.scans import ScanTable
    from brainscm.scm.model import load_scm
    from brainscm.tables import write_table

    source, params = snakemake.input, snakemake.params
    torch.set_num_threads(snakemake.threads)
    store = LatentStore.open(source.latents)
    scm_dir = Path(params.scm_dir)
    manifest = synthesize(
        scm=load_scm(scm_dir, ScmOptions.model_validate(params.scm)),
        encoder=load_encoder(Path(source.model), choose_device("auto").type),
        encoder_identity=encoder_identity(Path(source.model)),
        scans=ScanTable.read(source.scans, source.qc),
        store=store,
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        out_dir=Path(params.counterfactuals_dir),
        origin=origin_of(Config.model_validate(snakemake.config), scm_dir, params.code),
    )
    write_table(manifest, snakemake.output.manifest)
