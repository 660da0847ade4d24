"""The counterfactual of each asked scan for each query of the config."""


rule synthesize_counterfactuals:
    input:
        scans=f"{RESULTS}/cohort/scans.tsv",
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        latents=rules.encode_scans.output.latents,
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
    output:
        manifest=f"{RESULTS}/counterfactuals/manifest.tsv",
    log:
        f"{RESULTS}/logs/synthesize_counterfactuals.log",
    benchmark:
        f"{RESULTS}/benchmarks/synthesize_counterfactuals.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        counterfactuals_dir=subpath(output.manifest, parent=True),
        scm=config["scm"],
        queries=config["counterfactuals"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("synthesize_counterfactuals"),
    message:
        "Synthesizing counterfactuals"
    script:
        "../scripts/synthesize_counterfactuals.py"


rule counterfactuals:
    input:
        rules.synthesize_counterfactuals.output,
