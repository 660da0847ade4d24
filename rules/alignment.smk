"""Where each scan's anatomy lies: its deformation to the template, one job a scan; one that fails says so."""


rule align_scan:
    input:
        status=rules.preprocess_scan.output.status,
    output:
        # The only declared output: a scan that failed has a status, but no deformation to promise.
        status=f"{RESULTS}/preproc/alignment/{{scan}}.json",
    log:
        f"{RESULTS}/logs/align_scan/{{scan}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/align_scan/{{scan}}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        # 0.8 GB and 15 s at 2 mm, 1.6 GB and two minutes at 1 mm.
        mem_mb=lambda wildcards, attempt: (2500 if config["preprocess"]["voxel_mm"] >= 1 else 6000) * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        preproc_dir=subpath(output.status, ancestor=2),
        work_dir=WORK,
        template=config["template"],
        voxel_mm=config["preprocess"]["voxel_mm"],
        code=lambda wildcards: code_fingerprint("align_scan"),
    message:
        "Aligning {wildcards.scan}"
    script:
        "../scripts/align_scan.py"
