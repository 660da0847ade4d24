"""The counterfactual of each asked scan, a job for each question of the study (or table) and shard of the cohort, and
their manifest."""


# Once for all questions, which are added and changed after it.
rule calibrate_intervals:
    input:
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        latents=rules.collect_latents.output.latents,
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
        # Read, but what they say of the scans of other shards changes nothing here.
        scans=ancient(get_index),
        qc=ancient(f"{RESULTS}/preproc/qc.tsv"),
        latents=ancient(rules.collect_latents.output.latents),
        model=MODEL,
        own_latents=get_own_latents,
    output:
        # Not the volumes: Snakemake would remove them before a job that only adds a scan to a question.
        manifest=f"{RESULTS}/counterfactuals/questions/{{question}}/{{shard}}-of-{{shards}}.tsv",
        regions=f"{RESULTS}/counterfactuals/regions/{{question}}/{{shard}}-of-{{shards}}.tsv",
    log:
        f"{RESULTS}/logs/synthesize_counterfactuals/{{question}}/{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/synthesize_counterfactuals/{{question}}/{{shard}}-of-{{shards}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        counterfactuals_dir=subpath(output.manifest, ancestor=3),
        scm=config["scm"],
        new_levels=config["new_levels"],
        queries=lambda wildcards: as_parameters(get_queries(wildcards)),
        seed=config["seed"],
        volumes=config["volumes"],
        index=lambda wildcards: told_of_shard(get_shard(wildcards)),
        quality=config["quality"],
        code=lambda wildcards: code_fingerprint("synthesize_counterfactuals"),
    message:
        "Synthesizing shard {wildcards.shard} of {wildcards.shards} of {wildcards.question}"
    script:
        "../scripts/synthesize_counterfactuals.py"


# Of the questions that ask for them: the maps are means over the participants of all shards.
rule average_question:
    input:
        **CAUSAL_MODEL,
        scans=ancient(get_index),
        qc=f"{RESULTS}/preproc/qc.tsv",
        parts=lambda wildcards: manifest_parts([wildcards.question]),
    output:
        maps=f"{RESULTS}/counterfactuals/group/{{question}}.tsv",
    log:
        f"{RESULTS}/logs/average_question/{{question}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/average_question/{{question}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        counterfactuals_dir=subpath(output.maps, ancestor=2),
        queries=lambda wildcards: as_parameters(get_queries(wildcards)),
        code=lambda wildcards: code_fingerprint("average_question"),
    message:
        "Averaging the differences of {wildcards.question} over participants"
    script:
        "../scripts/average_question.py"


rule collect_counterfactuals:
    input:
        scans=ancient(get_index),
        latents=rules.collect_latents.output.latents,
        parts=get_manifest_parts,
        groups=[
            f"{RESULTS}/counterfactuals/group/{question}.tsv"
            for question, queries in QUESTIONS.items()
            if any(query.group for query in queries)
        ],
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
        queries=[query.name for queries in QUESTIONS.values() for query in queries],
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
        new_levels=config["new_levels"],
        queries=as_parameters(QUERIES),
        source=source_of(CONFIG.counterfactuals),
        code=lambda wildcards: code_fingerprint("counterfactual_plan"),
    message:
        "Planning the counterfactuals"
    script:
        "../scripts/counterfactual_plan.py"
