"""Every usable scan's latent, in one zarr store."""


rule encode_scans:
    input:
        scans=f"{RESULTS}/cohort/scans.tsv",
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


rule latents:
    input:
        rules.encode_scans.output,
