"""Every usable scan's latent: encoded a shard of the cohort a job, and gathered into one zarr store."""


rule encode_scans:
    input:
        # The tables are read, but what they say of other scans changes nothing here. `statuses` are of the shard's own.
        scans=ancient(get_index),
        qc=ancient(f"{RESULTS}/preproc/qc.tsv"),
        statuses=get_statuses_of_shard,
        model=MODEL,
    output:
        latents=directory(f"{RESULTS}/latents/shards/{{shard}}-of-{{shards}}.zarr"),
    log:
        f"{RESULTS}/logs/encode_scans/{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/encode_scans/{{shard}}-of-{{shards}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        identity=IDENTITY,
        bundle=BUNDLE,
        # By these a scan that was preprocessed can be used, or not.
        quality=config["quality"],
        code=lambda wildcards: code_fingerprint("encode_scans"),
    message:
        "Encoding shard {wildcards.shard} of {wildcards.shards}"
    script:
        "../scripts/encode_scans.py"


rule collect_latents:
    input:
        scans=ancient(get_index),
        qc=f"{RESULTS}/preproc/qc.tsv",
        shards=get_encoded_shards,
    output:
        latents=directory(f"{RESULTS}/latents/latents.zarr"),
    log:
        f"{RESULTS}/logs/collect_latents.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_latents.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=lambda wildcards: code_fingerprint("collect_latents"),
    message:
        "Gathering the latents of all scans"
    script:
        "../scripts/collect_latents.py"


rule archive_codes:
    input:
        scans=ancient(get_index),
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=MODEL,
        latents=rules.collect_latents.output.latents,
    output:
        codes=directory(f"{RESULTS}/latents/codes.zarr"),
    log:
        f"{RESULTS}/logs/archive_codes.log",
    benchmark:
        f"{RESULTS}/benchmarks/archive_codes.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        code=lambda wildcards: code_fingerprint("archive_codes"),
    message:
        "Archiving the codes of all scans"
    script:
        "../scripts/archive_codes.py"


rule latents:
    input:
        rules.collect_latents.output,
