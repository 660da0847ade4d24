"""Fit the SCM on the training scans' latents: model, tables of nodes, tests, regions and diagnostics, effect maps."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import ScmOptions, read_template
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scm.stage import run

    source, params = snakemake.input, snakemake.params
    template = load_template(read_template(params.template), params.voxel_mm)
    run(
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type),
        options=ScmOptions.model_validate(params.options),
        measure=MeasureTissues(template),
        brain_mask=template.brain_mask,
        seed=params.seed,
        folder=Path(params.scm_dir),
    )
