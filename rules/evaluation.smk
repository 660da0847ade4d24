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


# What the three rules below read alike. Nothing of it is of a single scan.
EVALUATED = {
    "scans": get_scans_to_fit,
    "qc": f"{RESULTS}/preproc/qc.tsv",
    "model": rules.train_autoencoder.output.model,
    "reconstruction": rules.train_autoencoder.output.reconstruction,
    "covariates": rules.fit_scm.output.covariates,
    "node_models": rules.fit_scm.output.node_models,
    "image_model": rules.fit_scm.output.image_model,
    "answers": get_true_answers,
}
EVALUATION = {
    "bids_dir": BIDS,
    "template": config["template"],
    "voxel_mm": config["preprocess"]["voxel_mm"],
    "scm": config["scm"],
    "queries": as_parameters(evaluated_queries(QUERIES)),
    "components": config["autoencoder"]["components"],
}


rule fit_peers:
    input:
        **EVALUATED,
        latents=rules.collect_latents.output.latents,
        manifest=ancient(rules.collect_counterfactuals.output.manifest),
    output:
        peers=directory(f"{RESULTS}/evaluation/peers"),
    log:
        f"{RESULTS}/logs/fit_peers.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_peers.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        # The voxelwise peers have as many numbers a scan as a latent of 64 channels (fit_scm).
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        **EVALUATION,
        scm_dir=subpath(input.image_model, parent=True),
        code=lambda wildcards: code_fingerprint("fit_peers"),
    message:
        "Fitting the methods that counterfactuals are compared with"
    script:
        "../scripts/fit_peers.py"


rule score_counterfactuals:
    input:
        **EVALUATED,
        peers=rules.fit_peers.output.peers,
        # Read, but what they say of the scans of other shards changes nothing here.
        latents=ancient(rules.collect_latents.output.latents),
        manifest=ancient(rules.collect_counterfactuals.output.manifest),
        own_latents=get_own_latents,
        own_answers=get_own_answers,
    output:
        scores=directory(f"{RESULTS}/evaluation/shards/{{shard}}-of-{{shards}}"),
    log:
        f"{RESULTS}/logs/score_counterfactuals/{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_counterfactuals/{{shard}}-of-{{shards}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: (8000 if config["preprocess"]["voxel_mm"] >= 1.5 else 16000) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        **EVALUATION,
        scm_dir=subpath(input.image_model, parent=True),
        code=lambda wildcards: code_fingerprint("score_counterfactuals"),
    message:
        "Scoring shard {wildcards.shard} of {wildcards.shards} of the test scans"
    script:
        "../scripts/score_counterfactuals.py"


rule evaluate_counterfactuals:
    input:
        **EVALUATED,
        latents=rules.collect_latents.output.latents,
        manifest=rules.collect_counterfactuals.output.manifest,
        regions=rules.collect_counterfactuals.output.regions,
        scores=get_scored_shards,
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
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        **EVALUATION,
        scm_dir=subpath(input.image_model, parent=True),
        seed=config["seed"],
        code=lambda wildcards: code_fingerprint("evaluate_counterfactuals"),
    message:
        "Evaluating counterfactuals"
    script:
        "../scripts/evaluate_counterfactuals.py"


rule evaluation:
    input:
        rules.evaluate_counterfactuals.output,
