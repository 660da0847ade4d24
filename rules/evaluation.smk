"""How right the counterfactuals are, against the truth where it exists and against simpler methods."""


rule simulate_truth:
    input:
        description=f"{WORK}/simulation/bids/dataset_description.json",
        scans=f"{RESULTS}/cohort/scans.tsv",
    output:
        answers=f"{WORK}/simulation/bids/derivatives/truth/counterfactuals.tsv",
    log:
        f"{RESULTS}/logs/simulate_truth.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulate_truth.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        bids_dir=subpath(input.description, parent=True),
        queries=as_parameters(evaluated_queries(QUERIES)),
        code=lambda wildcards: code_fingerprint("simulate_truth"),
    message:
        "Simulating the true counterfactuals of the test scans"
    script:
        "../scripts/simulate_truth.py"


rule evaluate_counterfactuals:
    input:
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        reconstruction=rules.train_autoencoder.output.reconstruction,
        latents=rules.collect_latents.output.latents,
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
        manifest=rules.collect_counterfactuals.output.manifest,
        regions=rules.collect_counterfactuals.output.regions,
        answers=get_true_answers,
    output:
        summary=report(
            f"{RESULTS}/evaluation/summary.json", category="Evaluation", caption="../report/captions/evaluation.rst"
        ),
        metrics=f"{RESULTS}/evaluation/metrics.tsv",
        regional_slopes=f"{RESULTS}/evaluation/regional_slopes.tsv",
        minimality=f"{RESULTS}/evaluation/minimality.tsv",
        realism=f"{RESULTS}/evaluation/realism.tsv",
    log:
        f"{RESULTS}/logs/evaluate_counterfactuals.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_counterfactuals.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        # The voxelwise peers have as many numbers a scan as a latent of 64 channels (fit_scm).
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        bids_dir=BIDS,
        scm_dir=subpath(input.image_model, parent=True),
        template=config["template"],
        preprocess=config["preprocess"],
        scm=config["scm"],
        queries=as_parameters(evaluated_queries(QUERIES)),
        components=config["autoencoder"]["components"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("evaluate_counterfactuals"),
    message:
        "Evaluating counterfactuals"
    script:
        "../scripts/evaluate_counterfactuals.py"


rule evaluation:
    input:
        rules.evaluate_counterfactuals.output,
