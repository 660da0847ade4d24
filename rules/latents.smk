"""Every usable scan's latent, in one zarr store."""


rule encode_scans:
    input:
        scans=ancient(get_index),
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=MODEL,
    output:
        latents=directory(f"{RESULTS}/latents/latents.zarr"),
    log:
        f"{RESULTS}/logs/encode_scans.log",
    benchmark:
        f"{RESULTS}/benchmarks/encode_scans.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        identity=IDENTITY,
        bundle=BUNDLE,
        code=lambda wildcards: code_fingerprint("encode_scans"),
    message:
        "Encoding all scans"
    script:
        "../scripts/encode_scans.py"


rule archive_codes:
    input:
        scans=ancient(get_index),
        qc=f"{RESULTS}/preproc/qc.tsv",
        model=MODEL,
        latents=rules.encode_scans.output.latents,
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
        rules.encode_scans.output,
