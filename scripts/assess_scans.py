"""Put each new scan beside those of the fitted study: how it is reproduced, and what of it lies outside."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.bundle import REFERENCE
    from brainscm.config import ScmOptions, read_template
    from brainscm.latents.encoded import EncodedScans
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import MeasureTissues
    from brainscm.scm.new_levels import with_new_levels
    from brainscm.scm.new_scans import Reference, assess
    from brainscm.scm.portable import load_fitted
    from brainscm.tables import write_table
    from brainscm.training.reconstruction import reconstruction_table

    source, params, output = snakemake.input, snakemake.params, snakemake.output
    encoded = EncodedScans.open(source.scans, source.qc, source.latents, source.model, choose_device("auto").type)
    measure = MeasureTissues(load_template(read_template(params.template), params.voxel_mm))
    reconstruction = reconstruction_table(encoded.encoder, encoded.scans, measure, Path(output.reconstructions))
    write_table(reconstruction, output.reconstruction)
    fitted = load_fitted(Path(params.scm_dir), ScmOptions.model_validate(params.scm))
    scm = with_new_levels(fitted, encoded.scans.usable, params.new_levels, encoded.store)
    reference = Reference.read(Path(source.description).parent / REFERENCE)
    write_table(assess(scm, encoded, reconstruction, reference), output.support)
