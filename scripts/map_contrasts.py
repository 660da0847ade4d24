"""Map the contrasts voxel by voxel: estimates, errors and tests of the scans' own maps, as NIfTI in template space."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import ScmOptions, read_template
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.scm.contrast_maps import run
    from brainscm.scm.model import load_scm

    source, params = snakemake.input, snakemake.params
    encoded = EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type)
    run(
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.options)),
        store=encoded.store,
        encoder=encoded.encoder,
        template=load_template(read_template(params.template), params.voxel_mm),
        folder=Path(snakemake.output.maps),
    )
