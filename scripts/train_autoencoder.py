"""Train the autoencoder on the training split: model, card, history, reconstruction of every scan, picture."""

from pathlib import Path

from brainscm.job import job

with job(snakemake):
    from brainscm.config import read_template
    from brainscm.training.stage import run
    from brainscm.training.task import TrainingTask

    source, params, resources = snakemake.input, snakemake.params, snakemake.resources
    task = TrainingTask(
        scans_tsv=source.scans,
        qc_tsv=source.qc,
        identity=params.identity,
        options=params.options,
        seed=params.seed,
        work_dir=params.work_dir,
    )
    template, out_dir = read_template(snakemake.config["template"]), Path(snakemake.output.model).parent
    run(task, template, out_dir, int(resources.get("gpu", 0)), resources.get("mpi"))
