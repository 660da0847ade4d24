"""Judge the counterfactuals against known answers, simpler methods, and the slopes across people."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    import json

    from pydantic import TypeAdapter

    from brainscm.config import CustomTemplate, QueryOptions, ScmOptions
    from brainscm.encoding.model import load_encoder
    from brainscm.evaluation.stage import Study, evaluate
    from brainscm.latents.store import LatentStore
    from brainscm.preprocess.itk import read_matrix
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import SegmentRegions
    from brainscm.regions import COMPARED
    from brainscm.scm.covariates import covariate_table
    from brainscm.scm.model import load_scm
    from brainscm.tables import read_table, write_table

    source, params = snakemake.input, snakemake.params
    store = LatentStore.open(source.latents)
    preproc_dir = Path(params.preproc_dir)
    chosen = TypeAdapter(str | CustomTemplate).validate_python(params.template)
    template = load_template(chosen, params.preprocess["voxel_mm"])
    study = Study(
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.scm)),
        autoencoder=load_encoder(Path(source.model)),
        table=covariate_table(source.scans, source.qc),
        latents=store.latents,
        latent_scans=list(store.scans),
        manifest=read_table(source.manifest),
        reconstruction=read_table(source.reconstruction),
        queries=[QueryOptions.model_validate(query) for query in params.queries],
        bids_dir=Path(params.bids_dir),
        preproc_dir=preproc_dir,
        counterfactuals_dir=Path(params.counterfactuals_dir),
        components=params.components,
        segment=SegmentRegions(template),
        regions=COMPARED,
        to_scan=lambda row: read_matrix(preproc_dir / row["to_template"]),
    )
    found = evaluate(study, params.seed, snakemake.threads)
    for name in ("metrics", "regional_slopes", "minimality", "realism"):
        write_table(getattr(found, name), snakemake.output[name])
    Path(snakemake.output.summary).write_text(json.dumps(found.summary, indent=2, allow_nan=False) + "\n")
