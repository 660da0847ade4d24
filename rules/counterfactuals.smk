"""The counterfactual of each asked scan, a job for each question of the study (or table), and their manifest."""


# Once for all questions, which are added and changed after it.
rule calibrate_intervals:
    input:
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        latents=rules.encode_scans.output.latents,
    output:
        intervals=f"{RESULTS}/{INTERVALS}",
    log:
        f"{RESULTS}/logs/calibrate_intervals.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate_intervals.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        scm=config["scm"],
        template=config["template"],
        voxel_mm=config["preprocess"]["voxel_mm"],
        code=lambda wildcards: code_fingerprint("calibrate_intervals"),
    message:
        "Calibrating the intervals of regional changes"
    script:
        "../scripts/calibrate_intervals.py"


rule synthesize_counterfactuals:
    input:
        **CAUSAL_MODEL,
        intervals=f"{FITTED}/{INTERVALS}",
        scans=f"{RESULTS}/cohort/scans.tsv",
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=MODEL,
        latents=rules.encode_scans.output.latents,
    output:
        # Not the volumes: Snakemake would remove them before a job that only adds a scan to a question.
        manifest=f"{RESULTS}/counterfactuals/questions/{{question}}.tsv",
        regions=f"{RESULTS}/counterfactuals/regions/{{question}}.tsv",
    log:
        f"{RESULTS}/logs/synthesize_counterfactuals/{{question}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/synthesize_counterfactuals/{{question}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        counterfactuals_dir=subpath(output.manifest, ancestor=2),
        scm=config["scm"],
        queries=lambda wildcards: as_parameters(get_queries(wildcards)),
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("synthesize_counterfactuals"),
    message:
        "Synthesizing the counterfactuals of {wildcards.question}"
    script:
        "../scripts/synthesize_counterfactuals.py"


rule collect_counterfactuals:
    input:
        # Not read. When the index was made anew and is as before, Snakemake finds out by it that nothing is to be done.
        scans=ancient(get_index),
        latents=rules.encode_scans.output.latents,
        parts=expand(rules.synthesize_counterfactuals.output.manifest, question=QUESTIONS),
        regions=expand(rules.synthesize_counterfactuals.output.regions, question=QUESTIONS),
    output:
        manifest=f"{RESULTS}/counterfactuals/manifest.tsv",
        regions=f"{RESULTS}/counterfactuals/regions.tsv",
    log:
        f"{RESULTS}/logs/collect_counterfactuals.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_counterfactuals.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        nodes=list(config["scm"]["nodes"]),
        code=lambda wildcards: code_fingerprint("collect_counterfactuals"),
    message:
        "Collecting the manifests of all questions"
    script:
        "../scripts/collect_counterfactuals.py"


rule counterfactuals:
    input:
        rules.collect_counterfactuals.output,


# It has no output that Snakemake knows (a benchmark file is one, too), so that it tells whenever it is asked. Of later
# stages it reads what is there.
rule counterfactual_plan:
    input:
        scans=f"{RESULTS}/cohort/scans.tsv",
    log:
        f"{RESULTS}/logs/counterfactual_plan.log",
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        output_dir=subpath(input.scans, ancestor=2),
        scm_dir=f"{FITTED}/scm",
        scm=config["scm"],
        queries=as_parameters(QUERIES),
        source=source_of(CONFIG.counterfactuals),
        code=lambda wildcards: code_fingerprint("counterfactual_plan"),
    message:
        "Planning the counterfactuals"
    script:
        "../scripts/counterfactual_plan.py"
