"""Write the bundle: the fitted study in one folder, to be put to new scans, without its participants."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import Config
    from brainscm.counterfactuals.origin import causal_model_hash
    from brainscm.latents.encoded import EncodedScans
    from brainscm.scm.bundling import write_bundle
    from brainscm.scm.model import load_scm

    source, params = snakemake.input, snakemake.params
    config, scm_dir = Config.model_validate(params.config), Path(params.scm_dir)
    write_bundle(
        config=config,
        results=Path(params.output_dir),
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model),
        scm=load_scm(scm_dir, config.scm),
        causal_model=causal_model_hash(scm_dir),
        making=params.making,
        data=Path(params.bids_dir),
        folder=Path(snakemake.output.bundle),
    )
