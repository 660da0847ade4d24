"""Train the autoencoder on the training split: model, card, history, reconstruction of every scan, picture."""

import json
import shutil
from pathlib import Path

from brainscm.job import job

with job(snakemake) as log:
    from pydantic import TypeAdapter

    from brainscm.config import AutoencoderOptions, CustomTemplate
    from brainscm.encoding.model import save_encoder
    from brainscm.identity import Identity
    from brainscm.parallel import choose_device
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.tissues import SegmentRegions
    from brainscm.scans import usable_scans
    from brainscm.tables import write_table
    from brainscm.training.card import make_card
    from brainscm.training.fit import fit_autoencoder
    from brainscm.training.launch import launch
    from brainscm.training.reconstruction import reconstruction_table

    input, params, output, resources = snakemake.input, snakemake.params, snakemake.output, snakemake.resources
    options = AutoencoderOptions.model_validate(params.options)
    identity = Identity.model_validate(params.identity)
    scans = usable_scans(Path(input.scans), Path(input.qc), Path(params.preproc_dir))
    task = scans, params.preprocessing, options, params.seed, Path(params.work_dir)
    gpus, mpi = int(resources.get("gpu", 0)), resources.get("mpi")
    if options.kind == "vqvae" and (gpus > 1 or mpi):
        launch(*task, gpus, mpi)
    fitted = fit_autoencoder(*task)
    device = choose_device(options.device)
    chosen = TypeAdapter(str | CustomTemplate).validate_python(params.preprocessing["template"])
    template = load_template(chosen, params.preprocessing["options"]["voxel_mm"])
    reconstruction = reconstruction_table(
        fitted.model.to(device),
        scans,
        fitted.grid,
        device,
        segment=SegmentRegions(template),
    )
    save_encoder(fitted.model, identity, Path(output.model))
    card = make_card(fitted, Path(output.model), params.preprocessing, options, params.seed, reconstruction)
    Path(output.card).write_text(json.dumps(card, indent=2) + "\n")
    write_table(fitted.history, output.history)
    write_table(reconstruction, output.reconstruction)
    shutil.copyfile(fitted.picture, output.progress)
    test = card["metrics"].get("test", card["metrics"]["validation"])
    log.info("held-out scans: %.2f dB, SSIM %.4f in the brain", test["psnr_brain_db"], test["ssim_brain"])
