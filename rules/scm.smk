"""The structural causal model: the graph of the config, fitted on the training split only."""


rule fit_scm:
    input:
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        latents=rules.collect_latents.output.latents,
    output:
        covariates=f"{RESULTS}/scm/covariates.tsv",
        image_model=f"{RESULTS}/scm/image_model.npz",
        nodes=f"{RESULTS}/scm/nodes.tsv",
        node_models=f"{RESULTS}/scm/node_models.npz",
        tests=f"{RESULTS}/scm/tests.tsv",
        implications=f"{RESULTS}/scm/implications.tsv",
        formulas=f"{RESULTS}/scm/formulas.tsv",
        designs=directory(f"{RESULTS}/scm/designs"),
        residuals=f"{RESULTS}/scm/residuals.tsv",
        diagnostics=f"{RESULTS}/scm/diagnostics.tsv",
        people=f"{RESULTS}/scm/people.tsv",
        regional_effects=f"{RESULTS}/scm/regional_effects.tsv",
        effects=directory(f"{RESULTS}/scm/effects"),
    log:
        f"{RESULTS}/logs/fit_scm.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_scm.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        # 9.4 GB were measured at 1 mm with latents of 64 channels.
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        scm_dir=subpath(output.image_model, parent=True),
        options=config["scm"],
        template=config["template"],
        voxel_mm=config["preprocess"]["voxel_mm"],
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("fit_scm"),
    message:
        "Fitting the structural causal model"
    script:
        "../scripts/fit_scm.py"


rule map_contrasts:
    input:
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=rules.train_autoencoder.output.model,
        latents=rules.collect_latents.output.latents,
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
    output:
        maps=directory(f"{RESULTS}/scm/maps"),
    log:
        f"{RESULTS}/logs/map_contrasts.log",
    benchmark:
        f"{RESULTS}/benchmarks/map_contrasts.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        scm_dir=subpath(output.maps, parent=True),
        options=config["scm"],
        template=config["template"],
        voxel_mm=config["preprocess"]["voxel_mm"],
        code=lambda wildcards: code_fingerprint("map_contrasts"),
    message:
        "Mapping the contrasts voxel by voxel"
    script:
        "../scripts/map_contrasts.py"


# Asked for by itself: a default run does without it.
rule refute_effects:
    input:
        scans=get_scans_to_fit,
        qc=f"{RESULTS}/preproc/qc.tsv",
        covariates=rules.fit_scm.output.covariates,
        node_models=rules.fit_scm.output.node_models,
        image_model=rules.fit_scm.output.image_model,
        regional_effects=rules.fit_scm.output.regional_effects,
    output:
        refutation=f"{RESULTS}/{REFUTATION}",
    log:
        f"{RESULTS}/logs/refute_effects.log",
    benchmark:
        f"{RESULTS}/benchmarks/refute_effects.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        scm_dir=subpath(input.image_model, parent=True),
        options=config["scm"],
        queries=as_parameters(QUERIES),
        code=lambda wildcards: code_fingerprint("refute_effects"),
    message:
        "Refuting the regional effects"
    script:
        "../scripts/refute_effects.py"


rule refute:
    input:
        rules.refute_effects.output,


rule scm:
    input:
        rules.fit_scm.output,
        rules.map_contrasts.output,
