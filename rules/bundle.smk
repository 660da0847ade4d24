"""A fitted study in one folder, to be put to new scans; and new scans put beside it."""


rule write_bundle:
    input:
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        card=rules.train_autoencoder.output.card,
        reconstruction=rules.train_autoencoder.output.reconstruction,
        latents=rules.collect_latents.output.latents,
        image_model=rules.fit_scm.output.image_model,
        scm=rules.fit_scm.output,
        intervals=rules.calibrate_intervals.output.intervals,
    output:
        bundle=directory(f"{RESULTS}/bundle"),
    log:
        f"{RESULTS}/logs/write_bundle.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_bundle.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        output_dir=subpath(output.bundle, parent=True),
        scm_dir=subpath(input.image_model, parent=True),
        bids_dir=BIDS,
        config={key: config[key] for key in FIXED},
        making=lambda wildcards: {rule: code_fingerprint(rule) for rule in MAKING},
        code=lambda wildcards: code_fingerprint("write_bundle"),
    message:
        "Writing the bundle of the fitted study"
    script:
        "../scripts/write_bundle.py"


rule bundle:
    input:
        rules.write_bundle.output,


rule assess_scans:
    input:
        **CAUSAL_MODEL,
        description=get_bundle,
        scans=f"{RESULTS}/cohort/scans.tsv",
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=MODEL,
        latents=rules.collect_latents.output.latents,
    output:
        support=f"{RESULTS}/support/scans.tsv",
        reconstruction=f"{RESULTS}/support/reconstruction.tsv",
        reconstructions=directory(f"{RESULTS}/support/reconstructions"),
    log:
        f"{RESULTS}/logs/assess_scans.log",
    benchmark:
        f"{RESULTS}/benchmarks/assess_scans.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        scm=config["scm"],
        new_levels=config["new_levels"],
        template=config["template"],
        voxel_mm=config["preprocess"]["voxel_mm"],
        code=lambda wildcards: code_fingerprint("assess_scans"),
    message:
        "Putting the scans beside those of the fitted study"
    script:
        "../scripts/assess_scans.py"
