"""Learn how wide the intervals of regional changes have to be, on participants who are not tested."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import ScmOptions, read_template
    from brainscm.evaluation.interval_factors import learn_factors
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scm.model import load_scm

    source, params = snakemake.input, snakemake.params
    factors = learn_factors(
        scm=load_scm(Path(params.scm_dir), ScmOptions.model_validate(params.scm)),
        encoded=EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type),
        measure=MeasureTissues(load_template(read_template(params.template), params.voxel_mm)),
    )
    factors.write(Path(snakemake.output.intervals))
