"""Answer the config's counterfactual queries: volumes, differences, uncertainty, side-cars and the manifest."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import torch

    from brainscm.config import QueryOptions, ScmOptions
    from brainscm.counterfactuals.synthesis import synthesize
    from brainscm.encoding.model import load_encoder
    from brainscm.latents.store import LatentStore
    from brainscm.parallel import choose_device
    from brainscm.scm.covariates import covariate_table
    from brainscm.scm.model import load_scm
    from brainscm.tables import write_table

    source, params = snakemake.input, snakemake.params
    torch.set_num_threads(snakemake.threads)
    store = LatentStore.open(source.latents)
    manifest = synthesize(
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.scm)),
        autoencoder=load_encoder(Path(source.model), choose_device("auto").type),
        table=covariate_table(source.scans, source.qc),
        latents=store.latents,
        latent_scans=list(store.scans),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        preproc_dir=Path(params.preproc_dir),
        out_dir=Path(params.counterfactuals_dir),
    )
    write_table(manifest, snakemake.output.manifest)
