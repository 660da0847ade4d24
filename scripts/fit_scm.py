"""Fit the SCM on the training scans' latents: model, tables of nodes, tests, regions and diagnostics, effect maps."""

from pathlib import Path

from brainscm.job import job

with job(snakemake) as logger:
    import pandas as pd
    import torch
    from pydantic import TypeAdapter

    from brainscm.config import CustomTemplate, ScmOptions
    from brainscm.encoding.model import load_encoder
    from brainscm.images import Grid
    from brainscm.latents.store import LatentStore
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import SegmentRegions
    from brainscm.regions import REGIONS
    from brainscm.scm.covariates import covariate_table
    from brainscm.scm.diagnostics import diagnose, held_out
    from brainscm.scm.effects import write_effect_maps
    from brainscm.scm.inference import contrast_tests
    from brainscm.scm.model import Scm
    from brainscm.scm.regions import measured_effects
    from brainscm.tables import write_table

    source, output, params = snakemake.input, snakemake.output, snakemake.params
    store = LatentStore.open(source.latents)
    scans = list(store.scans)
    table = covariate_table(source.scans, source.qc).set_index("scan", drop=False).loc[scans].reset_index(drop=True)

    torch.set_num_threads(snakemake.threads)
    device = choose_device("auto")
    options, parts = ScmOptions.model_validate(params.options), store.layout.parts
    scm = Scm.fit(table, store.latents, options, params.seed, parts, store.layout.mirror, device)
    scm.save(Path(output.covariates).parent)
    logger.info("fitted on %d training scans", len(scm.training))

    rows = [scans.index(scan) for scan in scm.training["scan"]]
    write_table(contrast_tests(scm, store.latents, rows, device), output.tests)
    diagnosed = diagnose(scm, offered=int((table["split"] == "train").sum()))
    write_table(pd.concat([diagnosed, held_out(scm, table, store.latents, device)]), output.diagnostics)

    autoencoder = load_encoder(Path(source.model), device.type)
    grid = Grid.of(Path(params.preproc_dir, table["preproc_t1w"].iloc[0]))
    chosen = TypeAdapter(str | CustomTemplate).validate_python(params.template)
    template = load_template(chosen, params.preprocess["voxel_mm"])
    measure = SegmentRegions(template)
    decoded = write_effect_maps(
        scm,
        autoencoder,
        grid,
        Path(output.effects),
        # In template space, as the mean brain is: no head size to divide by.
        measure=lambda volume: measure(volume, template.brain_mask),
    )
    write_table(
        pd.concat([measured_effects(scm, table, [region.name for region in REGIONS]), decoded]), output.regional_effects
    )
